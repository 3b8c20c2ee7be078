"""The first look at all good rows: how many there are, and which may be there twice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.blocks import Blocks
from jobs.repeats import key_hashes, repeated


@dataclass(frozen=True)
class FirstLook:
    """What a first look at the good rows says."""

    num_rows: int
    repeated: np.ndarray
    """Hashes of the keys that may be there more than once, in rising order [hashes] uint64."""


def look_at(rows: Blocks, keys: tuple[str, ...]) -> FirstLook:
    """Read all rows once; with it the bad ones are in quarantine."""

    def look(block: pa.Table, number: int) -> tuple[np.ndarray, ...]:
        return (key_hashes(block, keys),)

    hashes = rows.collect("prepare: reading", look, _together) or ()
    return FirstLook(sum(map(len, hashes)), repeated(hashes))


def _together(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(hashes for part in parts for hashes in part)
