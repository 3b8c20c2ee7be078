import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.search.plan import Ancestor
from jobs.search.population import (
    Rule,
    ends_of,
    explored,
    first_values,
    is_through,
    lineage,
    next_stints,
    score,
    sources_of,
    with_stint,
)
from jobs.search.trial import Outcome, Stint, Trial
from jobs.spec import ChoicesSpec, RangeSpec, load_ring

ROOT = Path(__file__).parents[3]
RULE = Rule(
    {
        "rate": RangeSpec(low=0.001, high=0.1, log=True),
        "schedule": ["constant", "cosine"],
        "warmup": ChoicesSpec(choices=[0.1, 0.2, 0.3], when={"schedule": ["cosine"]}),
    },
    {"rate": 0.01, "schedule": "constant", "warmup": 0.0},
    seed=3,
    metric="score",
    mode="max",
)


def member(number: int, value: float | None, outcome: Outcome = "finished") -> Trial:
    """After a generation of two epochs; one without a value failed in the second."""
    values = first_values(RULE, number)
    points = [{"num_epochs": epoch, "step": 10 * epoch, "score": value or 0.1} for epoch in (1, 2)]
    curve = tuple(points if value is not None else points[:1])
    return Trial(number, values, {}, curve=curve, outcome=outcome, stints=(Stint(0, 0, number, values),))


def population(*values: float | None) -> dict[int, Trial]:
    return {
        number: member(number, value, "finished" if value is not None else "diverged")
        for number, value in enumerate(values)
    }


def sources(scores: list[float | None], mode: str = "max") -> dict[int, int]:
    return sources_of(dict(enumerate(scores)), mode, {number: Random(number) for number in range(len(scores))})


@pytest.mark.parametrize(
    ("num_epochs", "every", "ends"), [(6, 2, [2, 4, 6]), (5, 2, [2, 4, 5]), (2, 5, [2]), (3, 1, [1, 2, 3])]
)
def test_the_last_generation_ends_with_the_search(num_epochs: int, every: int, ends: list[int]) -> None:
    assert ends_of(num_epochs, every) == ends


def test_a_member_begins_with_values_of_its_own_that_any_process_draws_alike() -> None:
    firsts = [first_values(RULE, number) for number in range(20)]
    assert len({values["rate"] for values in firsts}) == 20
    assert {"warmup" in values for values in firsts} == {True, False}
    assert all(("warmup" in values) == (values["schedule"] == "cosine") for values in firsts)
    code = "from tests.jobs.search.test_population import *; print(first_values(RULE, 7))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == str(firsts[7])


@given(st.integers(0, 10**6))
def test_values_move_a_little_and_stay_in_the_space(seed: int) -> None:
    old = {"rate": 0.05, "schedule": "cosine", "warmup": 0.2}
    new = explored(RULE, old, Random(seed))
    assert 0.001 <= float(new["rate"]) <= 0.1
    assert ("warmup" in new) == (new["schedule"] == "cosine")
    assert explored(RULE, old, Random(seed)) == new


def test_most_values_are_changed_and_some_drawn_anew() -> None:
    rates = [float(explored(RULE, {"rate": 0.05}, Random(seed))["rate"]) for seed in range(400)]
    changed = [rate for rate in rates if rate == pytest.approx(0.04) or rate == pytest.approx(0.06)]
    assert 0.7 < len(changed) / 400 < 0.8


@pytest.mark.parametrize(
    ("scores", "mode", "takers", "best"),
    [
        ([0.1, 0.2], "max", {0}, {1}),
        ([0.1, 0.2], "min", {1}, {0}),
        ([0.3, 0.1, 0.4, 0.2, 0.5, 0.6, 0.8, 0.7], "max", {1, 3}, {6, 7}),
        ([0.3, 0.1, 0.4, 0.2, 0.5, 0.6, 0.8, 0.7], "min", {6, 7}, {1, 3}),
        ([None, 0.1, 0.2, 0.3], "max", {0}, {3}),
        ([None, None, 0.2, None], "max", {0, 1, 3}, {2}),
        ([0.5, 0.5, 0.5, 0.5], "max", {3}, {0}),
    ],
)
def test_the_lowest_quarter_and_whoever_failed_take_over_from_the_best_quarter(
    scores: list[float | None], mode: str, takers: set[int], best: set[int]
) -> None:
    found = sources(scores, mode)
    assert set(found) == takers
    assert set(found.values()) <= best


