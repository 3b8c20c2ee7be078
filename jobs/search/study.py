"""What Optuna and ASHA know of a search: built anew from its trials, so that a search goes on where it was."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

import optuna
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from ray.tune.schedulers import ASHAScheduler

from jobs.search.space import Space, distribution
from jobs.search.trial import Trial

STUDY = "search"
NUMBER = "number"
"""Under which a trial that is begun again keeps its number."""
Mode = Literal["max", "min"]
SEEDS_A_SEARCH = 100_003
"""More than a search has trials; a prime, so that those of neighbouring seeds stay apart."""


def study_of(known: Sequence[Trial], opened: Sequence[Trial], space: Space, metric: str, mode: Mode) -> InMemoryStorage:
    """A storage of Optuna with the `STUDY` in which known trials are told and open ones wait to be asked for."""
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


def sampler_of(seed: int, known: Sequence[Trial]) -> TPESampler:
    """Draws on; the sampler of the same seed would draw once more what it drew first."""
    return TPESampler(seed=seed if not known else seed + SEEDS_A_SEARCH * len(known))


def number_of(asked: Any, known: Sequence[Trial]) -> int:
    """The number of a trial that the study was asked for: its own where it is begun again, else the next."""
    first = max((trial.number for trial in known), default=-1) + 1
    return int(asked.user_attrs.get(NUMBER, asked.number + first - len(known)))


def asha_of(known: Sequence[Trial], metric: str, mode: Mode, num_epochs: int) -> ASHAScheduler:
    """ASHA, having seen every epoch of these trials."""
    scheduler = ASHAScheduler(
        time_attr="num_epochs", metric=metric, mode=mode, max_t=num_epochs, grace_period=1, reduction_factor=2
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
