import math

import optuna
import pytest

from jobs.search.space import sample
from jobs.spec import Choices, RangeSpec

SPACE: dict[str, Choices | RangeSpec] = {
    "train.optimizer.learning_rate": RangeSpec(low=1e-4, high=1e-1, log=True),
    "workload.dropout": RangeSpec(low=0.1, high=0.5),
    "train.batch_size": [128, 256, 512],
    "train.schedule": ["constant", "cosine"],
    "train.some_switch": [True, False],
}
NUM_TRIALS = 200


def drawn(space: dict[str, Choices | RangeSpec], seed: int = 0) -> list[dict[str, object]]:
    """The points of a random study of Optuna, each as it hands it on."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    points = []
    for _ in range(NUM_TRIALS):
        trial = study.ask()
        sample(trial, space)
        points.append(dict(trial.params))
    return points


@pytest.fixture(scope="module")
def points() -> list[dict[str, object]]:
    return drawn(SPACE)


def test_every_point_has_a_value_for_every_dotted_key_and_no_more(points: list[dict[str, object]]) -> None:
    assert all(point.keys() == SPACE.keys() for point in points)


@pytest.mark.parametrize("key", ["train.batch_size", "train.schedule", "train.some_switch"])
def test_a_list_is_covered_and_its_values_keep_their_type(points: list[dict[str, object]], key: str) -> None:
    choices = SPACE[key]
    assert isinstance(choices, list)
    assert {(type(point[key]), point[key]) for point in points} == {(type(value), value) for value in choices}


@pytest.mark.parametrize("key", ["train.optimizer.learning_rate", "workload.dropout"])
def test_a_range_is_kept_and_reached_at_both_ends(points: list[dict[str, float]], key: str) -> None:
    span = SPACE[key]
    assert isinstance(span, RangeSpec)
    values = [point[key] for point in points]
    assert span.low <= min(values) < span.low * 1.5
    assert span.high / 1.5 < max(values) <= span.high


def test_a_log_range_is_drawn_evenly_in_the_logarithm(points: list[dict[str, float]]) -> None:
    exponents = [math.log10(point["train.optimizer.learning_rate"]) for point in points]
    for decade in (-4, -3, -2):
        share = sum(decade <= exponent < decade + 1 for exponent in exponents) / NUM_TRIALS
        assert share == pytest.approx(1 / 3, abs=0.12)


def test_a_plain_range_is_drawn_evenly(points: list[dict[str, float]]) -> None:
    low_half = sum(point["workload.dropout"] < 0.3 for point in points) / NUM_TRIALS
    assert low_half == pytest.approx(0.5, abs=0.12)


def test_a_study_of_the_same_seed_draws_the_same_points(points: list[dict[str, object]]) -> None:
    assert drawn(SPACE) == points
    assert drawn(SPACE, seed=1) != points


def test_nothing_is_returned_beside_the_trials_own_values() -> None:
    study = optuna.create_study()
    assert sample(study.ask(), SPACE) == {}
