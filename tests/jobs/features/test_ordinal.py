import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.preprocessing import OrdinalEncoder

from jobs.features.ordinal import Ordinal
from tests.jobs.features.fitting import WORDS, as_nan, fitted, known, made, table, text


@settings(max_examples=60)
@given(st.lists(WORDS, min_size=1), st.lists(WORDS, min_size=1), st.lists(st.integers(0, 50), max_size=3))
def test_places_are_those_of_scikit_learn_and_unseen_ones_are_missing(
    train: list[str | None], later: list[str | None], cuts: list[int]
) -> None:
    step = fitted(Ordinal(column="x", output="y"), table(x=text(train)), cuts)
    found = made(step, table(x=text(later)))["y"]
    words = sorted(set(known(train)), key=str.encode)
    if not words:
        assert set(found) == {None}
        return
    reference = OrdinalEncoder(categories=[words], handle_unknown="use_encoded_value", unknown_value=np.nan)
    given_to = np.array([word if word is not None else "\0 never" for word in later], object)[:, None]
    reference.fit(np.array(words, object)[:, None])
    np.testing.assert_array_equal(as_nan(found), reference.transform(given_to)[:, 0])


def test_a_given_order_needs_no_training() -> None:
    step = Ordinal(column="x", output="y", order=("low", "middle", "high"))
    assert not step.learns
    assert made(step, table(x=["high", None, "low", "other"]))["y"] == [2.0, None, 0.0, None]


def test_a_category_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="order names 'a' 2 times; name each category once"):
        Ordinal(column="x", output="y", order=("a", "b", "a"))
