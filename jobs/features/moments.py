"""Count, mean and variance of numbers, summed exactly: however the rows are parted, the same to the last bit.

A float is a whole number times a power of two. Numbers of one exponent are added as whole numbers, which nothing
rounds; only the mean and the variance that come out at the end are rounded, once (the small superaccumulator of Neal,
2015, and the exact product of Dekker, 1971).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

import numpy as np
import pyarrow as pa

SCHEMA = pa.schema([("what", pa.int8()), ("power", pa.int32()), ("high", pa.int64()), ("low", pa.int64())])
_MANTISSA_BITS = 53
_HALF_BITS = 27
_SPLITTER = float(2**_HALF_BITS + 1)
_ROOT_BITS = 64
"""Significant bits of a root before it is rounded to a float."""


@dataclass(frozen=True)
class Moments:
    """Of some numbers: how many, their sum and the sum of their squares, both exact."""

    count: int
    total: Fraction
    squares: Fraction

    @property
    def mean(self) -> float:
        """0 of none."""
        return float(self.total / self.count) if self.count else 0.0

    @property
    def variance(self) -> float:
        """Of all numbers, not of a sample: divided by the count; 0 of none."""
        return float(self._variance())

    @property
    def sd(self) -> float:
        """The root of `variance`."""
        variance = self._variance()
        if not variance:
            return 0.0
        # Scaled by an even power of two, the root of the whole part has bits enough.
        shift = max(0, 2 * _ROOT_BITS - variance.numerator.bit_length() + variance.denominator.bit_length())
        shift += shift % 2
        root = isqrt((variance.numerator << shift) // variance.denominator)
        return float(Fraction(root, 1 << (shift // 2)))

    def _variance(self) -> Fraction:
        if not self.count:
            return Fraction(0)
        return (self.squares - self.total * self.total / self.count) / self.count


def moments_table(values: np.ndarray, squares: bool = True) -> pa.Table:
    """The statistics of finite float64 `values` [n]: one row an exponent, mergeable by `merge_moments`.

    Args:
        squares: whether they are summed too; without, there is no variance, and it takes a third of the time.

    Columns: `power` of two; `high` and `low`, whole numbers: the sum of what has this exponent is
    (high * 2^27 + low) * 2^power; `what`: 0 of the count (in `low`), 1 of the sum, 2 of the squares.
    """
    mantissas, exponents = np.frexp(values)
    count = {"what": [0], "power": [0], "high": [0], "low": [len(values)]}
    parts = [pa.table(count, SCHEMA), _summed(1, mantissas, exponents)]
    if squares:
        products = mantissas * mantissas
        for part in (products, _rest_of_square(mantissas, products)):
            part_mantissas, part_exponents = np.frexp(part)
            parts.append(_summed(2, part_mantissas, part_exponents + 2 * exponents))
    return merge_moments(parts)


def merge_moments(parts: Sequence[pa.Table], by: tuple[str, ...] = ()) -> pa.Table:
    """The statistics of several parts as one; in any order and grouping the same.

    Args:
        by: further columns, for each value of which the sums are kept apart.
    """
    keys = [*by, "what", "power"]
    summed = pa.concat_tables(parts).group_by(keys).aggregate([("high", "sum"), ("low", "sum")])
    summed = summed.rename_columns({"high_sum": "high", "low_sum": "low"})
    ordered = summed.sort_by([(key, "ascending") for key in keys]).combine_chunks()
    return ordered.select(parts[0].column_names)


def moments(statistics: pa.Table) -> Moments:
    """What the statistics say."""
    sums = [Fraction(0), Fraction(0), Fraction(0)]
    for row in statistics.to_pylist():
        whole = (row["high"] << _HALF_BITS) + row["low"]
        sums[row["what"]] += (
            Fraction(whole << row["power"]) if row["power"] >= 0 else Fraction(whole, 1 << -row["power"])
        )
    return Moments(int(sums[0]), sums[1], sums[2])


def _summed(what: int, mantissas: np.ndarray, exponents: np.ndarray) -> pa.Table:
    """Whole numbers of at most 53 bits as two halves, added up by exponent: in float64, which holds such sums of up to
    2^26 rows exactly."""
    whole = np.ldexp(mantissas, _MANTISSA_BITS)
    high = np.floor(whole * 2.0**-_HALF_BITS)
    low = whole - high * 2.0**_HALF_BITS
    lowest = int(exponents.min()) if len(exponents) else 0
    places = exponents - lowest
    highs, lows = np.bincount(places, high), np.bincount(places, low)
    is_used = (highs != 0) | (lows != 0)
    powers = (np.arange(len(highs)) + lowest - _MANTISSA_BITS)[is_used]
    sums = (np.full(len(powers), what), powers, highs[is_used].astype(np.int64), lows[is_used].astype(np.int64))
    return pa.table(dict(zip(SCHEMA.names, sums, strict=True)), SCHEMA)


def _rest_of_square(values: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """What rounding took from each square (Dekker, 1971); exact for values of 0.5 to 1."""
    spread = values * _SPLITTER
    high = spread - (spread - values)
    low = values - high
    rest: np.ndarray = ((high * high - squares) + 2.0 * high * low) + low * low
    return rest
