from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import DataError
from cluster.storage import Storage
from jobs import raw_lines, raw_rows
from jobs.features.columns import Column
from jobs.raw_rows import RawTable, check_quarantine, good_rows, quarantined

COLUMNS = (Column("id", "id"), Column("x", "number"))


def raw_table(folder: Path, *files: str) -> RawTable:
    storage = Storage(str(folder))
    for number, content in enumerate(files):
        storage.write(f"raw/{number}.csv", content.encode())
    return of_files(storage)


def of_files(storage: Storage) -> RawTable:
    """All of them."""
    found = storage.files("raw")
    paths, sizes = tuple(info.path for info in found), tuple(info.size for info in found)
    return RawTable(storage, "raw", paths, sizes, COLUMNS, "quarantine/x")


def test_good_rows_come_out_and_bad_ones_are_told_with_their_file(tmp_path: Path) -> None:
    table = raw_table(tmp_path, "id,x\na,1\nb,one\n", "id,x\nc,3\nd,4,5\n,6\n")
    assert good_rows(table, in_process=True).table().to_pydict() == {"id": ["a", "c"], "x": [1.0, 3.0]}
    found = quarantined(table)
    assert found.num_rows == 3
    told = [row for info in table.storage.files("quarantine/x") for row in pq.read_table(info.path).to_pylist()]
    assert {(Path(row["source"]).name, row["place"], row["reason"]) for row in told} == {
        ("0.csv", "lines 1-3", "x 'one' is no number"),
        ("1.csv", "lines 1-4", "row has 3 fields, the header 2"),
        ("1.csv", "lines 1-4", "id is missing"),
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


def refusal(table: RawTable) -> str:
    """What prepare says once it has read all rows."""
    num_good = good_rows(table, in_process=True).table().num_rows
    with pytest.raises(DataError) as refused:
        check_quarantine(table, num_good, quarantined(table), 0.05)
    return str(refused.value)


def test_a_text_column_that_stops_being_numbers_is_named_with_its_row_group(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    texts = {"a": [str(n) for n in range(50)], "b": [*map(str, range(20)), *["n/a"] * 30]}
    (tmp_path / "raw").mkdir()
    for name, x in texts.items():
        table = pa.table({"id": [f"{name}{n}" for n in range(50)], "x": x})
        pq.write_table(table, tmp_path / f"raw/{name}.parquet", row_group_size=10)
    paths = tuple(str(tmp_path / f"raw/{name}.parquet") for name in texts)
    message = refusal(RawTable(storage, "raw", paths, (1,) * len(paths), COLUMNS, "quarantine/x"))
    assert message.startswith("30 of 100 rows of 'raw' (30.0%) are bad, prepare.max_bad_fraction=0.05 allows 5.0%. ")
    first = "; ".join(["x 'n/a' is no number"] * 3)
    assert f"First: {first} (in '{paths[1]}', row group 2). " in message
    assert f"Nearly all: column 'x' stops being a number in '{paths[1]}', row group 2: 'n/a'. " in message


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_csv_column_that_stops_being_numbers_is_named_with_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(raw_lines, "BLOCK_BYTES", 101)
    lines = ["id,x", "", *(f"r{n},{n if n < 60 else 'n/a'}" for n in range(100))]
    table = raw_table(tmp_path, "id,x\na,1\n", end.join(lines))
    message = refusal(table)
    told = message.partition(f"column 'x' stops being a number in '{table.files[1]}', lines ")[2]
    first, last = map(int, told.partition(":")[0].split("-"))
    assert told.partition(": ")[2].startswith("'n/a'. ")
    assert first <= lines.index("r60,n/a") + 1 <= last < first + 20


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    table = raw_table(tmp_path, "id,x\n")
    with pytest.raises(DataError, match=r"'raw' in '.*' has a header but no rows"):
        check_quarantine(table, 0, quarantined(table), 1.0)


def test_small_files_that_follow_each_other_are_one_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_rows, "BUNDLE_BYTES", 40)
    large = "id,x\n" + "".join(f"l{number},1\n" for number in range(20))
    table = raw_table(tmp_path, "id,x\na,1\n", "id,x\nb,2\nc,bad\n", large, "id,x\nd,3\n", "id,x\ne,4\n")
    rows = good_rows(table, in_process=True)
    blocks = rows.collect(
        "",
        lambda block, number: [block.column("id").to_pylist()],
        lambda parts: [ids for part in parts for ids in part],
    )
    assert blocks == [["a", "b"], [f"l{number}" for number in range(20)], ["d", "e"]]
    assert quarantined(table).num_rows == 1
