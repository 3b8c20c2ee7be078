import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.features.quantiles import ALL_BITS, counts, counts_table, max_cells, merge_counts

VALUES = st.lists(st.one_of(st.floats(-1e9, 1e9), st.integers(-3, 3).map(float)), min_size=1, max_size=60)
SHARES = st.floats(0, 1)


@settings(max_examples=200)
@given(VALUES, SHARES)
def test_quantiles_of_few_numbers_are_numpys(values: list[float], share: float) -> None:
    found = counts(counts_table(np.array(values)))
    assert found.bits == ALL_BITS
    assert found.relative_error == 0
    assert found.quantile(share) == pytest.approx(
        np.quantile(values, share), rel=1e-12, abs=1e-12 * max(map(abs, values))
    )


@settings(max_examples=200)
@given(VALUES, st.lists(st.integers(0, 60), max_size=4), st.integers(1, 20), st.randoms(use_true_random=False))
def test_parts_in_any_order_and_grouping_keep_the_same_cells(
    values: list[float], cuts: list[int], limit: int, shuffle: "np.random.Generator"
) -> None:
    parts = [
        counts_table(part, limit) for part in np.split(np.array(values), sorted(min(c, len(values)) for c in cuts))
    ]
    shuffle.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged = merge_counts([merged, part], limit)
    assert merged.equals(counts_table(np.array(values), limit), check_metadata=True)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.5, 0.9, 1.0])
def test_beyond_the_limit_a_quantile_is_off_by_less_than_its_stated_error(share: float) -> None:
    values = np.random.default_rng(0).lognormal(3, 2, 50_000)
    found = counts(counts_table(values, 5_000))
    assert len(found.values) <= 5_000
    assert 0 < found.relative_error < 0.01
    exact = np.quantile(values, share)
    assert exact * (1 - found.relative_error) <= found.quantile(share) <= exact


def test_as_many_bits_are_kept_as_the_limit_allows() -> None:
    values = np.random.default_rng(0).normal(size=20_000)
    found = counts(counts_table(values, 1_000))
    finer = np.unique(values.view(np.int64) >> (ALL_BITS - found.bits - 1))
    assert len(found.values) <= 1_000 < len(finer)


def test_an_exact_step_keeps_every_number() -> None:
    values = np.random.default_rng(0).normal(size=300_000)
    assert counts(counts_table(values, max_cells(exact=True))).quantile(0.5) == np.quantile(values, 0.5)
    assert counts(counts_table(values, max_cells(exact=False))).bits < ALL_BITS


def test_the_mode_is_the_lowest_of_the_most_frequent() -> None:
    assert counts(counts_table(np.array([3.0, 2.0, 3.0, 2.0, 1.0]))).most_frequent() == 2.0


def test_zeros_of_either_sign_are_one_number() -> None:
    found = counts(merge_counts([counts_table(np.array([-0.0])), counts_table(np.array([0.0]))]))
    assert (found.values.tolist(), found.counts.tolist()) == ([0.0], [2])
    assert math.copysign(1, found.values[0]) == 1


def test_no_numbers_have_no_quantile() -> None:
    found = counts(counts_table(np.array([])))
    assert math.isnan(found.quantile(0.5))
    assert math.isnan(found.most_frequent())
