import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import DataError
from cluster.storage import Storage
from jobs import raw, raw_lines
from jobs.features.columns import REASON, Column, check_rows
from jobs.raw import check_headers, parts_of, read_blocks
from jobs.raw_block import Part

FILMS = (
    Column("item_id", "id", source="movieId"),
    Column("title", "text", required=False),
    Column("genres", "labels", required=False),
    Column("year", "number", required=False),
)
ROWS = [
    {"item_id": "1", "title": "Toy Story", "genres": ["Animation", "Comedy"], "year": 1995.0},
    {"item_id": "2", "title": 'The "Big" One, uncut', "genres": ["Documentary"], "year": 1997.5},
    {"item_id": "3", "title": "Amélie", "genres": None, "year": None},
]
CSV = (
    "movieId,unread,title,genres,year\n"
    "1,x,Toy Story,Animation|Comedy,1995\n"
    '2,x,"The ""Big"" One, uncut",Documentary,1997.5\n'
    "3,x,Amélie,,\n"
)
JSON = (
    '{"movieId": 1, "title": "Toy Story", "genres": ["Animation", "Comedy"], "year": 1995}\n'
    '{"year": "1997.5", "movieId": "2", "genres": "Documentary", "title": "The \\"Big\\" One, uncut", "unread": {}}\n'
    '{"movieId": 3, "title": "Am\\u00e9lie", "year": null}\n'
)
PAIR = (Column("a", "text"), Column("b", "text"))


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def parquet(folder: Path, name: str, table: pa.Table) -> str:
    path = str(folder / name)
    pq.write_table(table, path)
    return path


def films_as_parquet(folder: Path) -> str:
    columns = {
        "movieId": [1, 2, 3],
        "title": [row["title"] for row in ROWS],
        "genres": [row["genres"] for row in ROWS],
        "year": [row["year"] for row in ROWS],
    }
    return parquet(folder, "films.parquet", pa.table(columns))


def read(path: str, columns: Sequence[Column] = PAIR) -> tuple[list[dict[str, object]], list[tuple[str, str]]]:
    """All good rows and all unreadable lines of a file."""
    blocks = list(read_blocks(Storage(str(Path(path).parent)), Part(path), columns))
    rows = [row for block in blocks for row in block.rows.to_pylist()]
    return rows, [line for block in blocks for line in block.unreadable]


def checked(path: str) -> list[dict[str, object]]:
    """The rows the way prepare takes them."""
    blocks = list(read_blocks(Storage(str(Path(path).parent)), Part(path), FILMS))
    assert not any(block.unreadable for block in blocks)
    tables = [check_rows(block.rows, FILMS) for block in blocks]
    assert not any(reason for table in tables for reason in table.column(REASON).to_pylist())
    return [row for table in tables for row in table.drop_columns([REASON]).to_pylist()]


def refused(path: str, columns: Sequence[Column] = PAIR) -> str:
    """What the user is told of a file whose header is checked."""
    with pytest.raises(DataError) as error:
        check_headers(Storage(str(Path(path).parent)), [path], columns)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("films.csv", CSV),
        ("films.CSV", CSV),
        ("bom.csv", "\ufeff" + CSV),
        ("crlf.csv", CSV.replace("\n", "\r\n")),
        ("old mac.csv", CSV.replace("\n", "\r")),
        ("no last newline.csv", CSV.rstrip("\n")),
        ("blank lines.csv", "\n" + CSV.replace("\n", "\n\n  \n")),
        ("films.csv.gz", gzip.compress(CSV.encode())),
        ("FILMS.CSV.GZ", gzip.compress(CSV.encode())),
        ("films.jsonl", JSON),
        ("films.ndjson", JSON),
        ("bom.jsonl", "\ufeff" + JSON),
        ("crlf.jsonl", JSON.replace("\n", "\r\n")),
        ("films.jsonl.gz", gzip.compress(JSON.encode())),
        ("a folder/fïlme №1.csv", CSV),
    ],
)
def test_the_same_films_are_the_same_rows_in_every_format(tmp_path: Path, name: str, content: str | bytes) -> None:
    path = written(tmp_path, name, content)
    check_headers(Storage(str(tmp_path)), [path], FILMS)
    assert checked(path) == ROWS
    assert checked(films_as_parquet(tmp_path)) == ROWS


