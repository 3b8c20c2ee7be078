from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.features.outliers import Outliers
from tests.jobs.features.fitting import NUMBERS, fitted, known, made, table


def bounds(values: list[float], method: str, limit: float) -> tuple[float, float]:
    if method == "iqr":
        low, high = np.quantile(values, [0.25, 0.75])
        return low - limit * (high - low), high + limit * (high - low)
    return np.mean(values) - limit * np.std(values), np.mean(values) + limit * np.std(values)


@settings(max_examples=80)
@given(
    st.lists(NUMBERS, min_size=1).filter(known),
    st.sampled_from(["iqr", "z_score"]),
    st.floats(0.5, 4),
    st.lists(st.integers(0, 50), max_size=3),
)
def test_what_lies_outside_the_bounds_is_clipped_marked_or_dropped(
    values: list[float | None], method: str, limit: float, cuts: list[int]
) -> None:
    rows = table(x=values)
    low, high = bounds(known(values), method, limit)
    slack = 1e-9 * (1 + max(map(abs, known(values))))
    for then, output in (("clip", ""), ("mark", "far"), ("drop", "")):
        unfitted = Outliers.model_validate(
            {"column": "x", "method": method, "limit": limit, "then": then, "output": output}
        )
        step = fitted(unfitted, rows, cuts)
        assert step == fitted(unfitted, rows)
        found = made(step, rows)
        if then == "clip":
            expected = [None if value is None else float(np.clip(value, low, high)) for value in values]
            assert [v is None for v in found["x"]] == [v is None for v in expected]
            assert known(found["x"]) == pytest.approx(known(expected), abs=slack)
            continue
        far = found["far"] if then == "mark" else [float(not kept) for kept in step.keeps(rows).to_pylist()]
        for value, mark in zip(values, far, strict=True):
            if value is None or low + slack < value < high - slack:
                assert mark == 0
            elif value < low - slack or value > high + slack:
                assert mark == 1


def test_the_defaults_are_tukeys_fences_and_three_standard_deviations() -> None:
    values = [*np.random.default_rng(0).normal(size=200), 50.0]
    for method, limit in (("iqr", 1.5), ("z_score", 3.0)):
        step = fitted(Outliers.model_validate({"column": "x", "method": method}), table(x=values))
        low, high = bounds(values, method, limit)
        assert max(made(step, table(x=values))["x"]) == pytest.approx(high)
        assert step.told() == f"x: outliers are below {low:g} and above {high:g}"


@pytest.mark.parametrize("method", ["iqr", "z_score"])
def test_without_a_number_in_training_nothing_is_an_outlier(method: str) -> None:
    step = fitted(Outliers.model_validate({"column": "x", "method": method}), table(x=[None]))
    assert made(step, table(x=[1e9, None]))["x"] == [1e9, None]
    assert step.keeps(table(x=[1e9, None])).to_pylist() == [True, True]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"then": "mark"}, "then=mark makes a column of its own, output='' names none; give output"),
        ({"then": "drop", "output": "y"}, "then=drop makes no column; leave out output='y'"),
        ({"limit": 0.0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Outliers.model_validate({"column": "x", **fields})
