from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from jobs.blocks import LocalBlocks
from jobs.first_look import look_at
from jobs.repeats import key_hashes


def blocks(ids: Sequence[str]) -> LocalBlocks:
    """In blocks of three."""
    rows = pa.table({"id": ids})
    return LocalBlocks((start, rows.slice(start, 3)) for start in range(0, len(ids), 3))


@pytest.mark.parametrize("ids", ["abcdefghij", "abcdefgaij", "abcabcaxyz", "a"])
def test_rows_are_counted_and_keys_that_are_there_again_named(ids: str) -> None:
    found = look_at(blocks(list(ids)), ("id",))
    again = [letter for letter in sorted(set(ids)) if ids.count(letter) > 1]
    assert found.num_rows == len(ids)
    assert (
        found.repeated.tolist() == np.sort(key_hashes(pa.table({"id": pa.array(again, pa.string())}), ("id",))).tolist()
    )


def test_of_no_blocks_there_are_no_rows() -> None:
    found = look_at(LocalBlocks([]), ("id",))
    assert (found.num_rows, len(found.repeated)) == (0, 0)