def test_one_folder_may_mix_formats(tmp_path: Path) -> None:
    paths = [written(tmp_path, "a.csv", CSV), written(tmp_path, "b.jsonl", JSON), films_as_parquet(tmp_path)]
    check_headers(Storage(str(tmp_path)), paths, FILMS)
    assert [row for path in paths for row in checked(path)] == ROWS * 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1", "row has 1 fields, the header 2"),
        ("1,2,3", "row has 3 fields, the header 2"),
        ('1,"open', "line leaves a quote open"),
        ('"1,open', "line leaves a quote open"),
        ('1,"a""', "line leaves a quote open"),
        ('1,2"3,"open', "line leaves a quote open"),
    ],
)
def test_a_line_that_is_no_csv_row_is_set_aside_alone(tmp_path: Path, line: str, reason: str) -> None:
    rows, unreadable = read(written(tmp_path, "x.csv", f"a,b\n0,x\n{line}\n2,y\n"))
    assert rows == [{"a": "0", "b": "x"}, {"a": "2", "b": "y"}]
    assert unreadable == [(line, reason)]


@pytest.mark.parametrize(("field", "value"), [('2"3', '2"3'), ('"2" 3', "2 3"), ('""', None), ('"a""b,"', 'a"b,')])
def test_a_quote_that_closes_or_opens_no_field_is_no_fault(tmp_path: Path, field: str, value: str | None) -> None:
    assert read(written(tmp_path, "x.csv", f"a,b\n{field},y\n2,z\n")) == (
        [{"a": value, "b": "y"}, {"a": "2", "b": "z"}],
        [],
    )


