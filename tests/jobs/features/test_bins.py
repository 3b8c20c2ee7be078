import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import KBinsDiscretizer

from jobs.features.bins import Bins
from tests.jobs.features.fitting import NUMBERS, fitted, known, made, table


def test_numbers_fall_where_scikit_learn_puts_them() -> None:
    values = np.random.default_rng(0).normal(size=500)
    expected = KBinsDiscretizer(7, encode="ordinal", strategy="quantile", quantile_method="linear", subsample=None)
    expected.fit(values[:, None])
    more = [*values, -99.0, 99.0]
    found = made(fitted(Bins(column="x", num_bins=7), table(x=values), [100, 300]), table(x=more))["x"]
    assert found == expected.transform(np.array(more)[:, None])[:, 0].tolist()


@settings(max_examples=60)
@given(st.lists(NUMBERS, min_size=1), st.integers(2, 6), st.lists(st.integers(0, 50), max_size=3))
def test_bins_are_those_between_the_quantiles_and_missing_stays_missing(
    values: list[float | None], num_bins: int, cuts: list[int]
) -> None:
    step = fitted(Bins(column="x", num_bins=num_bins), table(x=values), cuts)
    assert step == fitted(Bins(column="x", num_bins=num_bins), table(x=values))
    found = made(step, table(x=values))["x"]
    numbers = known(values)
    edges = np.unique(np.quantile(numbers, np.arange(1, num_bins) / num_bins)) if numbers else np.array([])
    edges = edges[edges > min(numbers, default=0)]
    expected = [None if value is None else float((edges <= value).sum()) for value in values]
    assert found == expected


def test_a_column_without_a_number_has_one_bin() -> None:
    step = fitted(Bins(column="x", num_bins=3), table(x=[None, None]))
    assert made(step, table(x=[5.0, None]))["x"] == [0.0, None]
    assert step.told() == "x: one bin for all numbers"


def test_the_cuts_are_told() -> None:
    assert fitted(Bins(column="x", num_bins=3), table(x=[0.0, 1.5, 3.0])).told() == "x: 3 bins, cut at 1, 2"
