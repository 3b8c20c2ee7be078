"""Raw text of a row a line: CSV and JSON lines, whole or in ranges of bytes.

A line that cannot be read comes out too, with the reason. A quoted value ends on its line: one quote left open would
otherwise swallow all lines up to the next.
"""

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest

import pyarrow as pa
import pyarrow.csv

from cluster.errors import DataError
from cluster.storage import Storage
from jobs.features.columns import Column
from jobs.raw_block import PART_BYTES, Part, RawBlock, untyped

BLOCK_BYTES = 16 * 1024 * 1024
HEADER_BYTES = 1024 * 1024
"""How much of a text file is read for its columns."""
STREAM_BYTES = 1024 * 1024
"""How much of a compressed file is asked for at a time."""
COMPRESSIONS = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4"}
"""The ending of a compressed file of text, and what Arrow calls it."""

_FIELD = rb'(?:"[^"]*+(?:""[^"]*+)*+"[^,]*|[^",][^,]*|)'
_CLOSED = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*")
"""A CSV line without an open quote; as in Arrow, a quote counts only where a field begins."""


def byte_ranges(storage: Storage, path: str) -> list[Part]:
    """Parts of about PART_BYTES; one of all where it is compressed."""
    if _compression(path):
        return [Part(path)]
    with storage.open(path) as file:
        starts = range(0, max(file.size(), 1), PART_BYTES)
    return [Part(path, begin, end) for begin, end in zip_longest(starts, starts[1:])]


def _compression(path: str) -> str | None:
    return COMPRESSIONS.get(path.lower().rpartition(".")[2])


def _line_blocks(storage: Storage, part: Part, block_bytes: int) -> Iterator[tuple[list[bytes], str]]:
    """The lines that begin in the part and are not blank, about `block_bytes` of them at a time, and where they are.

    That is by number in the file's first part, and by bytes in others, which do not know how many lines came before.
    """
    with storage.open(part.path) as file:
        if part.begin:
            file.seek(part.begin - 1)  # which may be the end of the line before
        with pa.input_stream(file, _compression(part.path), STREAM_BYTES) as stream:
            yield from _lines_of(stream, part, block_bytes)


def _lines_of(stream: pa.NativeFile, part: Part, block_bytes: int) -> Iterator[tuple[list[bytes], str]]:
    rest, place = stream.read(block_bytes), max(part.begin - 1, 0)
    num_before, is_between = 0, False
    if part.begin:
        while rest and (end := _line_end(rest, 0)) is None:
            place += len(rest)
            rest = stream.read(block_bytes)
        if rest:
            rest, place = rest[end:] or stream.read(block_bytes), place + (end or 0)
    elif rest.startswith(codecs.BOM_UTF8):
        place = len(codecs.BOM_UTF8)
        rest = rest[place:] or stream.read(block_bytes)
    while rest and (part.end is None or place < part.end):
        more = stream.read(block_bytes)
        whole = max(rest.rfind(b"\n"), rest.rfind(b"\r")) + 1 if more else len(rest)
        last = None if part.end is None else _line_end(rest[:whole], part.end - 1 - place)
        cut = rest[:whole][is_between:last].splitlines()
        lines = [line for line in cut if line.strip()]
        if lines:
            numbers = f"lines {num_before + 1}-{num_before + len(cut)}"
            yield lines, f"bytes {place}-{place + whole}" if part.begin else numbers
        if last is not None:
            return
        num_before += len(cut)
        is_return = rest[whole - 1 : whole] == b"\r"
        rest, place = rest[whole:] + more, place + whole
        is_between = is_return and rest.startswith(b"\n")  # the two are one end of a line


def _line_end(text: bytes, start: int) -> int | None:
    """Where the line that holds the byte `start` ends; None if it goes on beyond the text."""
    ends = [place for place in (text.find(b"\n", start), text.find(b"\r", start)) if place >= 0]
    return min(ends) + 1 if ends else None


def csv_header(storage: Storage, path: str) -> pa.Schema:
    """The names in the first line.

    Raises:
        DataError: there are none.
    """
    first = next(_line_blocks(storage, Part(path), HEADER_BYTES), None)
    return untyped(_names(path, first[0][0] if first else b""))


def _names(path: str, line: bytes) -> list[str]:
    fault = _fault(line) if line else "is empty"
    if fault:
        raise DataError(f"raw file '{path}' has no CSV header, its first line {fault}; give it one, in UTF-8")
    return list(pa.csv.read_csv(pa.BufferReader(line + b"\n")).column_names)


