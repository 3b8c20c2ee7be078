"""Raw files as Arrow tables: CSV, JSON lines or Parquet, told apart by their names, any mix in one folder.

A row that a format's parser cannot read comes out too, with the reason: nothing vanishes here.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from cluster.errors import DataError
from cluster.storage import Storage
from jobs.features.columns import Column, check_header

BLOCK_BYTES = 16 * 1024 * 1024
JSON_LINES_AT_ONCE = 50_000
HEADERS_AT_ONCE = 16


@dataclass(frozen=True)
class RawBlock:
    """A part of a file."""

    rows: pa.Table
    """By the names in the file; text from CSV and JSON lines, typed from Parquet."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """Lines that are no rows at all: the text and the reason."""


def check_headers(storage: Storage, paths: Sequence[str], columns: Sequence[Column]) -> None:
    """Raise DataError unless each file has the required columns; reads the beginning of each only."""

    def check(path: str) -> None:
        check_header(_reader(path).header(storage, path), columns, f"'{path}'")

    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        list(pool.map(check, paths))


def read_blocks(storage: Storage, path: str, columns: Sequence[Column]) -> Iterator[RawBlock]:
    """The file in parts of some megabytes, so a file of any size streams. `path` is the filesystem's own.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    wanted = [column.in_files for column in columns]
    try:
        yield from _reader(path).blocks(storage, path, wanted)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise DataError(f"raw file '{path}' cannot be read: {error}") from None


@dataclass(frozen=True)
class _Reader:
    header: Callable[[Storage, str], list[str]]
    blocks: Callable[[Storage, str, Sequence[str]], Iterator[RawBlock]]


def _reader(path: str) -> _Reader:
    for endings, reader in _READERS.items():
        if path.lower().endswith(endings):
            return reader
    known = ", ".join(ending for endings in _READERS for ending in endings)
    raise DataError(f"raw file '{path}' is of no known format; its name must end in one of {known}")


def _csv_header(storage: Storage, path: str) -> list[str]:
    with storage.filesystem.open_input_stream(path) as stream:
        first = io.BytesIO(_first_line(stream))
    try:
        return list(pa.csv.read_csv(first).column_names)
    except pa.ArrowInvalid as error:
        raise DataError(f"raw file '{path}' has no CSV header: {error}") from None


def _first_line(stream: pa.NativeFile) -> bytes:
    head = b""
    while b"\n" not in head and (more := stream.read(64 * 1024)):
        head += more
    return head.split(b"\n", 1)[0] + b"\n"


def _csv_blocks(storage: Storage, path: str, wanted: Sequence[str]) -> Iterator[RawBlock]:
    unreadable: list[tuple[str, str]] = []

    def set_aside(row: pa.csv.InvalidRow) -> str:
        reason = f"row has {row.actual_columns} fields, the header {row.expected_columns}"
        unreadable.extend((line, reason) for line in row.text.splitlines())  # an open quote swallows whole lines
        return "skip"

    header = _csv_header(storage, path)
    included = [name for name in wanted if name in header]
    with storage.filesystem.open_input_stream(path) as stream:
        reader = pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
            parse_options=pa.csv.ParseOptions(invalid_row_handler=set_aside),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(included, pa.string()),
                include_columns=included,
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                null_values=[""],
                check_utf8=False,  # one foreign byte is one bad row, not a bad file
            ),
        )
        for batch in reader:
            rows, foreign = _split_foreign(pa.Table.from_batches([batch]))
            yield RawBlock(rows, (*unreadable, *foreign))
            unreadable.clear()
    if unreadable:
        yield RawBlock(_no_rows(included), tuple(unreadable))


def _split_foreign(rows: pa.Table) -> tuple[pa.Table, list[tuple[str, str]]]:
    """Set rows with a value that is no UTF-8 apart."""
    try:
        rows.validate(full=True)
        return rows, []
    except pa.ArrowInvalid:
        values = [column.cast(pa.binary()).to_pylist() for column in rows.columns]
    texts = [",".join((value or b"").decode("utf-8", "backslashreplace") for value in row) for row in zip(*values, strict=True)]
    good = [all(_is_utf8(value) for value in row) for row in zip(*values, strict=True)]
    foreign = [(text, "row is no UTF-8") for text, fine in zip(texts, good, strict=True) if not fine]
    return rows.filter(pa.array(good)), foreign


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is None or value.decode("utf-8") is not None
    except UnicodeDecodeError:
        return False


def _json_header(storage: Storage, path: str) -> list[str]:
    """Every name of the first readable lines: a line may leave out what it does not know."""
    block = next(_json_blocks(storage, path, ()), None)
    return block.rows.column_names if block else []


def _json_blocks(storage: Storage, path: str, wanted: Sequence[str]) -> Iterator[RawBlock]:
    with storage.filesystem.open_input_stream(path) as stream:
        lines: list[bytes] = []
        for line in io.BufferedReader(stream):
            if line.strip():
                lines.append(line)
            if len(lines) == JSON_LINES_AT_ONCE:
                yield _json_block(lines, wanted)
                lines = []
        if lines:
            yield _json_block(lines, wanted)


def _json_block(lines: Sequence[bytes], wanted: Sequence[str]) -> RawBlock:
    rows: list[dict[str, object]] = []
    unreadable: list[tuple[str, str]] = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            unreadable.append((line.decode("utf-8", "replace").rstrip("\n"), f"line is no JSON: {error}"))
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            unreadable.append((line.decode("utf-8", "replace").rstrip("\n"), "line is no JSON object"))
    names = wanted or list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: pa.array([_as_text(row.get(name)) for row in rows], pa.string()) for name in names}
    return RawBlock(pa.table(columns), tuple(unreadable))


def _as_text(value: object) -> str | None:
    """A JSON value the way CSV would spell it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "|".join(value)
    return json.dumps(value)


def _parquet_header(storage: Storage, path: str) -> list[str]:
    try:
        return list(pq.read_schema(path, filesystem=storage.filesystem).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"raw file '{path}' is no Parquet file: {error}") from None


def _parquet_blocks(storage: Storage, path: str, wanted: Sequence[str]) -> Iterator[RawBlock]:
    with pq.ParquetFile(path, filesystem=storage.filesystem) as file:
        included = [name for name in wanted if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=included):
            yield RawBlock(pa.Table.from_batches([batch]))


def _no_rows(names: Sequence[str]) -> pa.Table:
    return pa.table({name: pa.array([], pa.string()) for name in names})


_READERS: dict[tuple[str, ...], _Reader] = {
    (".csv", ".csv.gz"): _Reader(_csv_header, _csv_blocks),
    (".jsonl", ".ndjson", ".jsonl.gz"): _Reader(_json_header, _json_blocks),
    (".parquet",): _Reader(_parquet_header, _parquet_blocks),
}
