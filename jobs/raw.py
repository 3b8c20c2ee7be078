"""Raw files as Arrow tables, of formats that are told apart by the names, any mix in one folder.

A row that a format's parser cannot read comes out too, with the reason: nothing vanishes here.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, zip_longest

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from cluster.errors import DataError
from cluster.storage import Storage
from jobs.features.column_types import check_types
from jobs.features.columns import Column, check_header
from jobs.raw_block import PART_BYTES, Part, RawBlock, untyped
from jobs.raw_documents import ENDINGS, document_header, documents, image_header, images
from jobs.raw_lines import COMPRESSIONS, byte_ranges, csv_blocks, csv_header, json_blocks, json_header

BATCH_ROWS = 131_072
"""Of a block of Parquet."""
HEADERS_AT_ONCE = 16
COLLECTED_AT = b"rayline.collected_at"
"""Marks Parquet that `collect` has written, all of it text."""


def check_headers(storage: Storage, paths: Sequence[str], columns: Sequence[Column]) -> None:
    """Raise DataError unless each file has the required columns, in types that agree.

    Reads what says so of each file only: the beginning, or the end of Parquet.
    """

    def check(path: str) -> pa.Schema:
        header = read_header(storage, path)
        check_header(header.names, columns, f"'{path}'")
        return header

    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        check_types(dict(zip(paths, pool.map(check, paths), strict=True)), columns)


def read_header(storage: Storage, path: str) -> pa.Schema:
    """The names of a file's columns, with their types where it keeps them, else null.

    Raises:
        DataError: it cannot be read.
    """
    with _explained(path):
        return _reader(path).header(storage, path)


def parts_of(storage: Storage, path: str) -> list[Part]:
    """The file in parts that are read side by side; reads no more than its footer.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    with _explained(path):
        return _reader(path).parts(storage, path)


def read_blocks(storage: Storage, part: Part, columns: Sequence[Column]) -> Iterator[RawBlock]:
    """The part in blocks of some megabytes, so a file of any size streams.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    with _explained(part.path):
        yield from _reader(part.path).blocks(storage, part, columns)


def _whole(storage: Storage, path: str) -> list[Part]:
    return [Part(path)]


@dataclass(frozen=True)
class _Reader:
    header: Callable[[Storage, str], pa.Schema]
    blocks: Callable[[Storage, Part, Sequence[Column]], Iterator[RawBlock]]
    parts: Callable[[Storage, str], list[Part]] = _whole


def _reader(path: str) -> _Reader:
    for endings, reader in _READERS.items():
        if path.lower().endswith(endings):
            return reader
    known = ", ".join(ending for endings in _READERS for ending in endings)
    raise DataError(f"raw file '{path}' is of no known format; its name must end in one of {known}")


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"raw file '{path}' cannot be read: {error}. Mend it, or take it out of the folder") from None


def _parquet_header(storage: Storage, path: str) -> pa.Schema:
    with storage.open(path) as file:
        schema = pq.read_schema(file)
    return untyped(schema.names) if COLLECTED_AT in (schema.metadata or {}) else schema


def _row_groups(storage: Storage, path: str) -> list[Part]:
    """Neighbouring row groups of about PART_BYTES."""
    with storage.open(path) as file:
        footer = pq.read_metadata(file)
    ends = np.cumsum([footer.row_group(number).total_byte_size for number in range(footer.num_row_groups)])
    firsts = np.flatnonzero(np.diff(ends // PART_BYTES, prepend=-1)).tolist()
    return [Part(path, begin, end) for begin, end in zip_longest(firsts, firsts[1:])]


def _parquet_blocks(storage: Storage, part: Part, columns: Sequence[Column]) -> Iterator[RawBlock]:
    with storage.open(part.path) as opened, pq.ParquetFile(opened) as file:
        present = file.schema_arrow.names
        included = [column.in_files for column in columns if column.in_files in present]
        groups = range(part.begin, file.num_row_groups if part.end is None else part.end)
        sizes = [file.metadata.row_group(number).num_rows for number in groups]
        ends, start = list(accumulate(sizes)), 0
        for batch in file.iter_batches(BATCH_ROWS, groups, included, use_threads=False):
            first, last = bisect_right(ends, start), bisect_left(ends, start + batch.num_rows)
            starts = [(max(ends[n] - sizes[n] - start, 0), groups[n]) for n in range(first, last + 1) if sizes[n]]
            place = f"row group {groups[first]}" if first == last else f"row groups {groups[first]}-{groups[last]}"
            places = tuple((row, f"row group {n}") for row, n in starts)
            yield RawBlock(pa.Table.from_batches([batch]), (), place, places)
            start += batch.num_rows


def _arrow_header(storage: Storage, path: str) -> pa.Schema:
    with storage.open(path) as opened, pa.ipc.open_file(opened) as file:
        return file.schema


def _batches(storage: Storage, path: str) -> list[Part]:
    """Neighbouring record batches of about PART_BYTES, as if all were of one size."""
    with storage.open(path) as opened, pa.ipc.open_file(opened) as file:
        num_batches, num_bytes = file.num_record_batches, opened.size()
    step = max(1, num_batches * PART_BYTES // max(num_bytes, 1))
    starts = range(0, num_batches, step)
    return [Part(path, begin, end) for begin, end in zip_longest(starts, starts[1:])]


def _arrow_blocks(storage: Storage, part: Part, columns: Sequence[Column]) -> Iterator[RawBlock]:
    with storage.open(part.path) as opened, pa.ipc.open_file(opened) as file:
        included = [column.in_files for column in columns if column.in_files in file.schema.names]
        for number in range(part.begin, file.num_record_batches if part.end is None else part.end):
            rows = pa.Table.from_batches([file.get_batch(number)]).select(included)
            yield RawBlock(rows, place=f"record batch {number}")


def _with_compressions(*endings: str) -> tuple[str, ...]:
    return (*endings, *(f"{ending}.{packed}" for ending in endings for packed in COMPRESSIONS))


_READERS: dict[tuple[str, ...], _Reader] = {
    _with_compressions(".csv"): _Reader(csv_header, csv_blocks, byte_ranges),
    _with_compressions(".jsonl", ".ndjson"): _Reader(json_header, json_blocks, byte_ranges),
    (".parquet",): _Reader(_parquet_header, _parquet_blocks, _row_groups),
    (".arrow", ".feather", ".ipc"): _Reader(_arrow_header, _arrow_blocks, _batches),
    (".txt",): _Reader(document_header, documents),
    ENDINGS: _Reader(image_header, images),
}
