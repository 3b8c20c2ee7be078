import numpy as np
import pyarrow as pa

from jobs.blocks import LocalBlocks
from jobs.first_look import look_at
from jobs.repeats import key_hashes

ROWS = pa.table({"id": list("abcdefghij"), "x": range(10)})


def test_all_blocks_are_counted_and_every_key_has_its_hash() -> None:
    found = look_at(LocalBlocks((start, ROWS.slice(start, 3)) for start in range(0, 10, 3)), ("id",))
    assert found.num_rows == 10
    assert sorted(np.concatenate(found.key_hashes)) == sorted(key_hashes(ROWS, ("id",)))


def test_nothing_read_is_no_rows() -> None:
    assert look_at(LocalBlocks([]), ("id",)).num_rows == 0
