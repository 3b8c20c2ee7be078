"""Quantiles from counts of numbers: exact while there are few different ones, beyond that to a stated precision.

The counts are of numbers whose mantissas are cut to `bits` bits: as many as leave no more different ones than a limit,
or none at all, where signs and exponents alone are still more. Cutting goes from bits to fewer bits without a trace of
the way, so the counts depend on the numbers alone, not on how they were parted or merged. (HdrHistogram cuts so with
bits that are given; UDDSketch of Epicoco et al., 2020, collapses all cells evenly as here.)
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

ALL_BITS = 52
"""Of a float64's mantissa, the leading one not counted."""
MAX_CELLS = 1 << 17


def max_cells(exact: bool) -> int | None:
    """How many different values a step keeps, by its setting `exact`."""
    return None if exact else MAX_CELLS


@dataclass(frozen=True)
class Counts:
    """How often each number was seen, in rising order."""

    values: np.ndarray
    """[cells], float64."""
    counts: np.ndarray
    """[cells], int64."""
    bits: int
    """Of each mantissa that were kept."""

    @property
    def relative_error(self) -> float:
        """How far below a number in size its cell's value may lie, relative to it; 0 where all bits were kept."""
        return 0.0 if self.bits == ALL_BITS else 2.0**-self.bits

    def quantile(self, share: float) -> float:
        """The number below which this share lies, between two neighbours in proportion (Hyndman and Fan, 1996, no. 7).

        NaN of no numbers.
        """
        total = int(self.counts.sum())
        if not total:
            return float("nan")
        place = share * (total - 1)
        below = int(np.floor(place))
        ends = np.cumsum(self.counts)
        low = float(self.values[np.searchsorted(ends, below, side="right")])
        high = float(self.values[np.searchsorted(ends, min(below + 1, total - 1), side="right")])
        part = place - below
        return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part

    def most_frequent(self) -> float:
        """The mode; of several the lowest. NaN of no numbers."""
        return float(self.values[int(np.argmax(self.counts))]) if len(self.counts) else float("nan")


def counts_table(values: np.ndarray, limit: int | None = MAX_CELLS) -> pa.Table:
    """The statistics of finite float64 `values` [n]: `value`, `count`, and in the schema's metadata the bits kept.

    Args:
        limit: how many different values may stay; None keeps all, and so is exact.
    """
    found, counts = np.unique(values + 0.0, return_counts=True)  # -0.0 counts as 0.0
    return _table(*_within(found, counts.astype(np.int64), ALL_BITS, limit))


def merge_counts(parts: Sequence[pa.Table], limit: int | None = MAX_CELLS) -> pa.Table:
    """The statistics of several parts as one; in any order and grouping the same."""
    bits = min(counts(part).bits for part in parts)
    values = np.concatenate([_cut(part.column("value").to_numpy(), bits) for part in parts])
    numbers = np.concatenate([part.column("count").to_numpy() for part in parts])
    return _table(*_within(*_added(values, numbers), bits, limit))


def counts(statistics: pa.Table) -> Counts:
    """What the statistics say."""
    bits = int(statistics.schema.metadata[b"bits"])
    return Counts(statistics.column("value").to_numpy(), statistics.column("count").to_numpy(), bits)


def _table(values: np.ndarray, numbers: np.ndarray, bits: int) -> pa.Table:
    table = pa.table({"value": pa.array(values, pa.float64()), "count": pa.array(numbers, pa.int64())})
    return table.replace_schema_metadata({"bits": str(bits)})


def _within(
    values: np.ndarray, numbers: np.ndarray, bits: int, limit: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Sorted different values with as many bits as leave no more of them than `limit`."""
    if limit is None or len(values) <= limit:
        return values, numbers, bits
    kept = bisect_left(range(bits), 1, key=lambda fewer: _num_cells(values, fewer) > limit) - 1
    return *_added(_cut(values, max(kept, 0)), numbers), max(kept, 0)


def _num_cells(values: np.ndarray, bits: int) -> int:
    """How many different values sorted ones are with so many bits."""
    cut = _cut(values, bits)
    return int(np.count_nonzero(cut[1:] != cut[:-1])) + 1


def _cut(values: np.ndarray, bits: int) -> np.ndarray:
    """Values with the rest of their mantissas 0; in their own order still."""
    kept = np.int64(-1) << np.int64(ALL_BITS - bits)
    cut: np.ndarray = (values.view(np.int64) & kept).view(np.float64) + 0.0
    return cut


def _added(values: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values in rising order, and the sum of each one's numbers."""
    order = np.argsort(values, kind="stable")
    values, numbers = values[order], numbers[order]
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1])) if len(values) else np.array([], np.int64)
    return values[starts], np.add.reduceat(numbers, starts) if len(values) else numbers
