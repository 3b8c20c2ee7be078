from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.errors import DataError
from cluster.storage import Storage
from jobs.features.columns import Column
from jobs.raw_rows import RawTable, check_quarantine, good_rows, quarantined

COLUMNS = (Column("id", "id"), Column("x", "number"))


def raw_table(folder: Path, *files: str) -> RawTable:
    storage = Storage(str(folder))
    for number, content in enumerate(files):
        storage.write(f"raw/{number}.csv", content.encode())
    return RawTable(storage, "raw", tuple(info.path for info in storage.files("raw")), COLUMNS, "quarantine/x")


def test_good_rows_come_out_and_bad_ones_are_told_with_their_file(tmp_path: Path) -> None:
    table = raw_table(tmp_path, "id,x\na,1\nb,one\n", "id,x\nc,3\nd,4,5\n,6\n")
    assert good_rows(table, in_process=True).table().to_pydict() == {"id": ["a", "c"], "x": [1.0, 3.0]}
    found = quarantined(table)
    assert found.num_rows == 3
    told = [row for info in table.storage.files("quarantine/x") for row in pq.read_table(info.path).to_pylist()]
    assert {(Path(row["source"]).name, row["reason"]) for row in told} == {
        ("0.csv", "x 'one' is no number"),
        ("1.csv", "row has 3 fields, the header 2"),
        ("1.csv", "id is missing"),
    }


def test_what_an_earlier_run_left_in_quarantine_is_gone(tmp_path: Path) -> None:
    good_rows(raw_table(tmp_path, "id,x\na,one\n"), in_process=True)
    table = raw_table(tmp_path, "id,x\na,1\n")
    good_rows(table, in_process=True)
    assert quarantined(table).num_rows == 0


@pytest.mark.parametrize(
    ("num_good", "limit", "message"),
    [
        (0, 1.0, "1 of 1 rows of 'raw' .100.0%. are bad"),
        (
            9,
            0.05,
            r"1 of 10 rows of 'raw' \(10.0%\) are bad, prepare.max_bad_fraction=0.05 allows 5.0%. First: x 'one' is no",
        ),
    ],
)
def test_too_many_bad_rows_are_refused_with_the_numbers(
    tmp_path: Path, num_good: int, limit: float, message: str
) -> None:
    table = raw_table(tmp_path, "id,x\na,one\n")
    good_rows(table, in_process=True)
    with pytest.raises(DataError, match=message):
        check_quarantine(table, num_good, quarantined(table), limit)
    check_quarantine(table, 19, quarantined(table), 0.05)


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    table = raw_table(tmp_path, "id,x\n")
    with pytest.raises(DataError, match=r"'raw' in '.*' has a header but no rows"):
        check_quarantine(table, 0, quarantined(table), 1.0)
