"""Splits over blocks, against those of one table."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.blocks import LocalBlocks
from jobs.features.cuts import split_by_strata, stratum_counts, stratum_cuts
from jobs.features.history import HistorySpec
from jobs.features.split import SPLITS, SplitSpec, split_by_group, split_by_hash, split_by_time
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


def split_whole(rows: pa.Table, split: SplitSpec) -> pa.Table:
    """The same of one table."""
    match split.by:
        case "hash":
            return split_by_hash(rows, split, KEYS)
        case "group":
            return split_by_group(rows, split)
        case "stratified":
            return split_by_strata(rows, stratum_cuts([stratum_counts(rows, "user", KEYS)], split), "user", KEYS)
    return split_by_time(rows, split, "time", KEYS)


WAYS = [
    SplitSpec(by="hash"),
    SplitSpec(by="time"),
    SplitSpec(by="time", within="user"),
    SplitSpec(by="group", column="user"),
    SplitSpec(by="stratified", column="user"),
]


@pytest.mark.parametrize("size", [7, 100, 300])
@pytest.mark.parametrize("split", WAYS, ids=str)
def test_a_row_has_the_split_that_one_table_gives_it_and_splits_lie_side_by_side(split: SplitSpec, size: int) -> None:
    found = split_rows(in_blocks(size), split, (), "time", KEYS, {})
    assert by_key(found.table()) == by_key(split_whole(ROWS, split))
    orders = found.collect(
        "", lambda block, number: [block.column("split").to_pylist()], lambda parts: [o for part in parts for o in part]
    )
    assert all(order == sorted(order, key=SPLITS.index) for order in orders or [])


@pytest.mark.parametrize("split", WAYS, ids=str)
def test_repeated_rows_are_left_out_before_the_split(split: SplitSpec) -> None:
    places = np.array([0, 3, 49])
    found = split_rows(in_blocks(50), split, (), "time", KEYS, {100: places}).table()
    gone = {str(100 + place) for place in places}
    left = ROWS.filter(pc.invert(pc.is_in(ROWS.column("item"), pa.array(sorted(gone)))))
    assert by_key(found) == by_key(split_whole(left, split))


@pytest.mark.parametrize("split", WAYS, ids=str)
def test_a_history_sees_the_rows_of_all_blocks_and_all_splits(split: SplitSpec) -> None:
    history = (HistorySpec(column="time", group="user", time="time", size=3, output="past"),)
    found = split_rows(in_blocks(40), split, history, "time", KEYS, {}).table()
    assert by_key(found) == by_key(split_whole(ROWS, split))
    rows = sorted(ROWS.to_pylist(), key=lambda row: (row["time"], row["user"], row["item"]))
    for row in found.to_pylist():
        before = [one["time"] for one in rows if one["user"] == row["user"] and one["time"] < row["time"]]
        assert row["past"] == before[-3:]
