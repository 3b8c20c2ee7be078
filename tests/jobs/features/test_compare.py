import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.features.compare import Compare
from tests.jobs.features.fitting import NUMBERS, made, table


@settings(max_examples=50)
@given(st.lists(NUMBERS, min_size=1), st.sampled_from(["above", "below"]))
def test_a_number_is_set_against_the_bound_and_missing_stays_missing(values: list[float | None], side: str) -> None:
    step = Compare.model_validate({"column": "x", "output": "y", side: 1.0})
    expected = [None if v is None else "yes" if (v > 1 if side == "above" else v < 1) else "no" for v in values]
    assert made(step, table(x=values))["y"] == expected
    assert not step.learns


@pytest.mark.parametrize("bounds", [{}, {"above": 1.0, "below": 2.0}])
def test_one_bound_is_wanted(bounds: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=r"above=.* and below=.*: give exactly one of them"):
        Compare.model_validate({"column": "x", "output": "y", **bounds})
