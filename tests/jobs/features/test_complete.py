import pytest
from pydantic import ValidationError

from jobs.features.complete import Complete
from tests.jobs.features.fitting import made, table


def test_rows_with_a_gap_in_any_of_the_columns_are_left_out() -> None:
    step = Complete(columns=("x", "y"))
    rows = table(x=[1.0, None, 3.0, None], y=[1.0, 2.0, None, None], z=[None, 1.0, 1.0, 1.0])
    assert step.keeps(rows).to_pylist() == [True, False, False, False]
    assert step.leaves_out
    assert made(step, rows) == {}
    assert step.apply(rows) == rows


def test_a_column_is_wanted() -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        Complete(columns=())
