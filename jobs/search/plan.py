"""Plan: the values that a search found best, and how it found them.

plans/<name>/<key>/plan.json
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluster.storage import Storage

Values = dict[str, bool | int | float | str]
PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class Trial:
    """One point of the space that was tried."""

    values: Values
    best: float | None
    """Of the metric, over its epochs; None where it failed."""
    num_epochs: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Dotted keys of the spec with the values to train with."""

    values: Values
    metric: str
    best: float
    trials: tuple[Trial, ...]

    def line(self) -> str:
        """The plan in a line."""
        return f"{show_values(self.values)} ({self.metric} {self.best:.4f}, best of {len(self.trials)} trials)"


def show_values(values: Mapping[str, Any]) -> str:
    """Values as the overrides that give them, rounded."""
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values.items()}
    return " ".join(f"{key}={value}" for key, value in shown.items())


def plan_folder(name: str, key: str) -> str:
    """Where the plan with these inputs lies."""
    return f"plans/{name}/{key}"


def write_plan(storage: Storage, folder: str, plan: Plan, manifest: Mapping[str, Any]) -> None:
    """Publish a plan."""
    with TemporaryDirectory() as scratch:
        (Path(scratch) / PLAN_FILE).write_text(json.dumps(asdict(plan), indent=1))
        storage.publish(Path(scratch), folder, manifest)


def read_plan(storage: Storage, name: str, key: str) -> Plan | None:
    """The plan with these inputs, if it was searched."""
    folder = plan_folder(name, key)
    if not storage.is_published(folder):
        return None
    content = json.loads(storage.read(f"{folder}/{PLAN_FILE}"))
    trials = tuple(Trial(**trial) for trial in content.pop("trials"))
    return Plan(**content, trials=trials)
