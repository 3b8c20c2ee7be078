"""What a training run came to, epoch by epoch and start by start, in files beside its checkpoints.

checkpoints/<name>/<key>/run/epoch-00001.json    an epoch, with its anomalies; written anew where it is trained again
checkpoints/<name>/<key>/run/start-00000480.json  workers that began to train after that step; the newest such
checkpoints/<name>/<key>/run/failure.json        what the newest start failed with; empty where it did not
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from cluster.layout import Layout
from cluster.storage import Storage
from jobs.anomalies import Anomaly
from jobs.fit import EpochReport


@dataclass(frozen=True)
class LoggedEpoch:
    """An epoch as it was written."""

    report: EpochReport
    anomalies: tuple[Anomaly, ...]


@dataclass(frozen=True)
class Start:
    """Workers that began to train."""

    step: int
    """That they went on from."""
    layout: Layout
    nodes: tuple[str, ...]
    """Where each rank stands."""
    why: str = ""
    """They have this layout and no other; empty where it was never in question."""


_EPOCH = TypeAdapter(LoggedEpoch)
_START = TypeAdapter(Start)


class RunLog:
    """The files of one run."""

    def __init__(self, storage: Storage, checkpoints: str) -> None:
        """`checkpoints` is the folder of the run's checkpoints."""
        self._storage, self._folder = storage, f"{checkpoints}/run"

    def add(self, report: EpochReport, anomalies: Sequence[Anomaly]) -> None:
        """Write an epoch."""
        content = asdict(LoggedEpoch(report, tuple(anomalies)))
        self._storage.write(f"{self._folder}/epoch-{report.epoch:05d}.json", json.dumps(content).encode())

    def add_start(self, start: Start) -> None:
        """Write who begins to train."""
        self._storage.write(f"{self._folder}/start-{start.step:08d}.json", _START.dump_json(start))

    def set_failure(self, told: str) -> None:
        """Write what a run failed with; nothing, where it begins anew."""
        self._storage.write(f"{self._folder}/failure.json", json.dumps(told).encode())

    def failure(self) -> str:
        """What the newest start failed with; empty where it did not."""
        found = ""
        for path in self._paths("failure"):
            found = json.loads(self._storage.read(path))
        return found

    def epochs(self) -> list[LoggedEpoch]:
        """All that were written, in order."""
        return [_EPOCH.validate_python(json.loads(self._storage.read(path))) for path in self._paths("epoch-")]

    def starts(self) -> list[Start]:
        """In the order of their steps; of those that went on from the same step the newest."""
        return [_START.validate_json(self._storage.read(path)) for path in self._paths("start-")]

    def _paths(self, prefix: str) -> list[str]:
        if not self._storage.exists(self._folder):
            return []
        names = sorted(str(info.path).rsplit("/", 1)[1] for info in self._storage.files(self._folder))
        return [f"{self._folder}/{name}" for name in names if name.startswith(prefix)]