def csv_blocks(storage: Storage, part: Part, columns: Sequence[Column]) -> Iterator[RawBlock]:
    """The rows of a part; the names of the columns come from the file's first line."""
    header: list[str] = csv_header(storage, part.path).names if part.begin else []
    for lines, place in _line_blocks(storage, part, BLOCK_BYTES):
        first_row = 0 if header else 1
        header = header or _names(part.path, lines[0])
        yield replace(_csv_block(lines[first_row:], header, columns), place=place)


def _csv_block(lines: Sequence[bytes], header: list[str], columns: Sequence[Column]) -> RawBlock:
    content = b"\n".join(lines)
    is_plain = b'"' not in content and _is_utf8(content)  # then no line has a fault, and none has to be looked at
    faults = [None] * len(lines) if is_plain else [_fault(line) for line in lines]
    unreadable = [(_shown(line), f"line {fault}") for line, fault in zip(lines, faults, strict=True) if fault]

    def set_aside(row: pa.csv.InvalidRow) -> str:
        unreadable.append((row.text, f"row has {row.actual_columns} fields, the header {row.expected_columns}"))
        return "skip"

    if unreadable:
        content = b"\n".join(line for line, fault in zip(lines, faults, strict=True) if not fault)
    included = [column.in_files for column in columns if column.in_files in header]
    if not content:
        return RawBlock(pa.table({name: pa.array([], pa.string()) for name in included}), tuple(unreadable))
    rows = pa.csv.read_csv(
        pa.BufferReader(content),
        read_options=pa.csv.ReadOptions(column_names=header, block_size=len(content), use_threads=False),
        parse_options=pa.csv.ParseOptions(invalid_row_handler=set_aside),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(included, pa.string()),
            include_columns=included,
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=[""],
        ),
    )
    return RawBlock(rows, tuple(unreadable))


def _fault(line: bytes) -> str | None:
    """Why a line of CSV cannot be parsed on its own."""
    if b'"' in line and not _CLOSED.fullmatch(line):
        return "leaves a quote open"
    return None if line.isascii() or _is_utf8(line) else "is no UTF-8"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _shown(line: bytes) -> str:
    return line.decode(errors="backslashreplace")


def json_header(storage: Storage, path: str) -> pa.Schema:
    """Every name of the first lines: a line may leave out what it does not know."""
    names: dict[str, None] = {}
    lines, _ = next(_line_blocks(storage, Part(path), HEADER_BYTES), ([], ""))
    for line in lines:
        with suppress(ValueError):
            names |= dict.fromkeys(_json_object(line))
    return untyped(list(names))


def json_blocks(storage: Storage, part: Part, columns: Sequence[Column]) -> Iterator[RawBlock]:
    """The rows of a part, each value as CSV would spell it."""
    for lines, place in _line_blocks(storage, part, BLOCK_BYTES):
        yield replace(_json_block(lines, columns), place=place)


def _json_block(lines: Sequence[bytes], columns: Sequence[Column]) -> RawBlock:
    rows: list[list[str | None]] = []
    unreadable: list[tuple[str, str]] = []
    for line in lines:
        try:
            row = _json_object(line)
            rows.append([_as_text(row.get(column.in_files), column) for column in columns])
        except ValueError as error:
            unreadable.append((_shown(line), str(error)))
    texts = {column.in_files: [row[i] for row in rows] for i, column in enumerate(columns)}
    return RawBlock(
        pa.table({name: pa.array(values, pa.string()) for name, values in texts.items()}), tuple(unreadable)
    )


def _json_object(line: bytes) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line is no JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError("line is no JSON object")
    return row


def _as_text(value: object, column: Column) -> str | None:
    """A JSON value the way CSV would spell it.

    Raises:
        ValueError: CSV has no spelling for it.
    """
    if isinstance(value, list) and column.kind == "labels":
        labels = [_scalar_as_text(part, column) for part in value]
        return "|".join(label for label in labels if label is not None)
    if isinstance(value, list) and column.kind == "numbers":
        return "|".join(_scalar_as_text(part, column) or "null" for part in value)
    return _scalar_as_text(value, column)


def _scalar_as_text(value: object, column: Column) -> str | None:
    if isinstance(value, list | dict):
        raise ValueError(f"{column.in_files} {json.dumps(value)} is nested")
    if isinstance(value, str):
        value.encode()  # JSON can spell half a surrogate pair, text cannot
    return value if value is None or isinstance(value, str) else json.dumps(value)
