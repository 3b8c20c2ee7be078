"""What Optuna and ASHA know after a search has gone on, beside what they would have known had it not stopped."""

from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from jobs.search.study import STUDY, asha_of, number_of, sampler_of, study_of
from jobs.search.trial import Outcome, Trial
from jobs.spec import Dimension, RangeSpec

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE: dict[str, Dimension] = {"rate": RangeSpec(low=0.0, high=1.0), "size": [1, 2]}


def trial(number: int, scores: list[float], outcome: Outcome = "finished") -> Trial:
    curve = tuple({"num_epochs": float(epoch + 1), "score": score} for epoch, score in enumerate(scores))
    return Trial(number, {"rate": number / 10, "size": 1}, {}, curve=curve, outcome=outcome)


KNOWN = [
    trial(0, [0.1, 0.2]),
    trial(1, [0.3], "stopped"),
    trial(2, [], "diverged"),
    trial(4, [0.5], "under way"),
    trial(5, [], "out of memory"),
]


def loaded(known: list[Trial], opened: list[Trial], sampler: Any = None) -> optuna.Study:
    return optuna.load_study(study_name=STUDY, storage=study_of(known, opened, SPACE, "score", "max"), sampler=sampler)


def test_known_trials_are_told_with_their_last_value() -> None:
    study = loaded(KNOWN, [KNOWN[3]])
    assert [(each.state, each.value) for each in study.trials] == [
        (TrialState.COMPLETE, 0.2),
        (TrialState.COMPLETE, 0.3),
        (TrialState.PRUNED, None),
        (TrialState.FAIL, None),
        (TrialState.WAITING, None),
    ]
    assert study.best_value == 0.3
    assert study.trials[0].intermediate_values == {1: 0.1, 2: 0.2}


def test_an_open_trial_is_asked_for_first_with_its_number_and_values() -> None:
    study = loaded(KNOWN, [KNOWN[3]])
    again, fresh, other = study.ask(), study.ask(), study.ask()
    assert again.suggest_float("rate", 0.0, 1.0) == 0.4
    assert [number_of(asked, KNOWN) for asked in (again, fresh, other)] == [4, 6, 7]


def test_a_fresh_search_counts_from_0_on() -> None:
    study = loaded([], [])
    assert [number_of(study.ask(), []) for _ in range(3)] == [0, 1, 2]


def draw(study: optuna.Study, known: list[Trial]) -> Trial:
    """A trial as it is made one after the other; its score follows from its values."""
    asked = study.ask()
    values = {"rate": asked.suggest_float("rate", 0.0, 1.0), "size": asked.suggest_categorical("size", [1, 2])}
    score = float(values["rate"] - values["size"])
    study.tell(asked, score)
    curve = ({"num_epochs": 1.0, "score": score},)
    return Trial(number_of(asked, known), values, {}, curve=curve, outcome="finished")


def test_a_search_that_goes_on_draws_what_it_would_have_drawn() -> None:
    undisturbed = loaded([], [], sampler_of(1, []))
    expected = [draw(undisturbed, []) for _ in range(24)]  # TPE goes by what is known from the sixth on
    for stop in (1, 12, 20):
        known = expected[:stop]
        study = loaded(known, [], sampler_of(1, known))
        assert [draw(study, known) for _ in range(24 - stop)] == expected[stop:]


def test_another_seed_draws_other_values() -> None:
    one, other = (draw(loaded([], [], sampler_of(seed, [])), []).values for seed in (1, 2))
    assert one != other


def judged(known: list[Trial], num_epochs: int, epoch: int, score: float) -> str:
    """What ASHA says of a new trial at an epoch."""
    scheduler = asha_of(known, "score", "max", num_epochs)
    controller, seen = Any, SimpleNamespace(trial_id="new")
    scheduler.on_trial_add(controller, seen)
    return str(scheduler.on_trial_result(controller, seen, {"num_epochs": epoch, "score": score}))


@pytest.mark.parametrize(("score", "action"), [(0.05, TrialScheduler.STOP), (0.4, TrialScheduler.CONTINUE)])
def test_asha_judges_by_the_epochs_of_known_trials(score: float, action: str) -> None:
    assert judged(KNOWN[:3], 4, 2, score) == action
    assert judged(KNOWN[:3], 2, 1, score) == action


def test_a_first_epoch_is_judged_only_where_there_are_but_two() -> None:
    assert judged(KNOWN[:3], 4, 1, 0.05) == TrialScheduler.CONTINUE


def test_asha_that_knows_nothing_lets_all_go_on() -> None:
    assert judged([], 4, 2, 0.0) == TrialScheduler.CONTINUE
