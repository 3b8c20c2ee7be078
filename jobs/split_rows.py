"""Which split each row belongs to, over all blocks: repeated rows left out, histories looked up, those of a split side
by side.

A block is split on its own where it can be: by a hash of each row, or by cuts that what all blocks say gives. Rows come
together only where a history, or a split within each user, needs all rows of a group at hand.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from jobs.blocks import Blocks
from jobs.features.cuts import (
    split_at_times,
    split_by_strata,
    stratum_counts,
    stratum_cuts,
    tied_rows,
    time_counts,
    time_cuts,
    with_ties,
)
from jobs.features.history import HistorySpec, history_group, with_history
from jobs.features.split import SplitSpec, side_by_side, split_by_group, split_by_hash, split_by_time

TOGETHER_BYTES = 64 * 1024 * 1024
"""Of a block of rows that had to come together."""
WHAT = "prepare: splitting"


def split_rows(
    rows: Blocks,
    split: SplitSpec,
    history: Sequence[HistorySpec],
    time: str | None,
    keys: tuple[str, ...],
    repeats: Mapping[int, np.ndarray],
) -> Blocks:
    """The rows with the column `split`, and those that the history makes.

    Args:
        time: the column that orders the rows; None where nothing does.
        keys: columns that tell rows apart.
        repeats: places of the rows to leave out, by the number of their block.
    """
    kept = rows.map(lambda block, number: _without(block, repeats.get(number))) if repeats else rows
    group = history_group(history)
    if group is not None:
        kept = kept.together([group], TOGETHER_BYTES).map(
            lambda block, number: with_history(_in_order(block, keys), history, keys)
        )
    return _split(kept, split, time, keys).map(lambda block, number: side_by_side(block))


def _split(rows: Blocks, split: SplitSpec, time: str | None, keys: tuple[str, ...]) -> Blocks:
    match split.by:
        case "hash":
            return rows.map(lambda block, number: split_by_hash(block, split, keys))
        case "group":
            return rows.map(lambda block, number: split_by_group(block, split))
        case "stratified":
            return _stratified(rows, split, keys)
    assert time is not None  # load_ring has checked it
    return _by_time(rows, split, time, keys)


def _by_time(rows: Blocks, split: SplitSpec, time: str, keys: tuple[str, ...]) -> Blocks:
    if split.within is not None:
        gathered = rows.together([split.within], TOGETHER_BYTES)
        return gathered.map(lambda block, number: split_by_time(block, split, time, keys))
    counts = rows.collect(WHAT, lambda block, number: time_counts(block, time), _added)
    if counts is None:
        return rows
    cuts = time_cuts([counts], split)
    tied = rows.collect(WHAT, lambda block, number: tied_rows(block, cuts, time, keys), pa.concat_tables)
    assert tied is not None  # there are rows
    found = with_ties(cuts, [tied], time, keys)
    return rows.map(lambda block, number: split_at_times(block, found, time))


def _stratified(rows: Blocks, split: SplitSpec, keys: tuple[str, ...]) -> Blocks:
    column = split.column
    assert column is not None  # SplitSpec has checked it
    counts = rows.collect(WHAT, lambda block, number: stratum_counts(block, column, keys), pa.concat_tables)
    if counts is None:
        return rows
    cuts = stratum_cuts([counts], split)
    return rows.map(lambda block, number: split_by_strata(block, cuts, column, keys))


def _added(parts: Sequence[pa.Table]) -> pa.Table:
    """How many rows each moment has in all parts."""
    counts = pa.concat_tables(parts).group_by("value").aggregate([("count", "sum")])
    return counts.rename_columns({"count_sum": "count"})


def _in_order(block: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    """Rows that have come together, in an order that does not depend on the way."""
    return block.sort_by([(name, "ascending") for name in keys])


def _without(block: pa.Table, places: np.ndarray | None) -> pa.Table:
    if places is None:
        return block
    kept = np.ones(block.num_rows, bool)
    kept[places] = False
    return block.filter(pa.array(kept))
