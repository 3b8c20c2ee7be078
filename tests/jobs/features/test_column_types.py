import pyarrow as pa
import pytest

from cluster.errors import DataError
from jobs.features.column_types import check_types
from jobs.features.columns import Column
from jobs.features.values import ColumnKind

DAY = pa.timestamp("us")
SORTS = {
    "numbers": [pa.int8(), pa.int64(), pa.uint16(), pa.float32(), pa.float64(), pa.decimal128(9, 2)],
    "text": [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())],
    "moments": [DAY, pa.timestamp("s", "UTC"), pa.date32()],
    "truths": [pa.bool_()],
    "lists": [pa.list_(pa.int64()), pa.large_list(pa.float32()), pa.list_(pa.float64(), 3)],
    "lists of text": [pa.list_(pa.string())],
}


def check(kind: ColumnKind, *types: pa.DataType) -> None:
    files = {f"{place}.parquet": pa.schema([("other", pa.int8()), ("amount", of)]) for place, of in enumerate(types)}
    check_types(files, [Column("x", kind, source="amount")])


@pytest.mark.parametrize("sort", SORTS)
def test_types_of_one_sort_agree_and_null_agrees_with_all(sort: str) -> None:
    check("number", pa.null(), *SORTS[sort], pa.list_(pa.null()))


@pytest.mark.parametrize(("one", "other"), [(a, b) for a in SORTS for b in SORTS if a != b])
def test_types_of_two_sorts_are_refused_with_the_first_file_of_each(one: str, other: str) -> None:
    types = [*SORTS[one], *SORTS[other]]
    with pytest.raises(DataError) as refused:
        check("number", *types)
    assert str(refused.value) == (
        f"column 'amount' is {types[0]} in '0.parquet' and {SORTS[other][0]} in '{len(SORTS[one])}.parquet'; "
        "write one type, or take one of the files out"
    )


@pytest.mark.parametrize("kind", ["id", "text"])
def test_a_number_that_is_read_as_text_is_its_spelling(kind: ColumnKind) -> None:
    check(kind, pa.int64(), pa.string(), pa.float64())
    with pytest.raises(DataError, match=r"is int64 in '0\.parquet' and timestamp"):
        check(kind, pa.int64(), DAY)


def test_columns_that_are_not_read_may_be_anything() -> None:
    files = {"a": pa.schema([("unread", pa.int8())]), "b": pa.schema([("unread", pa.string())])}
    check_types(files, [Column("x", "number")])