def test_an_open_quote_swallows_no_line_up_to_the_next_quote(tmp_path: Path) -> None:
    lines = [f"{number},film {number}" for number in range(100)]
    lines[10], lines[90] = '10,"film 10', '90,film 90"'
    rows, unreadable = read(written(tmp_path, "x.csv", "\n".join(["a,b", *lines])))
    assert [row["a"] for row in rows] == [str(number) for number in range(100) if number != 10]
    assert unreadable == [('10,"film 10', "line leaves a quote open")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_no_line_of_text_vanishes_whatever_it_holds(tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    for number in range(300):
        monkeypatch.setattr(raw_lines, "BLOCK_BYTES", draw.choice([1, 3, 7, 20, 1000]))
        lines = ["".join(draw.choices('1xé,,""" ', k=draw.randint(1, 8))) for _ in range(draw.randint(0, 8))]
        path = written(tmp_path, f"{number}.csv", end.join(["c,a,b", *lines]) + draw.choice(["", end]))
        rows, unreadable = read(path)
        assert len(rows) + len(unreadable) == sum(bool(line.strip()) for line in lines), lines


def test_bytes_that_are_no_utf8_set_one_row_aside(tmp_path: Path) -> None:
    rows, unreadable = read(written(tmp_path, "x.csv", b"a,b\n0,x\n1,Am\xe9lie\n2,\xc3\xa9\n3,\xff,4\n"))
    assert rows == [{"a": "0", "b": "x"}, {"a": "2", "b": "é"}]
    assert unreadable == [("1,Am\\xe9lie", "line is no UTF-8"), ("3,\\xff,4", "line is no UTF-8")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": 1,', "line is no JSON: Expecting property name"),
        ("[1, 2]", "line is no JSON object"),
        ("7", "line is no JSON object"),
        ("null", "line is no JSON object"),
        ('{"a": {"deep": 1}}', 'a {"deep": 1} is nested'),
        ('{"a": ["x"]}', 'a ["x"] is nested'),
        ('{"tags": ["x", ["y"]]}', 'tags ["y"] is nested'),
        (r'{"a": "\ud800"}', "'utf-8' codec can't encode"),
        ("[" * 100_000, "line is no JSON: maximum recursion"),
    ],
)
def test_a_json_line_that_is_no_flat_object_is_set_aside_alone(tmp_path: Path, line: str, reason: str) -> None:
    columns = (Column("a", "id"), Column("tags", "labels", required=False))
    good = '{"a": "x", "tags": []}'
    rows, unreadable = read(written(tmp_path, "x.jsonl", f"{good}\n{line}\n{good}\n"), columns)
    assert [row["a"] for row in rows] == ["x", "x"]
    assert [text for text, _ in unreadable] == [line]
    assert unreadable[0][1].startswith(reason)


def test_json_that_is_no_utf8_is_set_aside_and_shown_escaped(tmp_path: Path) -> None:
    rows, unreadable = read(written(tmp_path, "x.jsonl", b'{"a": "\xff"}\n{"a": "y", "b": "z"}\n'))
    assert rows == [{"a": "y", "b": "z"}]
    assert unreadable[0][0] == '{"a": "\\xff"}'
    assert "utf-8" in unreadable[0][1]


def test_json_values_are_spelled_as_csv_would(tmp_path: Path) -> None:
    columns = [Column(name, "text") for name in "nfbs"] + [Column("l", "labels"), Column("absent", "text")]
    line = json.dumps({"n": 7, "f": 0.5, "b": True, "s": "x", "l": ["u", 3, None]})
    rows, _ = read(written(tmp_path, "x.jsonl", line), columns)
    assert rows == [{"n": "7", "f": "0.5", "b": "true", "s": "x", "l": "u|3", "absent": None}]


def test_numbers_are_the_same_from_json_csv_and_parquet(tmp_path: Path) -> None:
    """A gap in a list is no number, so that it cannot shorten the list."""
    columns = [Column("image", "numbers", required=False)]
    images = [[0.0, 1.5], None, [2.0, None]]
    lines = "".join(json.dumps({"image": image}) + "\n" for image in images)
    pq.write_table(pa.table({"image": images}), tmp_path / "x.parquet")
    for path in (
        written(tmp_path, "x.jsonl", lines),
        written(tmp_path, "x.csv", 'image\n0|1.5\n""\n2|null\n'),
        str(tmp_path / "x.parquet"),
    ):
        (block,) = read_blocks(Storage(str(tmp_path)), Part(path), columns)
        checked_rows = check_rows(block.rows, columns)
        assert checked_rows.column("image").to_pylist() == [[0.0, 1.5], None, None]
        assert [reason is None for reason in checked_rows.column(REASON).to_pylist()] == [True, True, False]


def test_a_file_larger_than_a_block_streams_with_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = range(2000)
    paths = [
        written(tmp_path, "x.csv", "a,b\n" + "".join(f'{n},"é, {n}"\n' for n in numbers)),
        written(tmp_path, "x.jsonl", "".join(json.dumps({"a": n, "b": f"é, {n}"}) + "\n" for n in numbers)),
        written(tmp_path, "x.csv.gz", gzip.compress(("a,b\n" + "".join(f'{n},"é, {n}"\n' for n in numbers)).encode())),
    ]
    monkeypatch.setattr(raw_lines, "BLOCK_BYTES", 1000)
    for path in paths:
        blocks = list(read_blocks(Storage(str(tmp_path)), Part(path), PAIR))
        assert len(blocks) > 10
        rows = [row for block in blocks for row in block.rows.to_pylist()]
        assert rows == [{"a": str(n), "b": f"é, {n}"} for n in numbers]


def test_a_line_longer_than_a_block_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_lines, "BLOCK_BYTES", 100)
    rows, unreadable = read(written(tmp_path, "x.csv", f"a,b\n1,{'x' * 5000}\n2,y\n"))
    assert rows == [{"a": "1", "b": "x" * 5000}, {"a": "2", "b": "y"}]
    assert not unreadable


