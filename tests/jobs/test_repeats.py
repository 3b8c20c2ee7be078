"""Repeated rows, against plain Python."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.blocks import LocalBlocks
from jobs.repeats import key_hashes, losers, repeated

Row = dict[str, Any]
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "user": st.sampled_from("abcä"),
            "item": st.sampled_from("xy"),
            "time": st.integers(0, 3),
            "stars": st.floats(0, 5),
        }
    ),
    min_size=1,
    max_size=40,
)


def in_blocks(rows: Sequence[Row], size: int) -> LocalBlocks:
    return LocalBlocks((start, _table(rows[start : start + size])) for start in range(0, len(rows), size))


def _table(rows: Sequence[Row]) -> pa.Table:
    return pa.table({name: [row[name] for row in rows] for name in sorted(rows[0])})


def kept(rows: Sequence[Row], time: str | None, size: int) -> list[Row]:
    blocks, keys = in_blocks(rows, size), ("user", "item")
    hashes = blocks.collect(
        "", lambda block, number: [key_hashes(block, keys)], lambda parts: [h for p in parts for h in p]
    )
    left_out = losers(blocks, repeated(hashes or []), keys, time, "")
    gone = {number + int(place) for number, places in left_out.items() for place in places}
    return [row for number, row in enumerate(rows) if number not in gone]


@settings(max_examples=100)
@given(ROWS, st.integers(1, 7), st.sampled_from([None, "time"]), st.randoms(use_true_random=False))
def test_one_row_of_each_key_stays_the_latest_and_the_same_in_any_order(
    rows: list[Row], size: int, time: str | None, random: Any
) -> None:
    found = kept(rows, time, size)
    assert sorted((row["user"], row["item"]) for row in found) == sorted({(row["user"], row["item"]) for row in rows})
    if time:
        for row in found:
            same = [r["time"] for r in rows if (r["user"], r["item"]) == (row["user"], row["item"])]
            assert row["time"] == max(same)
    shuffled = random.sample(rows, len(rows))
    assert {tuple(row.values()) for row in kept(shuffled, time, size + 1)} == {tuple(row.values()) for row in found}


def test_without_a_repetition_nothing_is_a_candidate() -> None:
    assert repeated([]).tolist() == []
    assert repeated([np.array([3, 1], np.uint64), np.array([2], np.uint64)]).tolist() == []
    assert repeated([np.array([3, 1], np.uint64), np.array([3, 2, 3], np.uint64)]).tolist() == [3]


def test_keys_whose_first_hashes_are_alike_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.repeats.key_hashes", lambda rows, keys: np.zeros(rows.num_rows, np.uint64))
    blocks = in_blocks([{"user": user, "labels": ["a"], "image": b"\0"} for user in "abab"], 3)
    left_out = losers(blocks, np.array([0], np.uint64), ("user",), None, "")
    assert {number: places.tolist() for number, places in left_out.items()} == {0: [2], 3: [0]}
