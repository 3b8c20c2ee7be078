"""What each stage's output was made of: so unchanged work is skipped, and changed work says what changed.

An output's folder is named by a digest of its inputs: the data it reads, the spec sections it depends on and the
revision of its code. Hence a folder is never out of date, and finding it is all there is to skipping a stage.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cluster.errors import DataError
from cluster.registry import Registry
from cluster.storage import Storage
from jobs.revision import code_revision
from jobs.spec import RingSpec, event_columns, item_columns, sections, transform_of
from jobs.start import start_of
from jobs.step_files import file_digests
from jobs.teacher import teacher_of
from jobs.workloads import WORKLOADS

LONGEST_VALUE = 40
"""Characters of a value in a message about what changed."""


@dataclass(frozen=True)
class Inputs:
    """All that one stage's output depends on."""

    data: str
    """A fingerprint of the data that the stage reads."""
    spec: dict[str, Any]
    """The spec sections it depends on."""
    code: str
    """The revision of its code."""

    @property
    def key(self) -> str:
        """The digest that names the output."""
        return _digest([self.data, self.spec, self.code])

    def as_manifest(self) -> dict[str, Any]:
        """What a manifest keeps of them."""
        return {"inputs": {"data": self.data, "spec": self.spec, "code": self.code}, "key": self.key}


@dataclass(frozen=True)
class Made:
    """What a stage's `run` returns."""

    stage: str
    folder: str
    """Where the output lies, relative to the storage; empty where there is none."""
    ran: bool
    why: str
    """Why it ran, or why it did not have to."""
    summary: str = ""
    """What came out, in a line or a small table."""


def prepare_inputs(spec: RingSpec, storage: Storage) -> Inputs:
    """Inputs of `prepared/`: the raw files, and how they are read, checked, split and fitted.

    Of the workload only what its rows need counts, so that a search over models shares the prepared rows.
    """
    root = storage.path("")
    files = [
        (path.removeprefix(root), size, time)
        for source in (spec.raw.events, spec.raw.items)
        if source
        for path, size, time in raw_files(storage, source.path)
    ]
    workload = WORKLOADS[spec.workload.kind]
    wanted: dict[str, Any] = {
        "events": [asdict(column) for column in event_columns(spec)],
        "items": [asdict(column) for column in item_columns(spec)],
        "steps": [step.settings() for step in workload.steps(spec.workload)],
        "workload": {key: getattr(spec.workload, key) for key in ("kind", *workload.unfolds_by)},
    }
    given = sections(spec, "raw", "prepare")
    del given["prepare"]["in_process_bytes"]  # where the work is done changes no row
    read = file_digests(transform_of(spec))
    if read:
        wanted["step_files"] = read
    return Inputs(_digest(files), {**given, **wanted}, code_revision("jobs.prepare"))


def tune_inputs(spec: RingSpec, storage: Storage) -> Inputs:
    """Inputs of `plans/`: the prepared rows, the search and what it starts from.

    Of a search over layouts also what else their speed depends on.
    """
    given = _numerics(spec, storage, "seed", "workload", "train", "tune")
    if spec.tune.layouts is not None:
        given |= {"compile": spec.layout.compile, **sections(spec, "placement")}
    del given["tune"]["workers"]  # on how many a trial is trained changes no loss
    return Inputs(prepare_inputs(spec, storage).key, given, code_revision("jobs.tune"))


def train_inputs(spec: RingSpec, storage: Storage, weights: str = "") -> Inputs:
    """Inputs of `checkpoints/` and of a version: prepared rows and the spec with the plan's values in it.

    Args:
        weights: what tells those of the plan that training goes on from, if any, from others; see `Plan.weights_key`.
    """
    given = _numerics(spec, storage, "seed", "workload", "train")
    if weights:
        given["weights"] = weights
    return Inputs(prepare_inputs(spec, storage).key, given, code_revision("jobs.train"))


def _numerics(spec: RingSpec, storage: Storage, *names: str) -> dict[str, Any]:
    """The named sections, and of the layout its precision alone: the loss depends on nothing else of it.

    So a run can stop on one layout and go on with another. A teacher counts by its version, which an alias may change,
    and so does what training starts from.
    """
    teacher, start = teacher_of(spec, storage), start_of(spec, storage)
    taught_by = {"teacher": teacher.version} if teacher else {}
    started_from = {"start": start.key()} if start else {}
    given = sections(spec, *names)
    for key in ("max_failures", "collective_timeout_s", "elastic", "mlflow"):
        del given["train"][key]  # how much a run survives, on how many workers, or who hears of it, changes no loss
    return {**given, "precision": spec.layout.precision, **taught_by, **started_from}


def prepared_folder(spec: RingSpec, storage: Storage) -> str:
    """The prepared rows that this spec and the raw data of this moment ask for.

    Raises:
        DataError: they have not been prepared.
    """
    folder = f"prepared/{spec.name}/{prepare_inputs(spec, storage).key}"
    if not storage.is_published(folder):
        why = why_new(storage, f"prepared/{spec.name}", prepare_inputs(spec, storage))
        raise DataError(
            f"nothing is prepared for this spec and data in '{storage.uri}' ({why}); run first: "
            "python -m jobs.prepare SPEC"
        )
    return folder


def made_of(registry: Registry, key: str) -> str | None:
    """The newest version that was made of the inputs with this key."""
    made = [name for name in registry.versions() if registry.manifest(name)["key"] == key]
    return made[-1] if made else None


def why_new(storage: Storage, parent: str, inputs: Inputs) -> str:
    """Why no folder below `parent` has these inputs: what differs from the newest one."""
    manifests = [storage.manifest(f"{parent}/{name}") for name in storage.folders(parent)]
    manifests = [manifest for manifest in manifests if "inputs" in manifest and "parent" not in manifest]
    if not manifests:
        return "first run"
    newest = max(manifests, key=lambda manifest: str(manifest["created_at"]))["inputs"]
    changes = ["data changed"] if newest["data"] != inputs.data else []
    changes += [f"spec changed: {change}" for change in _differences(newest["spec"], inputs.spec)]
    changes += ["code changed"] if newest["code"] != inputs.code else []
    return "; ".join(changes) or "its output is gone"


def raw_files(storage: Storage, path: str) -> list[tuple[str, int, int]]:
    """Path, bytes and time of change (ns) of every file at or below `path`.

    Raises:
        DataError: there is none, or all are empty.
    """
    if not storage.exists(path):
        raise DataError(
            f"raw data '{path}' does not exist in '{storage.uri}'; put files there (CSV, JSON lines, Parquet and "
            "others), or name another place: raw.events.path=..., raw.items.path=..., storage=..."
        )
    files = [(str(info.path), int(info.size), int(info.mtime_ns or 0)) for info in storage.files(path)]
    if not any(size for _, size, _ in files):
        raise DataError(f"raw data '{path}' in '{storage.uri}' is empty: {len(files)} files, 0 bytes")
    return files


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            change for key in keys for change in _differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return _differences(dict(enumerate(old)), dict(enumerate(new)), path)
    return [] if old == new else [f"{path} {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