@pytest.mark.parametrize("content", ["a,b\n", "a,b", "\ufeffa,b\r\n", "b,unread,a\n\n"])
def test_a_csv_file_with_a_header_alone_has_no_rows(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, "x.csv", content)
    check_headers(Storage(str(tmp_path)), [path], PAIR)
    assert read(path) == ([], [])


def test_a_renamed_column_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    column = (Column("rating", "number"),)
    table = pa.table({"ratings": [1.0], "user": ["x"]})
    paths = [
        written(tmp_path, "x.csv", "user,ratings\n1,2\n"),
        written(tmp_path, "x.jsonl", '{"user": 1}\n{"ratings": 2}\n'),
        parquet(tmp_path, "x.parquet", table),
    ]
    for path in paths:
        assert f"'{path}' has no column 'rating'. Did you mean 'ratings'?" in refused(path, column)


def test_a_json_line_may_leave_out_a_column_that_another_has(tmp_path: Path) -> None:
    path = written(tmp_path, "x.jsonl", 'no json\n{"a": 1}\n{"b": 2}\n')
    check_headers(Storage(str(tmp_path)), [path], PAIR)
    assert read(path)[0] == [{"a": "1", "b": None}, {"a": None, "b": "2"}]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("empty.csv", b"", "has no CSV header, its first line is empty"),
        ("blank.csv", b"\n \n", "has no CSV header, its first line is empty"),
        ("mark alone.csv", "\ufeff\n".encode(), "has no CSV header, its first line is empty"),
        ("utf-16.csv", "a,b\n1,2\n".encode("utf-16"), "has no CSV header, its first line is no UTF-8"),
        ("quote.csv", b'a,"b\n1,2\n', "has no CSV header, its first line leaves a quote open"),
        ("cut.csv.gz", gzip.compress(b"a,b\n1,2\n" * 1000)[:40], "cannot be read"),
        ("plain.csv.gz", b"a,b\n1,2\n", "cannot be read"),
        ("empty.jsonl", b"", "has no column 'a'"),
        ("garbage.parquet", b"PAR1 and no more of it", "cannot be read"),
        ("empty.parquet", b"", "cannot be read"),
        ("a.dat", b"a,b\n1,2\n", "is of no known format; its name must end in one of .csv, .csv.gz, .csv.bz2"),
    ],
)
def test_a_file_without_a_readable_header_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, fault: str
) -> None:
    path = written(tmp_path, name, content)
    message = refused(path)
    assert f"'{path}'" in message
    assert fault in message


def test_a_parquet_file_damaged_in_its_middle_is_refused_by_name(tmp_path: Path) -> None:
    path = parquet(tmp_path, "x.parquet", pa.table({"a": ["x" * 10] * 1000, "b": [str(n) for n in range(1000)]}))
    content = bytearray(Path(path).read_bytes())
    content[4:2000] = bytes(1996)
    Path(path).write_bytes(content)
    check_headers(Storage(str(tmp_path)), [path], PAIR)
    with pytest.raises(DataError, match=r"raw file '.*x\.parquet' cannot be read"):
        read(path)


