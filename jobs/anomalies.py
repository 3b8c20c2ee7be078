"""Anomalies of a training run: what is out of order, since which step, and what to try.

Pure: it is shown one epoch after another and keeps what it needs of them.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from jobs.fit import EpochReport
from jobs.spec import EarlyStoppingSpec

Kind = Literal[
    "bad rows",
    "divergence",
    "spike",
    "plateau",
    "over-fit",
    "under-fit",
    "ended early",
    "starved input",
    "leaked label",
]
OF_FALLING_LOSS: tuple[Kind, ...] = ("spike", "plateau", "over-fit", "under-fit")
"""What says nothing where players take turns: the loss of one falls where that of the other rises."""
WINDOW = 50
"""Steps before one that it is compared with."""
FEW = 5
"""Fewer steps than these say nothing of what is usual."""
RISEN = 3.0
"""So many times the loss of before is no noise."""
BURST = 10.0
"""So many times the first loss, within the first few steps, is no beginning."""
SPREADS = 10.0
"""So many median absolute deviations above the median is a spike, where it has risen too."""
STALL = 0.3
"""Share of the time without rows that is worth a word."""
STILL = 1e-3
"""Of the loss: less change than that over `STILL_EPOCHS` is none."""
STILL_EPOCHS = 3
WORSE_EPOCHS = 2
BETTER = 0.01
"""Of the watched metric: so much in the last epoch, and there is more to get."""
LEARNED = 0.95
"""A last loss above this share of the first epoch's has hardly fallen."""
PERFECT = 1e-3
"""How near the best possible value a validation metric may come before it is too good."""


@dataclass(frozen=True)
class Anomaly:
    """One thing that is out of order."""

    kind: Kind
    step: int
    """From 1 on: where it was seen, or since when."""
    seen: str
    advice: str

    def line(self) -> str:
        """One line for the log."""
        return f"warning: {self.kind} at step {self.step}: {self.seen}. {self.advice}"


