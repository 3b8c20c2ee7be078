"""The second phase of a search: trials over the space, drawn by Optuna, the weak ones stopped early by ASHA.

What is known of each is in the search's book, so a search whose driver was killed goes on: trials that were under way
go on from their last checkpoints.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ray.tune.search.optuna import OptunaSearch

from jobs.search.space import in_order, own_values, sample
from jobs.search.study import NUMBER, STUDY, asha_of, number_of, sampler_of, study_of
from jobs.search.trial import Trial, is_open, values_of
from jobs.space_trials import make_trials
from jobs.trial_run import NOT_TRIED, Search, config_of, foreseen, values_in
from jobs.trial_watch import TrialWatch


def quality_trials(search: Search) -> list[Trial]:
    """Make all trials of the search, going on with those that are known.

    Raises:
        KeyboardInterrupt: the search was interrupted; called again, it goes on.
    """
    while True:
        known = search.trials()
        opened = [trial for trial in known if is_open(trial, search.spec.train.max_failures)]
        num_left = len(opened) + max(search.spec.tune.num_trials - len(known), 0)
        if not num_left:
            return known
        _make(search, known, opened, num_left)
        if _was_interrupted(search, known):
            raise KeyboardInterrupt


def _make(search: Search, known: list[Trial], opened: list[Trial], num_left: int) -> None:
    """Let Ray Tune make the trials that are left."""
    spec, rule = search.spec, search.spec.train.early_stopping
    by_number = {trial.number: trial for trial in known}
    ended = [trial for trial in known if trial not in opened]

    def begun(config: dict[str, Any]) -> Trial:
        number = config[NUMBER]
        layout = values_of(search.workers_of(number).layout)  # which may have changed where it is begun again
        trial = by_number.get(number, Trial(number, values_in(config), layout))
        why = config.get(NOT_TRIED, "")
        return replace(trial, layout=layout, outcome="under way", said=why, **foreseen(config))

    searcher = OptunaSearch(
        partial(_propose, search=search, known=known),
        metric=rule.metric,
        mode=rule.mode,
        sampler=sampler_of(spec.seed, known),
        storage=study_of(known, opened, in_order(spec.tune.space), rule.metric, rule.mode),
        study_name=STUDY,
    )
    scheduler = asha_of(ended, rule.metric, rule.mode, spec.tune.num_epochs)
    watch = TrialWatch(
        search.book, begun, rule.metric, rule.mode, spec.tune.num_epochs, spec.tune.num_trials, len(ended)
    )
    make_trials(search, opened, searcher, scheduler, num_left, watch)


def _propose(asked: Any, search: Search, known: Sequence[Trial]) -> dict[str, Any]:
    """What a trial that Optuna is asked for has, beside the values that are drawn here. Ray pickles what calls it."""
    space, own = in_order(search.spec.tune.space), own_values(search.spec)
    return config_of(search, number_of(asked, known), sample(asked, space, own))


def _was_interrupted(search: Search, before: Sequence[Trial]) -> bool:
    """Whether Ray Tune came back with trials under way, or has begun none of those that were left."""
    now = search.trials()
    return any(trial.outcome == "under way" for trial in now) or now == list(before)
