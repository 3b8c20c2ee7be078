"""Plan: the layout and the values that a search found best, and how it found them.

plans/<name>/<key>/plan.json
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluster.spec import with_values
from cluster.storage import Storage
from jobs.search.space import Values
from jobs.search.trial import LayoutTrial, Trial, from_json, layout_of
from jobs.spec import RingSpec

PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class Foreseen:
    """A layout that fits by the forecast; what it says where there is one."""

    layout: Values
    """Every key that is not the default."""
    predicted_bytes: int | None
    predicted_step_s: float | None


@dataclass(frozen=True)
class LeftOut:
    """A layout that was not to choose from."""

    layout: Values
    reason: str


@dataclass(frozen=True)
class Ancestor:
    """Values that the weights of a plan were trained with for a time."""

    epoch: int
    """After which they began to be."""
    member: int
    """Of the population, that trained with them."""
    values: Values


@dataclass(frozen=True)
class Plan:
    """What to train with."""

    values: Values
    """By dotted keys of the spec."""
    metric: str
    best: float | None
    """Of the metric; None where no values were searched."""
    trials: tuple[Trial, ...]
    mode: str = "max"
    layout: Values | None = None
    """Every key that is not the default; None where none was searched, so the spec's stays."""
    why: str = ""
    """In a sentence or two, why these."""
    layouts: tuple[LayoutTrial, ...] = ()
    """Those that were measured, the fastest by the forecast first."""
    ranking: tuple[Foreseen, ...] = ()
    """All that fit, by the forecast."""
    left_out: tuple[LeftOut, ...] = ()
    lineage: tuple[Ancestor, ...] = ()
    """Of the weights of a population that training goes on from; none where it begins anew."""
    num_epochs: int = 0
    """That these weights have been trained for."""
    checkpoint: str = ""
    """The folder of their checkpoints, as of a run."""
    forecast_error: str = ""
    """Over this and all earlier searches by the same rates, in a line; empty where nothing was foreseen."""

    @property
    def device_s(self) -> float:
        """What the search took: seconds times devices."""
        return sum(each.device_s for each in self.layouts) + sum(each.device_s for each in self.trials)

    @property
    def weights_key(self) -> str:
        """What tells the weights that training goes on from, from others; empty where it begins anew."""
        if not self.lineage:
            return ""
        told = [*map(asdict, self.lineage), self.num_epochs]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

    def line(self) -> str:
        """The plan in a line."""
        parts = []
        if self.layout is not None:
            layout = layout_of(self.layout).line()
            parts.append(f"layout {layout} (fastest of {sum(bool(each.step_s) for each in self.layouts)} measured)")
        if self.best is not None:
            among = f"members after {self.num_epochs} epochs" if self.lineage else "trials"
            parts.append(
                f"{show_values(self.values)} ({self.metric} {self.best:.4f}, best of {len(self.trials)} {among})"
            )
        return ", ".join(parts)

    def put_into(self, spec: RingSpec) -> RingSpec:
        """The spec with what was found.

        Raises:
            SpecError: the spec does not take it.
        """
        if self.layout is not None:
            spec = spec.model_copy(update={"layout": layout_of(self.layout)})
        return with_values(spec, self.values)


def show_values(values: Mapping[str, Any]) -> str:
    """Values as the overrides that give them, rounded."""
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values.items()}
    return " ".join(f"{key}={value}" for key, value in shown.items())


def plan_folder(name: str, key: str) -> str:
    """Where the plan with these inputs lies."""
    return f"plans/{name}/{key}"


def as_json(plan: Plan) -> dict[str, Any]:
    """As plain data, with what the search took."""
    return {**asdict(plan), "device_s": plan.device_s}


def write_plan(storage: Storage, folder: str, plan: Plan, manifest: Mapping[str, Any]) -> None:
    """Publish a plan."""
    with TemporaryDirectory() as scratch:
        (Path(scratch) / PLAN_FILE).write_text(json.dumps(as_json(plan), indent=1))
        storage.publish(Path(scratch), folder, manifest)


def read_plan(storage: Storage, name: str, key: str) -> Plan | None:
    """The plan with these inputs, if it was searched."""
    folder = plan_folder(name, key)
    if not storage.is_published(folder):
        return None
    return from_plan_json(json.loads(storage.read(f"{folder}/{PLAN_FILE}")))


def from_plan_json(content: Mapping[str, Any]) -> Plan:
    """The inverse of `as_json`."""
    kept = {key: value for key, value in content.items() if key != "device_s"}
    kept["trials"] = tuple(from_json(Trial, trial) for trial in kept["trials"])
    kept["layouts"] = tuple(from_json(LayoutTrial, trial) for trial in kept["layouts"])
    kept["ranking"] = tuple(Foreseen(**each) for each in kept["ranking"])
    kept["lineage"] = tuple(Ancestor(**each) for each in kept["lineage"])
    kept["left_out"] = tuple(LeftOut(**each) for each in kept["left_out"])
    return Plan(**kept)
