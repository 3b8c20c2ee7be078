"""What Optuna and ASHA know of a search: built anew from its trials, so that a search goes on where it was."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.schedulers import ASHAScheduler

from jobs.search.space import Space, distribution
from jobs.search.trial import Trial

STUDY = "search"
NUMBER = "number"
"""Under which a trial that is begun again keeps its number."""
Mode = Literal["max", "min"]
SEEDS_A_SEARCH = 100_003
"""More than a search has trials, so that those of neighbouring seeds stay apart."""


NUM_AT_RANDOM = 5
"""Trials before what is known counts, half of Optuna's own: with the few trials of a search it saves a few."""
GRACE_EPOCHS = 2
"""Before which no trial is stopped, unless it has no more: a first epoch tells little, and what is stopped for it
misleads the sampler too."""


class Sampler(BaseSampler):
    """TPE whose draws for a trial follow from its number and from what is known: of no trial that was drawn before.

    So a search that goes on draws what it would have drawn. One generator for all would draw its first values again.
    """

    def __init__(self, seed: int, num_skipped: int) -> None:
        """`num_skipped` is how much higher a trial's number is than the study has it."""
        self._seed, self._num_skipped = seed, num_skipped
        self._of: tuple[int, TPESampler] | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Called by Optuna, as the other two: what is drawn at once."""
        return self._own(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What is drawn at once."""
        return self._own(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """What is drawn key by key, which is all where keys have conditions."""
        return self._own(trial).sample_independent(study, trial, param_name, param_distribution)

    def _own(self, trial: FrozenTrial) -> TPESampler:
        number = trial.number + self._num_skipped
        if self._of is None or self._of[0] != number:
            seed = (self._seed * SEEDS_A_SEARCH + number) % 2**32
            self._of = number, TPESampler(seed=seed, n_startup_trials=NUM_AT_RANDOM)
        return self._of[1]


def study_of(known: Sequence[Trial], opened: Sequence[Trial], space: Space, metric: str, mode: Mode) -> InMemoryStorage:
    """A storage of Optuna with the `STUDY` in which known trials are told and open ones wait to be asked for."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it says that there is a study
    storage = InMemoryStorage()
    direction = StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE
    study = optuna.create_study(storage=storage, study_name=STUDY, direction=direction)
    for trial in known:
        if trial in opened:
            continue
        state = _state(trial)
        study.add_trial(
            create_trial(
                state=state,
                value=trial.curve[-1][metric] if state == TrialState.COMPLETE else None,
                params=trial.values,
                distributions={key: distribution(space[key]) for key in trial.values},
                intermediate_values={int(point["num_epochs"]): point[metric] for point in trial.curve},
            )
        )
    for trial in opened:
        study.enqueue_trial(trial.values, user_attrs={NUMBER: trial.number})
    return storage


def sampler_of(seed: int, known: Sequence[Trial]) -> Sampler:
    """What draws for the trials after those that are known."""
    return Sampler(seed, _num_skipped(known))


def number_of(asked: Any, known: Sequence[Trial]) -> int:
    """The number of a trial that the study was asked for: its own where it is begun again, else the next."""
    return int(asked.user_attrs.get(NUMBER, asked.number + _num_skipped(known)))


def _num_skipped(known: Sequence[Trial]) -> int:
    """How many numbers below the highest are of no known trial: one that was drawn but never begun is drawn anew."""
    return max((trial.number for trial in known), default=-1) + 1 - len(known)


def asha_of(known: Sequence[Trial], metric: str, mode: Mode, num_epochs: int) -> ASHAScheduler:
    """ASHA, having seen every epoch of these trials."""
    grace = GRACE_EPOCHS if num_epochs > GRACE_EPOCHS else 1
    scheduler = ASHAScheduler(
        time_attr="num_epochs", metric=metric, mode=mode, max_t=num_epochs, grace_period=grace, reduction_factor=2
    )
    controller: Any = None  # ASHA asks it nothing
    for trial in known:
        seen: Any = SimpleNamespace(trial_id=f"known-{trial.number}")
        scheduler.on_trial_add(controller, seen)
        for point in trial.curve:
            scheduler.on_trial_result(controller, seen, point)
        if trial.curve:
            scheduler.on_trial_complete(controller, seen, trial.curve[-1])
    return scheduler


def _state(trial: Trial) -> TrialState:
    if trial.outcome in ("finished", "stopped") and trial.curve:
        return TrialState.COMPLETE
    return TrialState.PRUNED if trial.outcome == "diverged" else TrialState.FAIL
