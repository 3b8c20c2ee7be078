import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.features.logarithm import Logarithm
from tests.jobs.features.fitting import NUMBERS, made, table


@settings(max_examples=50)
@given(st.lists(NUMBERS, min_size=1), st.sampled_from(["e", "2", "10"]), st.sampled_from([0.0, 1.0]))
def test_what_has_a_logarithm_gets_it_and_the_rest_is_missing(
    values: list[float | None], base: str, shift: float
) -> None:
    found = made(
        Logarithm.model_validate({"column": "x", "output": "y", "base": base, "shift": shift}), table(x=values)
    )
    bases = {"e": math.e, "2": 2, "10": 10}
    for value, result in zip(values, found["y"], strict=True):
        if value is None or value + shift <= 0:
            assert result is None
        else:
            assert result == pytest.approx(math.log(value + shift) / math.log(bases[base]), rel=1e-12, abs=1e-12)


def test_a_number_that_the_shift_makes_infinite_is_missing() -> None:
    assert made(Logarithm(column="x", shift=1e308), table(x=[1.7e308, 0.0]))["x"] == [None, math.log(1e308)]


def test_rows_one_by_one_are_those_of_a_table_to_the_last_bit_at_any_size() -> None:
    values = np.concatenate([np.exp(np.random.default_rng(0).normal(0, 200, 4000)), 2.0 ** np.arange(-1074, 1024)])
    for base in ("e", "2", "10"):
        made(Logarithm(column="x", base=base), table(x=values.tolist()))


def test_by_default_it_takes_the_place_of_the_column() -> None:
    assert made(Logarithm(column="x"), table(x=[1.0]))["x"] == [0.0]
