"""Cuts: where splits begin, found from what each block says, so that no machine holds all rows.

Stratified: stratum_counts of each block -> stratum_cuts -> split_by_strata of each block.
By time over all rows: time_counts -> time_cuts -> tied_rows of each block -> with_ties -> split_at_times.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.features.arrays import one_array
from jobs.features.row_hash import row_hashes
from jobs.features.split import SplitSpec, with_split


@dataclass(frozen=True)
class TimeCuts:
    """The first row that validates and the first that tests, in the order of time and ties."""

    moments: tuple[int | None, int | None]
    """None where no row is in that split or a later one."""
    ranks: tuple[int, int]
    """Which of the rows of the moment it is, from 0 on."""
    firsts: tuple[pa.Table | None, pa.Table | None] = (None, None)
    """The columns `ties` of these rows [1 row]; `with_ties` finds them."""


def time_counts(block: pa.Table, time: str) -> pa.Table:
    """How many rows each moment has: `value`, `count`."""
    found = pc.value_counts(one_array(block.column(time)))
    return pa.table({"value": found.field("values").cast(pa.int64()), "count": found.field("counts")})


def time_cuts(parts: Sequence[pa.Table], spec: SplitSpec) -> TimeCuts:
    """The moments of the cuts, from the `time_counts` of all blocks."""
    counts = pa.concat_tables(parts).group_by("value").aggregate([("count", "sum")]).sort_by("value")
    ends = np.cumsum(counts.column("count_sum").to_numpy())
    num_rows = int(ends[-1]) if len(ends) else 0
    moments, ranks = list[int | None](), list[int]()
    for first in _firsts(num_rows, spec):
        place = int(np.searchsorted(ends, first, side="right"))
        is_there = first < num_rows
        moments.append(counts.column("value")[place].as_py() if is_there else None)
        ranks.append(first - (int(ends[place - 1]) if place else 0) if is_there else 0)
    return TimeCuts((moments[0], moments[1]), (ranks[0], ranks[1]))


def tied_rows(block: pa.Table, cuts: TimeCuts, time: str, ties: Sequence[str]) -> pa.Table:
    """The time and the ties of the block's rows of exactly a cut's moment."""
    moments = pa.array([moment for moment in cuts.moments if moment is not None], block.schema.field(time).type)
    return block.select(list(dict.fromkeys((time, *ties)))).filter(pc.is_in(block.column(time), moments))


def with_ties(cuts: TimeCuts, parts: Sequence[pa.Table], time: str, ties: Sequence[str]) -> TimeCuts:
    """The cuts with the first rows of their splits, from the `tied_rows` of all blocks; ties tell rows apart."""
    rows = pa.concat_tables(parts).sort_by([(name, "ascending") for name in ties])

    def first(cut: int) -> pa.Table | None:
        if cuts.moments[cut] is None:
            return None
        tied = rows.filter(pc.equal(rows.column(time), cuts.moments[cut]))
        return tied.select(list(ties)).slice(cuts.ranks[cut], 1)

    return replace(cuts, firsts=(first(0), first(1)))


def split_at_times(block: pa.Table, cuts: TimeCuts, time: str) -> pa.Table:
    """Add the column `split`; each row has the very one that `split_by_time` of all rows without `within` gives it."""
    times = block.column(time).to_numpy()
    places = np.zeros(block.num_rows, np.int64)
    for moment, first in zip(cuts.moments, cuts.firsts, strict=True):
        if moment is not None and first is not None:
            places += times > moment
            tied = np.flatnonzero(times == moment)
            places[tied[_is_from(block.select(first.column_names).take(pa.array(tied)), first)]] += 1
    return with_split(block, places)


def _is_from(rows: pa.Table, first: pa.Table) -> np.ndarray:
    """Whether each row is equal to the first or sorts after it."""
    both = pa.concat_tables([first, rows]).append_column("\0place", pa.array(np.arange(rows.num_rows + 1)))
    order = pc.sort_indices(both, [(name, "ascending") for name in both.column_names]).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    is_from: np.ndarray = rank[1:] > rank[0]
    return is_from


def stratum_counts(block: pa.Table, column: str, keys: Sequence[str]) -> pa.Table:
    """The class and the hash of the keys of each row: `label`, `hash`; 8 bytes a row besides the class."""
    hashes = row_hashes([block.column(key) for key in keys])
    return pa.table({"label": block.column(column).cast(pa.string()), "hash": pa.array(hashes, pa.uint64())})


def stratum_cuts(parts: Sequence[pa.Table], spec: SplitSpec) -> pa.Table:
    """From which hash on rows of each class validate, and test: `label`, `valid`, `test`; missing where none do."""
    rows = pa.concat_tables(parts).sort_by([("label", "ascending"), ("hash", "ascending")])
    labels = one_array(rows.column("label")).dictionary_encode(null_encoding="encode")
    hashes = rows.column("hash").to_numpy()
    sizes = np.bincount(labels.indices.to_numpy(), minlength=len(labels.dictionary))
    cuts: tuple[list[int | None], list[int | None]] = ([], [])
    for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
        for found, first in zip(cuts, _firsts(int(size), spec), strict=True):
            found.append(int(hashes[start + first]) if first < size else None)
    names = {"label": labels.dictionary.cast(pa.string())}
    return pa.table({**names, "valid": pa.array(cuts[0], pa.uint64()), "test": pa.array(cuts[1], pa.uint64())})


def split_by_strata(block: pa.Table, cuts: pa.Table, column: str, keys: Sequence[str]) -> pa.Table:
    """Add the column `split`: the rows of each class with the lowest hashes train, those with the highest test."""
    hashes = pa.array(row_hashes([block.column(key) for key in keys]), pa.uint64())
    labels = one_array(block.column(column).cast(pa.string()))
    place = pc.index_in(labels, one_array(cuts.column("label")))
    places = np.zeros(block.num_rows, np.int64)
    for name in ("valid", "test"):
        is_from = pc.greater_equal(hashes, one_array(cuts.column(name)).take(place))
        places += pc.fill_null(is_from, False).to_numpy(zero_copy_only=False)
    return with_split(block, places)


def _firsts(num_rows: int, spec: SplitSpec) -> tuple[int, int]:
    """Which of sorted rows are the first to validate and to test; the middle of a row's place counts, and the first
    row trains."""

    def share(row: int) -> float:
        return (row + 0.5) / num_rows if row else 0.0

    valid, test = (bisect_left(range(num_rows), bound, key=share) for bound in spec.bounds)
    return valid, test
