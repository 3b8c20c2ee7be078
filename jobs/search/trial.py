"""What came of one trial of a search: of a point of the space, and of a layout that was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

from cluster.layout import Layout
from jobs.search.space import Values

Outcome = Literal["under way", "finished", "stopped", "diverged", "out of memory", "failed", "died", "not tried"]
"""`stopped` by ASHA; `died` is of a killed process or node, and tried again; `not tried` for want of memory."""
Point = dict[str, float]
"""Of an epoch by name: `num_epochs`, `step`, `train_loss`, `step_s`, `peak_bytes` and every validation metric."""


@dataclass(frozen=True)
class Stint:
    """What a member of a population trains in one generation."""

    epoch: int
    """After which it begins."""
    step: int
    """Of that epoch's end."""
    source: int
    """Whose weights it begins with: its own number, but where it took over another member's."""
    values: Values


@dataclass(frozen=True)
class Trial:
    """One point of the space; with population-based training a member, and `values` are those that it has now."""

    number: int
    values: Values
    layout: Values
    """That it trained on: every key that is not the default."""
    predicted_bytes: int | None = None
    """By the forecast, on the fullest rank."""
    predicted_step_s: float | None = None
    curve: tuple[Point, ...] = ()
    """Its epochs so far."""
    best: float | None = None
    """Of the metric, over its epochs, since it last took over another's weights; None where it came to none."""
    outcome: Outcome = "under way"
    said: str = ""
    """Why, where it did not come to its end."""
    num_starts: int = 0
    """Also those after a kill of the driver."""
    device_s: float = 0.0
    """Seconds that it held devices for, times how many."""
    stints: tuple[Stint, ...] = ()
    """Of a member, one a generation that it has begun."""
    rates: str = ""
    """That it was foreseen by."""
    num_deaths: int = 0
    """Of its workers; of a member, in this generation."""

    @property
    def num_epochs(self) -> int:
        """How many it was trained for."""
        return int(self.curve[-1]["num_epochs"]) if self.curve else 0

    @property
    def step(self) -> int:
        """After which it goes on."""
        trained = int(self.curve[-1]["step"]) if self.curve else 0
        return max(trained, self.stints[-1].step) if self.stints else trained

    @property
    def took_over(self) -> int:
        """The epoch after which it last took over another's weights; 0 where it never did."""
        return max((stint.epoch for stint in self.stints if stint.source != self.number), default=0)

    def with_point(self, point: Point, metric: str, mode: str) -> "Trial":
        """The same after one more epoch; an epoch that is known already, as after a restart, changes nothing."""
        if point["num_epochs"] <= self.num_epochs:
            return self
        value = point[metric]
        best = value if self.best is None else max(self.best, value) if mode == "max" else min(self.best, value)
        return replace(self, curve=(*self.curve, point), best=best)


@dataclass(frozen=True)
class LayoutTrial:
    """One layout, measured in a few steps."""

    layout: Values
    """Every key that is not the default."""
    predicted_bytes: int | None = None
    predicted_step_s: float | None = None
    step_s: tuple[float, ...] = ()
    """Of each step that was timed."""
    peak_bytes: tuple[int, ...] = ()
    """By rank."""
    outcome: Outcome = "under way"
    said: str = ""
    num_starts: int = 0
    device_s: float = 0.0
    rates: str = ""
    num_deaths: int = 0

    @property
    def median_s(self) -> float:
        """Of a step; there is one."""
        ordered = sorted(self.step_s)
        return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


T = TypeVar("T", Trial, LayoutTrial)


def as_json(trial: Trial | LayoutTrial) -> dict[str, Any]:
    """As plain data."""
    return asdict(trial)


def from_json(kind: type[T], content: Mapping[str, Any]) -> T:
    """The inverse of `as_json`, of what JSON has made of it."""
    kept: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    if "stints" in kept:
        kept["stints"] = tuple(Stint(**stint) for stint in kept["stints"])
    return kind(**kept)


def values_of(layout: Layout) -> Values:
    """A layout by its keys that are not the default."""
    return dict(layout.model_dump(mode="json", exclude_defaults=True))


def layout_of(values: Mapping[str, Any]) -> Layout:
    """The inverse of `values_of`."""
    return Layout.model_validate(dict(values))


def is_open(trial: Trial | LayoutTrial, max_failures: int) -> bool:
    """Whether it is to be begun, or begun again: it is under way, or died and may do so once more."""
    return trial.outcome == "under way" or (trial.outcome == "died" and trial.num_deaths <= max_failures)


def memory_limit(trials: Sequence[Trial | LayoutTrial]) -> int | None:
    """What another trial must be predicted to stay below: the least that one was predicted that ran out of memory."""
    known = [trial.predicted_bytes for trial in trials if trial.outcome == "out of memory" and trial.predicted_bytes]
    return min(known, default=None)


def why_not_tried(predicted_bytes: int | None, trials: Sequence[Trial | LayoutTrial]) -> str:
    """Why a trial with this forecast is left out; empty where it is not."""
    limit = memory_limit(trials)
    if limit is None or predicted_bytes is None or predicted_bytes < limit:
        return ""
    return (
        f"predicted to need {predicted_bytes / 2**30:.2f} GiB a worker, and one that was predicted "
        f"{limit / 2**30:.2f} GiB ran out of memory"
    )
