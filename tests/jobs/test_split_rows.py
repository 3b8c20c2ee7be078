"""Splits over blocks, against those of one table."""

import numpy as np
import pyarrow as pa
import pytest

from jobs.blocks import LocalBlocks
from jobs.features.split import SPLITS, SplitSpec, split_by_hash, split_by_time
from jobs.split_rows import split_rows

GENERATOR = np.random.default_rng(0)
ROWS = pa.table(
    {
        "user": GENERATOR.choice(list("abcdefgh"), 300),
        "item": [str(number) for number in range(300)],
        "time": GENERATOR.integers(0, 40, 300),
    }
)
KEYS = ("user", "item")


def by_key(table: pa.Table) -> dict[str, str]:
    return dict(zip(table.column("item").to_pylist(), table.column("split").to_pylist(), strict=True))


def in_blocks(size: int) -> LocalBlocks:
    return LocalBlocks((start, ROWS.slice(start, size)) for start in range(0, 300, size))


@pytest.mark.parametrize("size", [7, 100, 300])
@pytest.mark.parametrize(
    "split",
    [SplitSpec(by="hash"), SplitSpec(by="time"), SplitSpec(by="time", within="user")],
    ids=["hash", "time", "within"],
)
def test_a_row_has_the_split_that_one_table_gives_it_and_splits_lie_side_by_side(split: SplitSpec, size: int) -> None:
    found = split_rows(in_blocks(size), split, "time", KEYS, {})
    whole = split_by_hash(ROWS, split, KEYS) if split.by == "hash" else split_by_time(ROWS, split, "time", KEYS)
    assert by_key(found.table()) == by_key(whole)
    orders = found.collect(
        "", lambda block, number: [block.column("split").to_pylist()], lambda parts: [o for part in parts for o in part]
    )
    assert all(order == sorted(order, key=SPLITS.index) for order in orders or [])


@pytest.mark.parametrize("split", [SplitSpec(by="hash"), SplitSpec(by="time"), SplitSpec(by="time", within="user")])
def test_repeated_rows_are_left_out_before_the_split(split: SplitSpec) -> None:
    places = np.array([0, 3, 49])
    found = split_rows(in_blocks(50), split, "time", KEYS, {100: places}).table()
    assert set(found.column("item").to_pylist()) == {str(n) for n in range(300)} - {str(100 + n) for n in places}
