from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.impute import SimpleImputer

from cluster.errors import DataError
from jobs.features.impute import Impute
from tests.jobs.features.fitting import NUMBERS, WORDS, as_nan, fitted, known, made, table

SKLEARN = {"mean": "mean", "median": "median", "mode": "most_frequent"}


@settings(max_examples=80)
@given(
    st.lists(NUMBERS, min_size=1).filter(known),
    st.sampled_from(["mean", "median", "mode"]),
    st.lists(st.integers(0, 50), max_size=3),
)
def test_numbers_are_filled_in_as_scikit_learn_does(values: list[float | None], fill: str, cuts: list[int]) -> None:
    unfitted = Impute.model_validate({"column": "x", "fill": fill, "indicator": "gap"})
    step = fitted(unfitted, table(x=values), cuts)
    assert step == fitted(unfitted, table(x=values))
    found = made(step, table(x=values))
    given_to = np.array(as_nan(values))[:, None]
    expected = SimpleImputer(strategy=SKLEARN[fill], add_indicator=True).fit_transform(given_to)
    assert found["x"] == pytest.approx(expected[:, 0].tolist(), rel=1e-12, abs=1e-9)
    assert found["gap"] == [float(value is None) for value in values]


@settings(max_examples=40)
@given(st.lists(WORDS, min_size=1).filter(known), st.lists(st.integers(0, 50), max_size=3))
def test_text_is_filled_in_with_the_most_frequent_the_first_of_equals(
    values: list[str | None], cuts: list[int]
) -> None:
    step = fitted(Impute(column="x", of="text", fill="mode"), table(x=values), cuts)
    words = known(values)
    best = min(words, key=lambda word: (-words.count(word), word.encode()))
    assert made(step, table(x=values))["x"] == [best if value is None else value for value in values]


def test_a_constant_needs_no_training_and_an_output_keeps_the_column() -> None:
    step = Impute(column="x", output="y", fill="constant", constant=-1.0)
    assert not step.learns
    assert made(step, table(x=[None, 2.0])) == {"y": [-1.0, 2.0]}
    assert step.apply(table(x=[None, 2.0])).column("x").null_count == 1


@pytest.mark.parametrize("fill", ["mean", "median", "mode"])
def test_a_column_without_a_value_is_refused_with_the_way_out(fill: str) -> None:
    with pytest.raises(DataError, match=f"column 'x' is missing in every training row, so it has no {fill}; give fill"):
        fitted(Impute.model_validate({"column": "x", "fill": fill}), table(x=[None, None]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"of": "text", "fill": "mean"}, "fill=mean is of numbers; for text take mode or constant"),
        ({"fill": "constant"}, "fill=constant and constant=None: a constant goes with fill=constant alone"),
        ({"fill": "mean", "constant": 1.0}, "fill=mean and constant=1.0: a constant goes with fill=constant alone"),
        ({"fill": "constant", "constant": "a"}, "constant='a' is no number; give one, or say of=number or of=text"),
        ({"fill": "constant", "of": "text", "constant": ""}, "constant='' is no text"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Impute.model_validate({"column": "x", **fields})


def test_what_was_learned_is_told() -> None:
    assert fitted(Impute(column="x"), table(x=[1.0, 3.0])).told() == "x: 2.0 where it is missing (median)"
