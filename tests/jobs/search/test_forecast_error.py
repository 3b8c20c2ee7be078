"""How far forecasts were off, beside NumPy's and SciPy's own words for it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jobs.search.forecast_error import Checked, checked_layout, checked_trial, forecast_error
from jobs.search.trial import LayoutTrial, Trial

GIB = 2**30


def layout(predicted: float, taken: float, kind: str = "layout") -> Checked:
    return Checked(kind, int(predicted * GIB), int(taken * GIB), predicted, taken)  # type: ignore[arg-type]


pairs = st.tuples(st.sampled_from([0.5, 1.0, 2.0, 3.0]), st.floats(0.1, 10.0))
"""Foreseen, often alike, and taken."""


@given(st.lists(st.lists(pairs, min_size=1, max_size=8), min_size=1, max_size=4))
def test_it_is_what_numpy_and_scipy_say(searches: list[list[tuple[float, float]]]) -> None:
    found = forecast_error([[layout(*pair) for pair in search] for search in searches])
    every = np.array([pair for search in searches for pair in search])
    ratios = every[:, 1] / every[:, 0]
    assert found is not None
    assert (found.num_layouts, found.num_trials, found.num_searches) == (len(every), 0, len(searches))
    assert found.time == pytest.approx([np.median(ratios), ratios.min(), ratios.max()])
    assert found.memory is not None
    assert found.memory[0] == pytest.approx(np.median(ratios - 1), abs=1e-6)
    assert abs(found.memory[1]) == pytest.approx(np.abs(ratios - 1).max(), abs=1e-6)
    columns = [np.array(search).T for search in searches if len(search) >= 3]
    ranked = [(x, y) for x, y in columns if len(set(x)) > 1 and len(set(y)) > 1]
    if not ranked:
        assert found.rank is None
        return
    each = [stats.spearmanr(x, y).statistic for x, y in ranked]
    assert found.rank == pytest.approx(np.average(each, weights=[len(x) for x, _ in ranked]))


def test_searches_that_each_have_the_right_order_are_in_order_whatever_their_sizes() -> None:
    small, large = [layout(1, 9), layout(2, 10), layout(3, 11)], [layout(10, 1), layout(20, 2), layout(30, 3)]
    found = forecast_error([small, large])
    assert found is not None
    assert found.rank == pytest.approx(1)


def test_it_is_told_in_a_line() -> None:
    layouts = [layout(1, 1.08), layout(2, 2.6), layout(4, 3.6)]
    found = forecast_error([layouts, [Checked("trial", None, None, 2.0, 2.0)], []])
    assert found is not None
    assert found.line() == (
        "3 layouts and 1 trial of 2 searches, measured to foreseen: memory +8% (worst +30%), "
        "time x1.04 (0.90 to 1.30), rank 1.00"
    )
    alone = forecast_error([[Checked("trial", None, None, 2.0, 3.0)]])
    assert alone is not None
    assert alone.line() == "1 trial of 1 search, measured to foreseen: time x1.50 (1.50 to 1.50)"


def test_where_nothing_was_measured_there_is_nothing_to_tell() -> None:
    assert forecast_error([]) is None
    assert forecast_error([[], []]) is None


def test_a_layout_counts_by_its_fullest_worker_and_its_median_step() -> None:
    measured = LayoutTrial({}, 100, 0.5, (0.3, 0.9, 0.4), (90, 110), "finished", rates="abc")
    assert checked_layout(measured) == Checked("layout", 100, 110, 0.5, 0.4)
    assert checked_layout(LayoutTrial({}, 100, 0.5, outcome="out of memory")) is None
    assert checked_layout(LayoutTrial({}, None, None, (0.3,), (90,), "finished")) is None


def test_a_trial_counts_by_its_last_epoch_and_on_a_cpu_by_its_time_alone() -> None:
    curve = ({"step_s": 0.9, "peak_bytes": 100.0}, {"step_s": 0.6, "peak_bytes": 120.0})
    trial = Trial(0, {}, {}, 100, 0.5, curve)
    assert checked_trial(trial, is_cpu=False) == Checked("trial", 100, 120, 0.5, 0.6)
    assert checked_trial(trial, is_cpu=True) == Checked("trial", None, None, 0.5, 0.6)
    assert checked_trial(Trial(0, {}, {}, 100, 0.5), is_cpu=False) is None
    assert checked_trial(Trial(0, {}, {}, None, None, curve), is_cpu=False) is None
    assert checked_trial(Trial(0, {}, {}, 100, 0.5, ({"step_s": 0.0, "peak_bytes": 1.0},)), is_cpu=False) is None
