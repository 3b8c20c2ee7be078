"""What the tests of all steps do with one: fit it on parts, apply it to a table and to its rows one by one."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import pyarrow as pa
from hypothesis import strategies as st

from jobs.features.split import SPLIT, TrainRows
from jobs.features.step import Step

S = TypeVar("S", bound=Step)

NUMBERS = st.one_of(
    st.none(),
    st.floats(-1e6, 1e6, allow_subnormal=False),
    st.integers(-3, 3).map(float),
)
"""Raw numbers are finite or missing."""
WORDS = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "ä", "😀", "a b"]), st.text(min_size=1, max_size=3))


def table(**columns: Sequence[Any]) -> pa.Table:
    """Training rows; a column without any value is of numbers, unless it comes as an array."""
    arrays = {
        name: values if isinstance(values, pa.Array) else pa.array(values, _kind(values))
        for name, values in columns.items()
    }
    return pa.table({**arrays, SPLIT: pa.array(["train"] * len(next(iter(columns.values()))), pa.string())})


def text(values: Sequence[str | None]) -> pa.Array:
    """A column of text, also without any."""
    return pa.array(values, pa.string())


def fitted(step: S, rows: pa.Table, cuts: Sequence[int] = ()) -> S:
    """Fitted on the rows in parts that are cut so, merged last part first, the first two before the others."""
    edges = [0, *sorted(min(cut, rows.num_rows) for cut in cuts), rows.num_rows]
    parts = [rows.slice(start, end - start) for start, end in pairwise(edges)]
    found = [step.statistics(TrainRows(part)) for part in reversed(parts)]
    return step.fitted(step.merge([step.merge(found[:2]), *found[2:]]))


def made(step: Step, rows: pa.Table) -> dict[str, list[Any]]:
    """The columns that a step makes, once it was seen that rows one by one get the same."""
    applied = step.apply(rows)
    assert applied.num_rows == rows.num_rows
    found: dict[str, list[Any]] = {name: applied.column(name).to_pylist() for name in step.makes}
    one_by_one = [step.apply_row(row) for row in rows.drop_columns([SPLIT]).to_pylist()]
    for name, values in found.items():
        assert [row[name] for row in one_by_one] == values
    assert all(set(row) == set(step.makes) for row in one_by_one)
    return found


def known(values: Sequence[float | None]) -> list[float]:
    """Those that are not missing."""
    return [value for value in values if value is not None]


def as_nan(values: Sequence[float | None]) -> list[float]:
    """NaN where one is missing, as NumPy and scikit-learn have it."""
    return [math.nan if value is None else value for value in values]


def _kind(values: Sequence[Any]) -> pa.DataType:
    return pa.string() if any(isinstance(value, str) for value in values) else pa.float64()
