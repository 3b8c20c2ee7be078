import math
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest

from cluster.errors import SpecError
from jobs.search.space import distribution, examples, holds, in_order, listed, moved, own_values, sample, show
from jobs.search.space import drawn as drawn_from
from jobs.spec import ChoicesSpec, Dimension, RangeSpec, load_ring

SHIPPED = Path(__file__).parents[3] / "jobs/specs/recommender.yaml"
SPACE: dict[str, Dimension] = {
    "train.optimizer.learning_rate": RangeSpec(low=1e-4, high=1e-1, log=True),
    "workload.dropout": RangeSpec(low=0.1, high=0.5),
    "train.batch_size": [128, 256, 512],
    "train.schedule": ["constant", "cosine"],
    "train.some_switch": [True, False],
}
NUM_TRIALS = 200


def drawn(space: dict[str, Dimension], seed: int = 0, own: dict[str, Any] | None = None) -> list[dict[str, object]]:
    """The points of a random study of Optuna, each as it hands it on."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    points = []
    for _ in range(NUM_TRIALS):
        trial = study.ask()
        point = sample(trial, space, own or {})
        assert point == trial.params
        points.append(dict(point))
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


MOMENTUM = "train.optimizer.momentum"
CONDITIONAL: dict[str, Dimension] = {
    MOMENTUM: RangeSpec(low=0.5, high=0.9, when={"train.optimizer.name": ["sgd"]}),
    "train.optimizer.name": ["adamw", "sgd"],
    "train.nesterov": ChoicesSpec(choices=[1, 2], when={MOMENTUM: [0.9], "train.optimizer.name": ["sgd"]}),
    "train.rows": RangeSpec(low=1, high=4, integer=True),
}


def test_a_key_is_drawn_only_where_its_condition_holds() -> None:
    space = {key: CONDITIONAL[key] for key in CONDITIONAL if key != "train.nesterov"}
    points = drawn(in_order(space))
    assert {point["train.optimizer.name"] for point in points} == {"adamw", "sgd"}
    assert all((MOMENTUM in point) == (point["train.optimizer.name"] == "sgd") for point in points)


def test_a_condition_on_a_key_that_is_not_searched_is_judged_by_the_spec() -> None:
    space: dict[str, Dimension] = {MOMENTUM: CONDITIONAL[MOMENTUM]}
    assert all(MOMENTUM in point for point in drawn(space, own={"train.optimizer.name": "sgd"}))
    assert not any(MOMENTUM in point for point in drawn(space, own={"train.optimizer.name": "adam"}))


def test_keys_come_after_those_that_their_conditions_speak_of() -> None:
    assert [*in_order(CONDITIONAL)] == ["train.optimizer.name", MOMENTUM, "train.nesterov", "train.rows"]
    circle: dict[str, Dimension] = {
        "a": ChoicesSpec(choices=[1], when={"b": [1]}),
        "b": ChoicesSpec(choices=[1], when={"a": [1]}),
    }
    with pytest.raises(SpecError, match="the conditions of a, b wait for each other"):
        in_order(circle)


def test_whole_numbers_are_drawn_as_such_with_both_ends() -> None:
    values = [point["train.rows"] for point in drawn({"train.rows": CONDITIONAL["train.rows"]})]
    assert {(type(value), value) for value in values} == {(int, number) for number in (1, 2, 3, 4)}


def test_each_key_has_examples_with_what_its_condition_asks_for() -> None:
    assert [(key, values) for key, values in examples(CONDITIONAL) if key in (MOMENTUM, "train.nesterov")] == [
        (MOMENTUM, {"train.optimizer.name": "sgd", MOMENTUM: 0.5}),
        (MOMENTUM, {"train.optimizer.name": "sgd", MOMENTUM: 0.9}),
        ("train.nesterov", {"train.optimizer.name": "sgd", MOMENTUM: 0.9, "train.nesterov": 1}),
        ("train.nesterov", {"train.optimizer.name": "sgd", MOMENTUM: 0.9, "train.nesterov": 2}),
    ]


def test_what_the_spec_says_of_every_key_is_known() -> None:
    momentum = "{low: 0.1, high: 0.9, when: {train.schedule: [linear]}}"
    space = f"tune.space={{train.batch_size: [64], train.optimizer.momentum: {momentum}}}"
    assert own_values(load_ring(SHIPPED, ["storage=/nowhere", space])) == {
        "train.batch_size": 512,
        "train.optimizer.momentum": 0.9,
        "train.schedule": "cosine",
    }


@pytest.mark.parametrize("dimension", [*SPACE.values(), *CONDITIONAL.values()])
def test_what_optuna_is_told_of_a_known_trial_holds_what_is_drawn(dimension: Dimension) -> None:
    kind = distribution(dimension)
    for value in listed(dimension):
        assert kind._contains(kind.to_internal_repr(value))


def test_a_dimension_is_shown_in_a_few_words() -> None:
    assert show(SPACE["train.optimizer.learning_rate"]) == "0.0001 to 0.1, in the logarithm"
    assert show(CONDITIONAL[MOMENTUM]) == "0.5 to 0.9, where train.optimizer.name is sgd"
    assert show(CONDITIONAL["train.rows"]) == "whole numbers from 1 to 4"
    assert show(RangeSpec(low=2, high=8, integer=True, step=2)) == "whole numbers from 2 to 8 by 2"
    assert show([1, 2]) == "1, 2"


def test_of_whole_numbers_all_are_looked_at_or_many_evenly_between_the_ends() -> None:
    assert listed(RangeSpec(low=2, high=8, integer=True, step=2)) == [2, 4, 6, 8]
    many = listed(RangeSpec(low=1, high=10_000, integer=True))
    assert (many[0], many[-1]) == (1, 10_000)
    assert 200 < len(many) <= 257
    assert all(type(value) is int for value in many)


def test_a_condition_holds_where_all_its_keys_have_one_of_their_values() -> None:
    dimension = ChoicesSpec(choices=[1], when={"a": [1, 2], "b": ["x"]})
    assert holds(dimension, {"a": 2, "b": "x"})
    assert not holds(dimension, {"a": 3, "b": "x"})
    assert holds([1], {})


SEARCHED: list[Dimension] = [
    RangeSpec(low=0.1, high=0.5),
    RangeSpec(low=1e-4, high=1e-1, log=True),
    RangeSpec(low=64, high=512, integer=True, step=64),
    RangeSpec(low=1, high=100, integer=True, log=True),
    ["constant", "cosine", "linear"],
    ChoicesSpec(choices=[True, False]),
]


@pytest.mark.parametrize("dimension", SEARCHED, ids=show)
def test_what_is_drawn_or_moved_is_in_the_space(dimension: Dimension) -> None:
    allowed = distribution(dimension)
    value = drawn_from(dimension, Random(0))
    for seed in range(300):
        for one in (drawn_from(dimension, Random(seed)), moved(dimension, value, Random(seed))):
            assert allowed._contains(allowed.to_internal_repr(one))
            assert type(one) is type(value)
        value = one


def test_drawn_values_reach_both_ends() -> None:
    assert {drawn_from(RangeSpec(low=2, high=8, integer=True, step=3), Random(seed)) for seed in range(50)} == {2, 5, 8}
    logs = [float(drawn_from(RangeSpec(low=1e-4, high=1e-1, log=True), Random(seed))) for seed in range(300)]
    assert 0.28 < sum(value < 1e-3 for value in logs) / 300 < 0.39


@pytest.mark.parametrize(
    ("dimension", "value", "neighbours"),
    [
        (RangeSpec(low=0.1, high=1), 0.5, {0.4, 0.6}),
        (RangeSpec(low=0.1, high=1), 0.9, {0.72, 1.0}),
        (RangeSpec(low=0.1, high=1, log=True), 0.1, {0.1, 0.12}),
        (RangeSpec(low=1, high=9, integer=True), 2, {1, 3}),
        (RangeSpec(low=1, high=100, integer=True, log=True), 50, {40, 60}),
        (RangeSpec(low=64, high=512, integer=True, step=64), 128, {64, 192}),
        (RangeSpec(low=0, high=4, integer=True), 0, {0, 1}),
        (["a", "b", "c"], "b", {"a", "c"}),
        (["a", "b", "c"], "c", {"b", "c"}),
    ],
)
def test_a_value_moves_by_a_fifth_or_to_its_neighbour(dimension: Dimension, value: Any, neighbours: set[Any]) -> None:
    found = {moved(dimension, value, Random(seed)) for seed in range(30)}
    assert {each if isinstance(each, str) else round(float(each), 9) for each in found} == neighbours
