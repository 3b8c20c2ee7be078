"""The first look at all good rows: how many there are, and which may be there twice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.blocks import Blocks
from jobs.repeats import key_hashes


@dataclass(frozen=True)
class FirstLook:
    """What a first look at the good rows says."""

    num_rows: int
    key_hashes: tuple[np.ndarray, ...]
    """Of some rows each, in no particular order."""


def look_at(rows: Blocks, keys: tuple[str, ...]) -> FirstLook:
    """Read all rows once; with it the bad ones are in quarantine."""

    def look(block: pa.Table, number: int) -> FirstLook:
        return FirstLook(block.num_rows, (key_hashes(block, keys),))

    return rows.collect("prepare: reading", look, _merged) or FirstLook(0, ())


def _merged(parts: Sequence[FirstLook]) -> FirstLook:
    return FirstLook(sum(part.num_rows for part in parts), tuple(h for part in parts for h in part.key_hashes))
