import json
from dataclasses import replace
from typing import Any

import pytest

from cluster.layout import Layout
from jobs.search.trial import (
    LayoutTrial,
    Stint,
    Trial,
    as_json,
    from_json,
    is_open,
    layout_of,
    memory_limit,
    values_of,
    why_not_tried,
)

GIB = 2**30


def after(epochs: list[float], mode: str = "max") -> Trial:
    trial = Trial(3, {"train.batch_size": 64}, {"shard": 2}, device_s=10.0)
    for number, value in enumerate(epochs):
        trial = trial.with_point({"num_epochs": number + 1, "step": 10, "score": value}, "score", mode)
    return trial


def out_of_memory(predicted_bytes: int | None) -> Trial:
    return Trial(0, {}, {}, predicted_bytes, outcome="out of memory")


def test_the_best_is_over_all_epochs_in_the_direction_of_the_metric() -> None:
    assert (after([0.1, 0.3, 0.2]).best, after([0.1, 0.3, 0.2], "min").best) == (0.3, 0.1)
    assert after([0.1, 0.3, 0.2]).num_epochs == 3
    assert (after([]).best, after([]).num_epochs) == (None, 0)


def test_an_epoch_that_is_told_again_after_a_restart_changes_nothing() -> None:
    trial = after([0.1, 0.3])
    assert trial.with_point({"num_epochs": 2, "score": 0.9}, "score", "max") == trial


@pytest.mark.parametrize(
    "trial",
    [
        after([0.1, 0.2]),
        replace(after([0.1]), stints=(Stint(0, 0, 3, {"rate": 0.1}), Stint(1, 10, 4, {"rate": 0.2}))),
        LayoutTrial({"tensor": 2}, GIB, 0.25, (0.1, 0.3, 0.2), (1, 2), "finished", "", 1, 3.0),
    ],
)
def test_a_trial_reads_back_from_json(trial: Any) -> None:
    assert from_json(type(trial), json.loads(json.dumps(as_json(trial)))) == trial


@pytest.mark.parametrize(("steps", "median_s"), [((0.3, 0.1, 0.2), 0.2), ((0.4, 0.1, 0.2, 0.3), 0.25)])
def test_the_median_of_the_steps_counts(steps: tuple[float, ...], median_s: float) -> None:
    assert LayoutTrial({}, 0, 0.0, steps).median_s == pytest.approx(median_s)


@pytest.mark.parametrize("layout", [Layout(), Layout(replicate=2, recompute=True, precision="bf16", schedule="gpipe")])
def test_a_layout_is_kept_by_what_is_not_its_default(layout: Layout) -> None:
    assert layout_of(values_of(layout)) == layout
    assert "tensor" not in values_of(layout)


@pytest.mark.parametrize(
    ("outcome", "num_deaths", "opened"),
    [
        ("under way", 0, True),
        ("died", 1, True),
        ("died", 4, False),
        ("finished", 1, False),
        ("out of memory", 1, False),
    ],
)
def test_what_was_under_way_or_died_not_too_often_is_begun_again(outcome: Any, num_deaths: int, opened: bool) -> None:
    assert is_open(Trial(0, {}, {}, outcome=outcome, num_starts=9, num_deaths=num_deaths), 3) is opened


def test_what_is_predicted_to_need_as_much_as_one_that_ran_out_of_memory_is_left_out() -> None:
    trials = [out_of_memory(3 * GIB), out_of_memory(2 * GIB), out_of_memory(None), Trial(1, {}, {}, GIB)]
    assert memory_limit(trials) == 2 * GIB
    assert why_not_tried(2 * GIB - 1, trials) == ""
    assert why_not_tried(None, trials) == ""
    assert why_not_tried(2 * GIB, trials) == (
        "predicted to need 2.00 GiB a worker, and one that was predicted 2.00 GiB ran out of memory"
    )
    assert memory_limit(trials[2:]) is None


def test_a_member_goes_on_from_where_it_trained_to_or_from_what_it_took_over() -> None:
    assert (after([]).step, after([0.1, 0.2]).step) == (0, 10)
    stints = (Stint(0, 0, 3, {}), Stint(2, 20, 4, {}), Stint(4, 40, 3, {}))
    taken = replace(after([0.1]), stints=stints)
    assert (taken.step, taken.took_over) == (40, 2)
    assert (after([0.1]).took_over, replace(taken, stints=stints[:1]).took_over) == (0, 0)