class Watch:
    """What was seen of a run so far; each kind is told once."""

    def __init__(self, rule: EarlyStoppingSpec, lower_is_better: frozenset[str], untold: Iterable[Kind] = ()) -> None:
        """`untold` are kinds that are none in this run."""
        self._rule, self._lower_is_better = rule, lower_is_better
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._first: float | None = None
        self._epochs: list[EpochReport] = []
        self._told: set[Kind] = set(untold)

    def see(self, epoch: EpochReport) -> list[Anomaly]:
        """What this epoch shows that was not told before."""
        self._epochs.append(epoch)
        found = self._of_steps(epoch.step - len(epoch.step_losses), epoch.step_losses)
        if math.isfinite(epoch.loss):
            found += [each for each in (self._starved(), self._leaked(), self._still(), self._over_fit()) if each]
            found += [each for each in (self._under_fit(),) if each]
        new = [each for each in found if each.kind not in self._told]
        self._told |= {each.kind for each in new}
        return new

    def _of_steps(self, before: int, losses: Sequence[float]) -> list[Anomaly]:
        found: list[Anomaly] = []
        for step, loss in enumerate(losses, before + 1):
            usual = median(self._recent) if len(self._recent) >= FEW else None
            if not math.isfinite(loss):
                return [*found, self._not_finite(step, loss, usual)]
            if usual is not None and loss > max(RISEN * usual, usual + SPREADS * _spread(self._recent)):
                found.append(self._risen(step, loss, usual))
            elif usual is None and self._first is not None and loss > BURST * self._first:
                seen = f"the loss is {loss:.4g}, and began at {self._first:.4g}"
                found.append(Anomaly("divergence", step, seen, _SLOWER))
            self._recent.append(loss)
            self._first = loss if self._first is None else self._first
        if self._first is not None and len(self._recent) >= FEW and median(self._recent) > RISEN * self._first:
            seen = f"the loss is {median(self._recent):.4g}, and began at {self._first:.4g}"
            found = [Anomaly("divergence", before + len(losses), seen, _SLOWER)]
        return found

    def _not_finite(self, step: int, loss: float, usual: float | None) -> Anomaly:
        last = self._recent[-1] if self._recent else math.inf
        if usual is not None and last <= RISEN * usual:
            seen = f"the loss is {loss} though the steps before were as usual, around {usual:.4g}"
            return Anomaly(
                "bad rows",
                step,
                seen,
                "A value among the rows of this step is likely not finite: look at the columns in the report of "
                "prepare, and give them checks or impute them",
            )
        return Anomaly("divergence", step, f"the loss is {loss}, after {last:.4g} in the step before", _SLOWER)

    def _risen(self, step: int, loss: float, usual: float) -> Anomaly:
        return Anomaly(
            "spike",
            step,
            f"the loss is {loss:.4g}, around {usual:.4g} before",
            "Where it comes back there is no harm; else try train.max_gradient_norm=1, a longer train.warmup or a "
            "lower train.optimizer.learning_rate, and look for odd rows",
        )

    def _starved(self) -> Anomaly | None:
        epoch = self._epochs[-1]
        if epoch.stall <= STALL:
            return None
        return Anomaly(
            "starved input",
            epoch.step,
            f"training stood still for {epoch.stall:.0%} of epoch {epoch.epoch}, waiting for rows",
            "Give the cluster more CPUs for reading, bring the storage nearer, or give a train.shuffle_rows that holds "
            "all rows, which are then read once",
        )

    def _leaked(self) -> Anomaly | None:
        epoch = self._epochs[-1]
        for name, value in epoch.metrics.items():
            if abs(value - (0.0 if name in self._lower_is_better else 1.0)) <= PERFECT:
                return Anomaly(
                    "leaked label",
                    epoch.step,
                    f"{name} on the validation rows is {value:.4f} after epoch {epoch.epoch}, too good for most data",
                    "A column may hold the label, or rows may be on both sides of the split: python -m jobs.prepare "
                    "report SPEC lists columns that tell it, prepare.split={by: group, column: X} keeps the rows of "
                    "each X together",
                )
        return None

    def _still(self) -> Anomaly | None:
        if len(self._epochs) <= STILL_EPOCHS:
            return None
        since, last = self._epochs[-1 - STILL_EPOCHS], self._epochs[-1]
        if abs(last.loss - since.loss) > STILL * abs(since.loss):
            return None
        return Anomaly(
            "plateau",
            since.step,
            f"the loss has stood still at {last.loss:.4g} for {STILL_EPOCHS} epochs",
            "Another train.optimizer.learning_rate, a larger model, or fewer epochs",
        )

    def _over_fit(self) -> Anomaly | None:
        recent = self._epochs[-1 - WORSE_EPOCHS :]
        if len(recent) <= WORSE_EPOCHS:
            return None
        values = [epoch.metrics[self._rule.metric] for epoch in recent]
        is_learning = all(later.loss < earlier.loss for earlier, later in pairwise(recent))
        is_worse = all(self._is_better(earlier, later) for earlier, later in pairwise(values))
        if not (is_learning and is_worse):
            return None
        return Anomaly(
            "over-fit",
            recent[0].step,
            f"{self._rule.metric} on the validation rows got worse from {values[0]:.4f} to {values[-1]:.4f} while the "
            f"training loss fell from {recent[0].loss:.4g} to {recent[-1].loss:.4g}",
            "More rows, workload.dropout, a higher train.optimizer.weight_decay, a smaller model, or a shorter "
            "train.early_stopping.patience; the best epoch is the one that is published",
        )

    def _under_fit(self) -> Anomaly | None:
        first, last = self._epochs[0], self._epochs[-1]
        if last.epoch < last.num_epochs or len(self._epochs) < 2:
            return None
        if last.loss > LEARNED * first.loss:
            return Anomaly(
                "under-fit",
                last.step,
                f"the loss of the last epoch is {last.loss:.4g}, of the first one {first.loss:.4g}",
                "A higher train.optimizer.learning_rate, a larger model, other columns; are the labels right?",
            )
        before, now = (epoch.metrics[self._rule.metric] for epoch in self._epochs[-2:])
        if last.is_best and abs(now - before) > BETTER * abs(before):
            return Anomaly(
                "ended early",
                last.step,
                f"{self._rule.metric} went from {before:.4f} to {now:.4f} in the last epoch",
                f"More than train.num_epochs={last.num_epochs} would make it better still",
            )
        return None

    def _is_better(self, one: float, other: float) -> bool:
        return one > other if self._rule.mode == "max" else one < other


_SLOWER = "Try a train.optimizer.learning_rate ten times lower, train.max_gradient_norm=1, or a longer train.warmup"


def _spread(values: Iterable[float]) -> float:
    """The median absolute deviation."""
    given = list(values)
    middle = median(given)
    return median(abs(value - middle) for value in given)
