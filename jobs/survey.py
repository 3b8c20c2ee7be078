"""The first look at all good rows: how many there are, and which may be there twice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.blocks import Blocks
from jobs.repeats import key_hashes


@dataclass(frozen=True)
class Survey:
    """What a first look at the good rows says."""

    num_rows: int
    key_hashes: tuple[np.ndarray, ...]
    """Of some rows each, in no particular order."""


def survey(rows: Blocks, keys: tuple[str, ...]) -> Survey:
    """Read all rows once; with it the bad ones are in quarantine."""

    def look(block: pa.Table, number: int) -> Survey:
        return Survey(block.num_rows, (key_hashes(block, keys),))

    return rows.collect("prepare: reading", look, _merged) or Survey(0, ())


def _merged(parts: Sequence[Survey]) -> Survey:
    return Survey(sum(part.num_rows for part in parts), tuple(h for part in parts for h in part.key_hashes))
