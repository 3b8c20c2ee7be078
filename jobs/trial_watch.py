"""Ray Tune's trials as the book of a search has them: what Tune tells of each is written down, and said in a line."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.cloudpickle
from ray.tune import Callback

from jobs.failures import Failure, failure_of
from jobs.kernel_kills import has_risen, kernel_kills
from jobs.search.book import Book
from jobs.search.plan import show_values
from jobs.search.trial import Outcome, T, Trial, layout_of, why_not_tried

OUTCOMES: dict[str, Outcome] = {"out of memory": "out of memory", "preemption": "died"}
"""Of kinds of failures; the others are `failed`."""


class KillCount:
    """Tells a process that the kernel killed for want of memory from one that was killed otherwise."""

    def __init__(self) -> None:
        self._seen = kernel_kills()

    def judged(self, trial: T, failure: Failure) -> T:
        """The trial, having ended with this failure."""
        outcome, said = self.judge(failure)
        return replace(trial, outcome=outcome, said=said, num_deaths=trial.num_deaths + (outcome == "died"))

    def judge(self, failure: Failure) -> tuple[Outcome, str]:
        """How a trial with this failure ended, and why."""
        if failure.kind != "preemption":
            return OUTCOMES.get(failure.kind, "failed"), failure.said
        now, before = kernel_kills(), self._seen
        self._seen = now
        if has_risen(before, now):
            return "out of memory", f"the kernel killed a process for want of memory ({failure.said})"
        return "died", failure.said


def error_of(trial: Any) -> BaseException:
    """What a trial of Ray Tune has failed with: it lies in a file of the driver, as an error where that can be."""
    if trial.pickled_error_file and Path(trial.pickled_error_file).exists():
        error: BaseException = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        return error
    told = Path(trial.error_file).read_text() if trial.error_file and Path(trial.error_file).exists() else "unknown"
    return RuntimeError(told)


class TrialWatch(Callback):
    """Of the trials over a space."""

    def __init__(
        self,
        book: Book[Trial],
        begun: Callable[[dict[str, Any]], Trial],
        metric: str,
        mode: str,
        num_epochs: int,
        num_trials: int,
        num_done: int,
        if_short: Outcome = "stopped",
    ) -> None:
        """`begun` makes of a trial's config what is known at its start.

        Args:
            if_short: what a trial is called that ends by itself after fewer than `num_epochs`.
        """
        self._if_short = if_short
        self._book, self._begun = book, begun
        self._metric, self._mode, self._num_epochs = metric, mode, num_epochs
        self._num_trials, self._num_done, self._num_known = num_trials, num_done, num_done
        self._trials: dict[str, Trial] = {}
        self._since: dict[str, float] = {}
        self._started = time.monotonic()
        self._kills = KillCount()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune when a trial has its devices."""
        self._begin(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Called by Ray Tune when an epoch is reported."""
        self._note(trial, self._held(trial).with_point(dict(result["point"]), self._metric, self._mode))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune when a trial comes to its end or is stopped."""
        held = self._held(trial)
        why = held.said or why_not_tried(held.predicted_bytes, [*self._book.read().values()])
        if held.best is None and not held.curve and why:
            self._end(trial, replace(held, outcome="not tried", said=why), f"not tried: {why}")
        elif held.best is None:
            self._end(trial, replace(held, outcome="diverged"), "diverged")
        else:
            outcome: Outcome = "finished" if held.num_epochs >= self._num_epochs else self._if_short
            shown = f"{self._metric} {held.curve[-1][self._metric]:.4f} after {held.num_epochs} epochs"
            self._end(trial, replace(held, outcome=outcome), shown)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune when a trial fails, which may be before it has begun; Tune logs the whole error itself."""
        if trial.trial_id not in self._trials:
            self._begin(trial)
        held = self._kills.judged(self._held(trial), failure_of(error_of(trial)))
        self._end(trial, held, f"{held.outcome}: {held.said}")

    def _begin(self, trial: Any) -> None:
        self._since[trial.trial_id] = time.monotonic()
        begun = self._begun(trial.config)
        self._note(trial, replace(begun, num_starts=begun.num_starts + 1))

    def _held(self, trial: Any) -> Trial:
        """How the trial stands, with what it has taken of devices since it was looked at last."""
        held, now = self._trials[trial.trial_id], time.monotonic()
        taken_s = (now - self._since[trial.trial_id]) * layout_of(held.layout).num_workers
        self._since[trial.trial_id] = now
        return replace(held, device_s=held.device_s + taken_s)

    def _note(self, trial: Any, held: Trial) -> None:
        self._trials[trial.trial_id] = held
        self._book.note(f"{held.number:06d}", held)

    def _end(self, trial: Any, held: Trial, shown: str) -> None:
        self._note(trial, held)
        self._num_done += 1
        each_s = (time.monotonic() - self._started) / max(self._num_done - self._num_known, 1)
        left_s = each_s * max(self._num_trials - self._num_done, 0)
        number = f"trial {self._num_done}/{self._num_trials}"
        print(f"{number}  {show_values(held.values)}  {shown}  {left_s:.0f} s left", flush=True)