def test_a_file_that_is_gone_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"raw file '.*gone\.csv' cannot be read"):
        read(str(tmp_path / "gone.csv"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_part_of_a_text_file_says_which_lines_it_is(
    tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["a,b", *(f"{n},{'' if n % 5 else 'x'}" for n in range(2, 40)), "", "41,y", "42,z"]
    path = written(tmp_path, "x.csv", end.join(lines))
    for block_bytes in range(1, 40):
        monkeypatch.setattr(raw_lines, "BLOCK_BYTES", block_bytes)
        for block in read_blocks(Storage(str(tmp_path)), Part(path), PAIR):
            first, last = map(int, block.place.removeprefix("lines ").split("-"))
            numbers = [int(number) for number in block.rows.column("a").to_pylist()]
            assert numbers == [n for n in range(first, last + 1) if n > 1 and lines[n - 1]]


def test_a_part_of_a_parquet_file_says_the_row_group_of_each_row(tmp_path: Path) -> None:
    """Groups of one row and none, groups that parts join, and one that they cut."""
    path = str(tmp_path / "x.parquet")
    sizes = [2, 0, 1, 70_000, 65_536, 3, 0]
    groups = [number for number, size in enumerate(sizes) for _ in range(size)]
    table = pa.table({"a": list(map(str, groups)), "b": ["x"] * len(groups)})
    with pq.ParquetWriter(path, table.schema) as writer:
        for number, size in enumerate(sizes):
            writer.write_table(table.slice(sum(sizes[:number]), size), row_group_size=max(size, 1))
    assert pq.read_metadata(path).num_row_groups == len(sizes)
    blocks = list(read_blocks(Storage(str(tmp_path)), Part(path), PAIR))
    places = [place for block in blocks for place in block.places_of(range(block.rows.num_rows))]
    assert places == [f"row group {number}" for number in groups]
    assert [block.place for block in blocks] == ["row groups 0-4", "row groups 4-5"]


def test_a_column_that_changes_its_type_in_a_later_file_is_refused_with_both_files(tmp_path: Path) -> None:
    """Text files keep no types, and collected feedback is text by design."""
    columns = (Column("amount", "number"),)
    feedback = pa.table({"amount": ["1.0"]}).replace_schema_metadata({raw.COLLECTED_AT: "today"})
    paths = [
        parquet(tmp_path, "a.parquet", pa.table({"amount": [1]})),
        parquet(tmp_path, "b.parquet", pa.table({"amount": [1.5]})),
        written(tmp_path, "b.csv", "amount\nx\n"),
        parquet(tmp_path, "c.parquet", feedback),
    ]
    check_headers(Storage(str(tmp_path)), paths, columns)
    paths.append(parquet(tmp_path, "d.parquet", pa.table({"amount": ["n/a"]})))
    with pytest.raises(DataError) as refused:
        check_headers(Storage(str(tmp_path)), paths, columns)
    assert str(refused.value) == (
        f"column 'amount' is int64 in '{paths[0]}' and string in '{paths[4]}'; "
        "write one type, or take one of the files out"
    )


def test_optional_columns_that_a_file_lacks_are_left_out(tmp_path: Path) -> None:
    columns = (Column("a", "text"), Column("c", "text", required=False))
    table = pa.table({"a": ["1"], "b": ["2"]})
    assert read(written(tmp_path, "x.csv", "a,b\n1,2\n"), columns)[0] == [{"a": "1"}]
    assert read(parquet(tmp_path, "x.parquet", table), columns)[0] == [{"a": "1"}]


def read_in_parts(path: str) -> list[dict[str, object]]:
    """All rows of a file, part by part."""
    storage = Storage(str(Path(path).parent))
    blocks = [block for part in parts_of(storage, path) for block in read_blocks(storage, part, PAIR)]
    return [row for block in blocks for row in block.rows.to_pylist()]


@pytest.mark.parametrize("group_rows", [1, 3, 100])
def test_parquet_in_parts_has_each_row_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_rows: int
) -> None:
    table = pa.table({"a": [f"row {number}" for number in range(100)], "b": ["x"] * 100})
    path = str(tmp_path / "x.parquet")
    pq.write_table(table, path, row_group_size=group_rows)
    monkeypatch.setattr(raw, "PART_BYTES", 200)
    assert read_in_parts(path) == table.to_pylist()
    num_parts = len(parts_of(Storage(str(tmp_path)), path))
    assert num_parts == 1 if group_rows == 100 else 1 < num_parts <= 100


def test_an_arrow_file_is_read_by_its_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"a": [f"row {number}" for number in range(100)], "c": range(100), "b": ["x"] * 100})
    path = str(tmp_path / "x.arrow")
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    monkeypatch.setattr(raw, "PART_BYTES", 1000)
    assert len(parts_of(Storage(str(tmp_path)), path)) > 2
    assert read_in_parts(path) == table.select(["a", "b"]).to_pylist()
    check_headers(Storage(str(tmp_path)), [path], PAIR)
