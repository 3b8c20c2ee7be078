import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.features.moments import merge_moments, moments, moments_table

FINITE = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=40)
CUTS = st.lists(st.integers(0, 40), max_size=4)


@settings(max_examples=200)
@given(FINITE)
def test_count_sum_and_squares_are_exact(values: list[float]) -> None:
    found = moments(moments_table(np.array(values)))
    exact = [Fraction(value) for value in values]
    assert (found.count, found.total, found.squares) == (len(exact), sum(exact), sum(v * v for v in exact))


@settings(max_examples=100)
@given(FINITE, CUTS, st.randoms(use_true_random=False))
def test_parts_in_any_order_and_grouping_give_the_same_table(
    values: list[float], cuts: list[int], shuffle: "np.random.Generator"
) -> None:
    parts = [moments_table(part) for part in np.split(np.array(values), sorted(min(c, len(values)) for c in cuts))]
    shuffle.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged = merge_moments([merged, part])
    assert merged.equals(moments_table(np.array(values)))


@settings(max_examples=100)
@given(st.lists(st.floats(-1e150, 1e150), min_size=1, max_size=40))
def test_mean_and_deviation_are_the_exact_ones_rounded(values: list[float]) -> None:
    found, exact = moments(moments_table(np.array(values))), [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    variance = sum((value - mean) ** 2 for value in exact) / len(exact)
    assert found.mean == float(mean)
    assert found.variance == float(variance)
    low, high = Fraction(math.nextafter(found.sd, 0)), Fraction(math.nextafter(found.sd, math.inf))
    assert low**2 <= variance <= high**2


def test_numbers_far_from_0_beside_their_spread_keep_their_deviation() -> None:
    found = moments(moments_table(np.array([1e15 + 1, 1e15 + 2, 1e15 + 3])))
    assert found.mean == 1e15 + 2
    assert found.sd == pytest.approx(math.sqrt(2 / 3), rel=1e-15)


def test_no_numbers_have_a_mean_and_deviation_of_0() -> None:
    found = moments(moments_table(np.array([])))
    assert (found.count, found.mean, found.variance, found.sd) == (0, 0.0, 0.0, 0.0)


def test_further_columns_keep_sums_apart() -> None:
    parts = [
        moments_table(np.array(values)).append_column("group", [[group] * len(moments_table(np.array(values)))])
        for group, values in ((0, [1.0, 2.0]), (1, [10.0]), (0, [6.0]))
    ]
    merged = merge_moments(parts, by=("group",)).to_pylist()
    counts = {row["group"]: row["low"] for row in merged if row["what"] == 0}
    assert counts == {0: 3, 1: 1}


@settings(max_examples=50)
@given(FINITE)
def test_without_squares_count_and_sum_are_the_same(values: list[float]) -> None:
    found, full = (moments(moments_table(np.array(values), squares=squares)) for squares in (False, True))
    assert (found.count, found.total, found.squares) == (full.count, full.total, 0)
