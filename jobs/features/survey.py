"""Survey: what the columns of a table hold, gathered block by block: exact totals, and a sample that no cut changes.

The sample is of the rows with the lowest hashes of their keys, as in the theta sketch of Dasgupta et al. (2016), so it
depends neither on how rows are parted nor on which block is done first. A share p that is seen in a sample of n rows
has a binomial standard error of sqrt(p (1 - p) / n): at 16,384 rows at most 0.4 percentage points. Where a table has
no more rows than that, the sample is the table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.features.row_hash import row_hashes

SAMPLE_ROWS = 16_384
TEXT_CHARACTERS = 64
"""What the sample keeps of a text."""
LIST_ENTRIES = 32
"""What the sample keeps of a list."""
EVERY_HASH = 2**64 - 1
_SPARE = 1.25
"""By how much more rows than the sample takes are let through, so that there are enough whatever the hashes are."""

Form = Literal["number", "text", "labels", "numbers", "bytes", "other"]
"""What the values of a column are."""


@dataclass(frozen=True)
class Totals:
    """Exact numbers of a column: of its values where they are numbers, else of their lengths."""

    form: Form
    num_missing: int
    num_known: int
    low: float = math.inf
    high: float = -math.inf
    mean: float = 0.0
    squares: float = 0.0
    """Of the distances from the mean, added up. Sums of floats depend on the order in their last bits alone, so
    whoever shows the mean or this rounds it."""


@dataclass(frozen=True)
class Survey:
    """What some rows hold; `merge` makes one of several."""

    num_rows: int
    totals: dict[str, Totals]
    sample: pa.Table
    """Rows with a hash below `bound`. Text and lists are cut, of bytes the number alone is kept."""
    hashes: np.ndarray
    """Of the sample's rows [rows] uint64."""
    bound: int


def bound_for(num_rows: int) -> int:
    """The hash below which a table of so many rows has enough of them for the sample, so that each of many blocks
    brings its part and no more."""
    return min(EVERY_HASH, int(_SPARE * SAMPLE_ROWS / max(num_rows, 1) * 2**64))


def survey(block: pa.Table, keys: np.ndarray | Sequence[str], bound: int = EVERY_HASH) -> Survey:
    """What one block holds. Numbers that are not finite count as missing.

    Args:
        keys: the columns that tell rows apart, or the hashes of these [rows] uint64 where they are known.
        bound: `bound_for` the rows of all blocks, where that is known; the same for all.
    """
    hashes = keys if isinstance(keys, np.ndarray) else row_hashes([block.column(name) for name in keys])
    chosen, bound = _lowest(hashes, bound)
    columns = {name: _plain(block.column(name)) for name in block.column_names}
    rows = pa.array(chosen)
    sample = pa.table({name: _cut(column.take(rows)) for name, column in columns.items()})
    totals = {name: _totals(column) for name, column in columns.items()}
    return Survey(block.num_rows, totals, sample, hashes[chosen], bound)


def merge(parts: Sequence[Survey]) -> Survey:
    """Several parts' survey as one, in any order and grouping the same; at least one part, all of the same columns."""
    bound = min(part.bound for part in parts)
    hashes = np.concatenate([part.hashes for part in parts])
    chosen, bound = _lowest(hashes, bound)
    chosen = chosen[np.argsort(hashes[chosen], kind="stable")]
    sample = pa.concat_tables([part.sample for part in parts]).take(pa.array(chosen)).combine_chunks()
    totals = {name: _added([part.totals[name] for part in parts]) for name in parts[0].totals}
    return Survey(sum(part.num_rows for part in parts), totals, sample, hashes[chosen], bound)


def _lowest(hashes: np.ndarray, bound: int) -> tuple[np.ndarray, int]:
    """The rows below the bound, and the bound; one that leaves out all of a hash if the sample would be too large."""
    is_below = hashes <= np.uint64(bound) if bound == EVERY_HASH else hashes < np.uint64(bound)
    rows = np.flatnonzero(is_below)
    if len(rows) <= SAMPLE_ROWS:
        return rows, bound
    found = hashes[rows]
    first_out = np.partition(found, SAMPLE_ROWS)[SAMPLE_ROWS]
    return rows[found < first_out], int(first_out)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dictionaries decoded, true and false as text, moments as seconds since 1970, what is not finite missing."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_boolean(kind):
        return column.cast(pa.string())
    if pa.types.is_timestamp(kind):
        return pc.divide(column.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.float64(), safe=False), 1e6)
    if pa.types.is_floating(kind) and not math.isfinite(pc.sum(column).as_py() or 0):
        return pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))
    return column


def _form(kind: pa.DataType) -> Form:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "bytes"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _form(kind.value_type)
        return "numbers" if inner == "number" else "labels" if inner == "text" else "other"
    return "other"


def _cut(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """What the sample keeps of a column."""
    form = _form(column.type)
    if form == "text":
        return pc.utf8_slice_codeunits(column, 0, TEXT_CHARACTERS)
    if form in ("labels", "numbers"):
        return pc.list_slice(column, 0, LIST_ENTRIES, return_fixed_size_list=False)
    return pc.binary_length(column) if form == "bytes" else column


def _totals(column: pa.ChunkedArray) -> Totals:
    form = _form(column.type)
    num_known = len(column) - column.null_count
    if form == "other" or not num_known:
        return Totals(form, column.null_count, num_known)
    sizes = _sizes(column, form).drop_null().to_numpy()  # NumPy finds the ends of floats 20 times as fast as Arrow
    mean = float(sizes.mean(dtype=np.float64))
    apart = sizes - mean
    return Totals(
        form, column.null_count, num_known, float(sizes.min()), float(sizes.max()), mean, float(np.dot(apart, apart))
    )


def _sizes(column: pa.ChunkedArray, form: Form) -> pa.ChunkedArray:
    """The numbers that the totals are of."""
    if form == "text":
        return pc.utf8_length(column)
    if form == "bytes":
        return pc.binary_length(column)
    return pc.list_value_length(column) if form in ("labels", "numbers") else column


def _added(parts: Sequence[Totals]) -> Totals:
    """Totals of all rows (Chan, Golub and LeVeque, 1983)."""
    num_known = sum(part.num_known for part in parts)
    mean = math.fsum(part.mean * part.num_known for part in parts) / num_known if num_known else 0.0
    return Totals(
        parts[0].form,
        sum(part.num_missing for part in parts),
        num_known,
        min(part.low for part in parts),
        max(part.high for part in parts),
        mean,
        math.fsum(part.squares + part.num_known * (part.mean - mean) ** 2 for part in parts),
    )
