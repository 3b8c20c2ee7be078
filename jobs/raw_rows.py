"""A raw table as typed rows: every value checked, and each bad row in quarantine with the reason."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.errors import DataError
from cluster.storage import Storage
from jobs.bad_rows import blamed, file_name, first_rows, in_order
from jobs.blocks import Blocks, ClusterBlocks, LocalBlocks, of_parts
from jobs.features.columns import REASON, Column, check_rows
from jobs.prepared_files import as_parquet
from jobs.raw import parts_of, read_blocks
from jobs.raw_block import Part, RawBlock

FOOTERS_AT_ONCE = 16
BUNDLE_BYTES = 1024 * 1024
"""Of small files that are read together."""
READ_AGAIN = (".parquet", ".arrow", ".feather", ".ipc")
"""Formats that are quick to read, so that each pass does."""


@dataclass(frozen=True)
class RawTable:
    """One raw table and where its bad rows go."""

    storage: Storage
    path: str
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    """Bytes of each."""
    columns: tuple[Column, ...]
    quarantine: str


@dataclass(frozen=True)
class Quarantine:
    """What a table's bad rows are."""

    num_rows: int
    reasons: tuple[str, ...]
    """Of the first few."""
    where: str = ""
    """The file, and the part of it, that these lie in."""


def good_rows(table: RawTable, in_process: bool) -> Blocks:
    """The rows that break no rule, in blocks; with the first pass over them the others are in quarantine."""
    print(f"prepare: reading {table.path}, {len(table.files)} files", flush=True)
    table.storage.remove(table.quarantine)

    def read(bundle: tuple[Part, ...]) -> Iterator[pa.Table]:
        blocks = (_good(table, part, *numbered) for part in bundle for numbered in _numbered(table, part))
        if len(bundle) == 1:
            yield from blocks
        else:
            yield pa.concat_tables(blocks)

    bundles = _bundles(table)
    load = of_parts(bundles, read)
    if in_process:
        return LocalBlocks.loaded(len(bundles), load)
    rows = ClusterBlocks(len(bundles), load)
    return rows if all(path.lower().endswith(READ_AGAIN) for path in table.files) else rows.kept()


def _numbered(table: RawTable, part: Part) -> Iterator[tuple[int, RawBlock]]:
    return enumerate(read_blocks(table.storage, part, table.columns))


def _bundles(table: RawTable) -> list[tuple[Part, ...]]:
    """The parts of all files in their order; small files that follow each other are read together, as one block."""
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as threads:
        parts = list(threads.map(lambda path: parts_of(table.storage, path), table.files))
    bundles: list[tuple[Part, ...]] = []
    room = 0
    for of_file, num_bytes in zip(parts, table.sizes, strict=True):
        if len(of_file) == 1 and num_bytes <= room:
            bundles[-1] = (*bundles[-1], *of_file)
            room -= num_bytes
        else:
            bundles += [(part,) for part in of_file]
            room = BUNDLE_BYTES - num_bytes if len(of_file) == 1 else 0
    return bundles


def quarantined(table: RawTable) -> Quarantine:
    """What is in quarantine once all rows were read."""
    paths = _bad_files(table)
    if not paths:
        return Quarantine(0, ())
    first = first_rows(table.storage, paths[0])
    num_rows = sum(_num_rows(table.storage, path) for path in paths)
    return Quarantine(num_rows, tuple(row.reason for row in first if row.place == first[0].place), first[0].where)


def _bad_files(table: RawTable) -> list[str]:
    return in_order([info.path for info in table.storage.files(table.quarantine)], table.files)


def _num_rows(storage: Storage, path: str) -> int:
    with storage.open(path) as file:
        return int(pq.read_metadata(file).num_rows)


def check_quarantine(table: RawTable, num_good: int, found: Quarantine, max_bad_fraction: float) -> None:
    """Refuse a table that has too many bad rows.

    Raises:
        DataError: there are no rows, or too many bad ones.
    """
    storage, num_bad = table.storage, found.num_rows
    num_rows = num_good + num_bad
    if num_rows == 0:
        raise DataError(f"raw data '{table.path}' in '{storage.uri}' has a header but no rows")
    if num_good == 0 or num_bad > max_bad_fraction * num_rows:
        blame = blamed(storage, _bad_files(table), table.columns)
        told = f"Nearly all: {blame}. " if blame else ""
        raise DataError(
            f"{num_bad:,} of {num_rows:,} rows of '{table.path}' ({num_bad / num_rows:.1%}) are bad, "
            f"prepare.max_bad_fraction={max_bad_fraction:g} allows {max_bad_fraction:.1%}. "
            f"First: {'; '.join(found.reasons)} (in {found.where}). {told}"
            f"All are in '{storage.path(table.quarantine)}' with the reason; "
            "mend them, or raise the limit"
        )


def _good(table: RawTable, part: Part, number: int, block: RawBlock) -> pa.Table:
    """Check one block; its bad rows are written under a name that a second try of the task writes again."""
    checked = check_rows(block.rows, table.columns)
    reasons_of_rows = checked.column(REASON)
    rows = checked.drop_columns([REASON])
    if reasons_of_rows.null_count == checked.num_rows and not block.unreadable:
        return rows
    is_bad = pc.is_valid(reasons_of_rows)
    name = f"{table.quarantine}/{file_name(part.path, part.begin, number)}"
    if not table.storage.exists(name):  # later passes find what the first one wrote
        table.storage.write(name, as_parquet(_told(block, is_bad, reasons_of_rows, part.path)))
    return rows.filter(pc.invert(is_bad))


def _told(block: RawBlock, is_bad: pa.ChunkedArray, reasons_of_rows: pa.ChunkedArray, path: str) -> pa.Table:
    """The bad rows as people read them."""
    texts = [_as_text(row) for row in block.rows.filter(is_bad).to_pylist()]
    texts += [text for text, _ in block.unreadable]
    reasons = reasons_of_rows.filter(is_bad).to_pylist() + [reason for _, reason in block.unreadable]
    places = block.places_of(pc.indices_nonzero(is_bad).to_pylist()) + [block.place] * len(block.unreadable)
    sources = pa.array([path] * len(reasons), pa.string())
    return pa.table({"source": sources, "place": pa.array(places, pa.string()), "reason": reasons, "row": texts})


def _as_text(row: dict[str, object]) -> str:
    """A row as people read it; of bytes, such as those of an image, their number."""
    return str({name: f"{len(value):,} bytes" if isinstance(value, bytes) else value for name, value in row.items()})
