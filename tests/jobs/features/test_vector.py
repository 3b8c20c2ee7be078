import pyarrow as pa
import pytest

from cluster.errors import DataError
from jobs.features.split import TrainRows
from jobs.features.vector import Vector

STEP = Vector(column="x", output="y")


def lists(values: list[list[float] | None]) -> pa.Table:
    return pa.table({"x": pa.array(values, pa.list_(pa.float32())), "split": ["train"] * len(values)})


def fitted(*parts: list[list[float] | None]) -> Vector:
    return STEP.fitted(STEP.merge([STEP.statistics(TrainRows(lists(part))) for part in parts]))


def test_lists_stay_as_they_are_and_what_does_not_fit_becomes_zeros() -> None:
    step = fitted([[1.0, 2.0], None], [], [[3.0, 4.0]])
    given = [[5.0, 6.0], None, [], [1.0, 2.0, 3.0]]
    expected = [[5.0, 6.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    applied = step.apply(lists(given)).column("y")
    assert applied.to_pylist() == expected == [step.apply_row({"x": value})["y"] for value in given]
    assert applied.type == pa.list_(pa.float32())
    assert step.size == 2


def test_a_table_without_rows_stays_one() -> None:
    assert fitted([[1.0]]).apply(lists([])).column("y").to_pylist() == []


def test_lists_of_several_lengths_are_refused_with_the_lengths() -> None:
    with pytest.raises(DataError, match="column 'x' has lists of 1, 2 entries in the training rows"):
        fitted([[1.0, 2.0]], [[3.0]])


def test_a_column_without_a_list_is_refused() -> None:
    with pytest.raises(DataError, match="column 'x' has no list in the training rows"):
        fitted([None])
