import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.fixed_lists import as_bytes, as_lists

KINDS = [pa.float32(), pa.float64(), pa.int8(), pa.uint8(), pa.int32(), pa.int64()]


def through_parquet(rows: pa.Table) -> pa.Table:
    content = io.BytesIO()
    pq.write_table(rows, content, row_group_size=4)
    return as_lists(pq.read_table(content))


def lists(values: list[list[float] | None], kind: pa.DataType = KINDS[0]) -> pa.Array:
    return pa.array(values, pa.list_(kind))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_lists_of_one_length_come_back_from_parquet_as_they_were(kind: pa.DataType) -> None:
    values = np.arange(30).reshape(10, 3).tolist()
    rows = pa.table({"id": list("abcdefghij"), "x": lists(values, kind)})
    packed = as_bytes(rows)
    assert packed.schema.field("x").type == pa.binary(3 * kind.bit_width // 8)
    found = through_parquet(packed)
    assert found.to_pydict() == rows.to_pydict()
    assert found.schema.field("x").type.value_type == kind


def test_another_program_reads_the_entries_as_plain_numbers() -> None:
    packed = as_bytes(pa.table({"x": lists([[1.5, -2.0], [0.0, 3.0]])}))
    assert [np.frombuffer(row, "<f4").tolist() for row in packed.column("x").to_pylist()] == [[1.5, -2.0], [0.0, 3.0]]


@pytest.mark.parametrize(
    "values",
    [[[1.0], [2.0, 3.0]], [[1.0], None], [[1.0], [None]], [[], []], []],
    ids=["of several lengths", "one missing", "an entry missing", "empty", "no rows"],
)
def test_other_lists_stay_as_they_are(values: list[list[float] | None]) -> None:
    rows = pa.table({"x": lists(values)})
    assert as_bytes(rows) is rows
    assert as_lists(rows) is rows


def test_a_part_of_a_table_and_one_in_pieces_keep_their_own_rows() -> None:
    whole = pa.table({"x": lists([[float(n), float(-n)] for n in range(10)])})
    parts = pa.concat_tables([as_bytes(whole.slice(3, 2)), as_bytes(whole.slice(7))])
    assert (
        as_lists(parts).column("x").to_pylist()
        == whole.column("x").to_pylist()[3:5] + whole.column("x").to_pylist()[7:]
    )
    assert as_lists(as_bytes(whole).slice(4, 3)).to_pydict() == whole.slice(4, 3).to_pydict()


def test_rows_of_both_forms_go_together() -> None:
    one, several = pa.table({"x": lists([[1.0], [2.0]])}), pa.table({"x": lists([[1.0, 2.0], [3.0]])})
    both = pa.concat_tables(through_parquet(as_bytes(rows)) for rows in (one, several))
    assert both.column("x").to_pylist() == [[1.0], [2.0], [1.0, 2.0], [3.0]]


def test_text_and_numbers_are_not_touched() -> None:
    rows = pa.table({"a": ["x"], "b": [1.0], "labels": [["one"]]})
    assert as_bytes(rows) is rows
