"""Which split each row belongs to, over all blocks: repeated rows left out, those of a split side by side."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from jobs.blocks import Blocks, LocalBlocks
from jobs.features.split import SplitSpec, side_by_side, split_by_hash, split_by_time

TOGETHER_BYTES = 64 * 1024 * 1024
"""Of a block of rows that had to come together."""


def split_rows(
    rows: Blocks, split: SplitSpec, time: str | None, keys: tuple[str, ...], repeats: Mapping[int, np.ndarray]
) -> Blocks:
    """The rows with the column `split`.

    Args:
        time: the column that orders the rows; None where nothing does.
        keys: columns that tell rows apart.
        repeats: places of the rows to leave out, by the number of their block.
    """
    if split.by == "hash":
        return rows.map(lambda block, number: side_by_side(split_by_hash(block, split, keys), repeats.get(number)))
    assert time is not None  # load_ring has checked it

    def by_time(block: pa.Table, number: int) -> pa.Table:
        return side_by_side(split_by_time(block, split, time, keys))

    kept = rows.map(lambda block, number: _without(block, repeats.get(number))) if repeats else rows
    if split.within is None:
        return LocalBlocks([(0, kept.table())]).map(by_time)
    return kept.together([split.within], TOGETHER_BYTES).map(by_time)


def _without(block: pa.Table, places: np.ndarray | None) -> pa.Table:
    if places is None:
        return block
    kept = np.ones(block.num_rows, bool)
    kept[places] = False
    return block.filter(pa.array(kept))
