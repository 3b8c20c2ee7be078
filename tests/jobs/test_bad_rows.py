from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.storage import Storage
from jobs.bad_rows import BadRow, blamed, file_name, first_rows, in_order
from jobs.features.columns import Column

COLUMNS = (Column("x", "number", source="amount"), Column("id", "id"), Column("at", "time"), Column("tags", "labels"))


def written(folder: Path, *files: list[BadRow]) -> tuple[Storage, list[str]]:
    for number, rows in enumerate(files):
        columns = {name: [getattr(row, name) for row in rows] for name in ("source", "place", "reason")}
        pq.write_table(pa.table(columns), folder / f"{number}.parquet")
    return Storage(str(folder)), [str(folder / f"{number}.parquet") for number in range(len(files))]


def bad(reason: str, place: str = "row group 2") -> BadRow:
    return BadRow("raw/b.parquet", place, reason)


@pytest.mark.parametrize(
    ("reasons", "sentence"),
    [
        (
            ["amount 'n/a' is no number"] * 9 + ["row has 3 fields, the header 2"],
            "column 'amount' stops being a number in 'raw/b.parquet', row group 2: 'n/a'",
        ),
        (
            ["amount 'it's' is no number"],
            "column 'amount' stops being a number in 'raw/b.parquet', row group 2: 'it's'",
        ),
        (
            ["id '{}' is no identifier"],
            "column 'id' stops being an identifier in 'raw/b.parquet', row group 2: '{}'",
        ),
        (
            ["amount '7' is above 5", "amount 'n/a' is no number"],
            "column 'amount', from 'raw/b.parquet', row group 2 on: amount '7' is above 5",
        ),
        (["id is missing"] * 2, "column 'id', from 'raw/b.parquet', row group 2 on: id is"),
        (["amount 'n/a' is no number"] * 8 + ["line is no JSON object", "id is missing"], None),
        (["line is no JSON object"], None),
    ],
)
def test_one_column_is_blamed_from_nine_rows_in_ten_on(
    tmp_path: Path, reasons: list[str], sentence: str | None
) -> None:
    storage, paths = written(tmp_path, [bad(reason) for reason in reasons])
    said = blamed(storage, paths, COLUMNS)
    assert said is None if sentence is None else str(said).startswith(sentence)


def test_the_first_place_is_that_of_the_first_file_in_order(tmp_path: Path) -> None:
    storage, paths = written(
        tmp_path,
        [bad("id is missing", "row group 1")],
        [bad("amount 'a' is no number", "row group 3")] * 9,
        [bad("amount 'b' is no number", "row group 4")] * 9,
    )
    assert "row group 3: 'a'" in str(blamed(storage, paths, COLUMNS))
    assert [row.place for row in first_rows(storage, paths[1])] == ["row group 3"] * 3


def test_files_of_bad_rows_lie_in_the_order_of_the_raw_files() -> None:
    sources = [f"raw/{name}.csv" for name in "cabd"]
    expected = [
        f"q/{file_name(source, begin, number)}" for source in sources for begin in (0, 9, 10) for number in (0, 2, 10)
    ]
    assert in_order(sorted(expected), sources) == expected


def test_a_place_that_is_not_known_is_left_out() -> None:
    assert BadRow("a.csv", "", "x").where == "'a.csv'"
    assert BadRow("a.csv", "lines 2-9", "x").where == "'a.csv', lines 2-9"