def test_where_all_failed_or_there_is_but_one_nobody_takes_over() -> None:
    assert sources([None, None]) == {}
    assert sources([0.5]) == {}
    assert next_stints(RULE, population(None, None), 0, 2) == {}


@given(st.lists(st.none() | st.floats(-1, 1), min_size=2, max_size=12))
def test_nobody_takes_over_from_one_that_takes_over_or_failed(scores: list[float | None]) -> None:
    found = sources(scores)
    assert not set(found) & set(found.values())
    assert all(scores[source] is not None for source in found.values())
    failed = {number for number, value in enumerate(scores) if value is None}
    assert not found or failed <= set(found)
    assert bool(found) == (len(failed) < len(scores))


def test_a_decision_is_the_same_whichever_members_have_begun_the_next_generation() -> None:
    members = population(0.3, 0.5, None, 0.4, 0.1)
    stints = next_stints(RULE, members, 0, 2)
    assert {number: stint.source for number, stint in stints.items()} == {0: 0, 1: 1, 2: 1, 3: 3, 4: 4}
    assert stints[2].values != stints[1].values == members[1].values
    assert {stint.step for stint in stints.values()} == {20}
    for number in members:
        members[number] = with_stint(members[number], stints[number])
        assert next_stints(RULE, members, 0, 2) == stints


def test_who_takes_over_begins_as_one_that_never_failed() -> None:
    failed = replace(
        member(0, 0.4, "died"), best=0.4, said="gone", num_deaths=4
    )  # told of an epoch, left no checkpoint
    stint = Stint(2, 20, 1, {"rate": 0.02})
    after = with_stint(failed, stint)
    assert (after.values, after.outcome, after.said, after.num_deaths, after.best) == (
        {"rate": 0.02},
        "under way",
        "",
        0,
        None,
    )
    assert [point["num_epochs"] for point in after.curve] == [1]
    assert (after.step, after.took_over) == (20, 2)
    assert score(failed, 0, 2, "score") is score(after, 0, 2, "score") is None


def test_who_goes_on_keeps_all() -> None:
    one = member(0, 0.4)
    assert with_stint(one, Stint(2, 20, 0, one.values)) == replace(
        one, stints=(*one.stints, Stint(2, 20, 0, one.values))
    )


@pytest.mark.parametrize(
    ("trial", "through"),
    [
        (member(0, 0.4), True),
        (member(0, 0.4, "under way"), False),  # its last checkpoint may not be written
        (member(0, None, "diverged"), True),
        (replace(member(0, None, "died"), num_deaths=3), False),
        (replace(member(0, None, "died"), num_deaths=4), True),
        (replace(member(0, None, "under way"), stints=(Stint(0, 0, 0, {}), Stint(2, 20, 1, {}))), True),
        (Trial(0, {}, {}, stints=(Stint(0, 0, 0, {}),)), False),
    ],
)
def test_a_member_is_through_when_it_finished_or_failed_for_good(trial: Trial, through: bool) -> None:
    assert is_through(trial, 0, 2, 3) is through


def test_a_metric_that_is_no_number_is_the_worst() -> None:
    assert score(member(0, float("nan")), 0, 2, "score") is None
    assert score(member(0, 0.25), 0, 2, "score") == 0.25


def test_the_lineage_follows_the_weights_back() -> None:
    values = [{"rate": float(number)} for number in range(4)]
    zero = Trial(0, {}, {}, stints=(Stint(0, 0, 0, values[0]), Stint(2, 20, 0, values[0]), Stint(4, 40, 1, values[3])))
    one = Trial(1, {}, {}, stints=(Stint(0, 0, 1, values[1]), Stint(2, 20, 0, values[2]), Stint(4, 40, 1, values[2])))
    assert lineage({0: zero, 1: one}, 0) == (
        Ancestor(0, 0, values[0]),
        Ancestor(2, 1, values[2]),
        Ancestor(4, 0, values[3]),
    )
    assert lineage({0: zero, 1: one}, 1) == (Ancestor(0, 0, values[0]), Ancestor(2, 1, values[2]))


def test_the_rule_is_that_of_the_spec() -> None:
    spec = load_ring(ROOT / "jobs/specs/recommender.yaml", ["storage=/nowhere", "seed=5"])
    rule = Rule.of(spec)
    assert (rule.seed, rule.metric, rule.mode) == (5, spec.train.early_stopping.metric, spec.train.early_stopping.mode)
    assert set(rule.space) == set(spec.tune.space)
