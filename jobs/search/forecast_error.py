"""forecast error: how far what was measured lay from what was foreseen of it, over the searches so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

from jobs.search.trial import LayoutTrial, Trial

FEWEST_FOR_RANK = 3
"""Layouts of a search; two are in order or not by chance."""


@dataclass(frozen=True)
class Checked:
    """What was foreseen of a trial beside what it took; each is None where one of the two is not known."""

    kind: Literal["layout", "trial"]
    predicted_bytes: int | None
    peak_bytes: int | None
    """Of the fullest worker."""
    predicted_step_s: float | None
    step_s: float | None


def checked_layout(trial: LayoutTrial) -> Checked | None:
    """Of a layout; None where it was not measured, or nothing was foreseen of it."""
    if not trial.step_s or trial.predicted_bytes is None or trial.predicted_step_s is None:
        return None
    peak = max(trial.peak_bytes)
    return Checked("layout", trial.predicted_bytes, peak, trial.predicted_step_s, trial.median_s)


def checked_trial(trial: Trial, is_cpu: bool) -> Checked | None:
    """Of a point of the space, by its last epoch: the first one has what is slow once.

    On a CPU the memory is left out: what an epoch tells there is the process, with all that is loaded into it.
    """
    step_s = trial.curve[-1].get("step_s") if trial.curve else None
    if not step_s or trial.predicted_bytes is None or trial.predicted_step_s is None:
        return None
    if is_cpu:
        return Checked("trial", None, None, trial.predicted_step_s, step_s)
    peak = int(trial.curve[-1]["peak_bytes"])
    return Checked("trial", trial.predicted_bytes, peak, trial.predicted_step_s, step_s)


@dataclass(frozen=True)
class ForecastError:
    """Over all that was measured; memory and time are what was measured to what was foreseen."""

    num_layouts: int
    num_trials: int
    num_searches: int
    memory: tuple[float, float] | None
    """Relative: in the median, and the one farthest from 0. Above 0, it took more than was foreseen."""
    time: tuple[float, float, float] | None
    """Ratios: in the median, the least and the most. Above 1, it was slower than was foreseen."""
    rank: float | None
    """How well layouts of one search come in the order of their forecasts, from -1 to 1; None for want of layouts."""

    def line(self) -> str:
        """In a line."""
        counts = ((self.num_layouts, "layout"), (self.num_trials, "trial"))
        of_what = " and ".join(_counted(count, what) for count, what in counts if count)
        parts = []
        if self.memory:
            parts.append(f"memory {self.memory[0]:+.0%} (worst {self.memory[1]:+.0%})")
        if self.time:
            parts.append("time x{:.2f} ({:.2f} to {:.2f})".format(*self.time))
        if self.rank is not None:
            parts.append(f"rank {self.rank:.2f}")
        searches = f"{self.num_searches} search{'es' if self.num_searches > 1 else ''}"
        return f"{of_what} of {searches}, measured to foreseen: {', '.join(parts)}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def forecast_error(searches: Sequence[Sequence[Checked]]) -> ForecastError | None:
    """Of what each search has measured; None where that is nothing."""
    searches = [search for search in searches if search]
    every = [each for search in searches for each in search]
    if not every:
        return None
    layouts = [[each for each in search if each.kind == "layout"] for search in searches]
    num_layouts = sum(map(len, layouts))
    return ForecastError(
        num_layouts, len(every) - num_layouts, len(searches), _memory(every), _time(every), _rank(layouts)
    )


def _memory(every: Sequence[Checked]) -> tuple[float, float] | None:
    errors = [
        each.peak_bytes / each.predicted_bytes - 1
        for each in every
        if each.peak_bytes is not None and each.predicted_bytes
    ]
    return (median(errors), max(errors, key=abs)) if errors else None


def _time(every: Sequence[Checked]) -> tuple[float, float, float] | None:
    ratios = [each.step_s / each.predicted_step_s for each in every if each.step_s and each.predicted_step_s]
    return (median(ratios), min(ratios), max(ratios)) if ratios else None


def _rank(searches: Sequence[Sequence[Checked]]) -> float | None:
    """The mean of the searches' correlations, weighted by their layouts.

    Trials over a space are left out, as they are not chosen by their time.
    """
    found = []
    for search in searches:
        times = [(each.predicted_step_s, each.step_s) for each in search if each.predicted_step_s and each.step_s]
        correlation = _spearman(np.array(times, float)) if len(times) >= FEWEST_FOR_RANK else None
        if correlation is not None:
            found.append((correlation, len(times)))
    total = sum(count for _, count in found)
    return sum(correlation * count for correlation, count in found) / total if found else None


def _spearman(pairs: np.ndarray) -> float | None:
    """The correlation of the ranks of two columns (Spearman, 1904); None where all of one are alike."""
    below = (pairs[:, None] > pairs[None]).sum(1)
    ranks = below + (pairs[:, None] == pairs[None]).sum(1) / 2
    centred = ranks - ranks.mean(0)
    scale = np.sqrt((centred**2).sum(0).prod())
    return float(centred.prod(1).sum() / scale) if scale else None
