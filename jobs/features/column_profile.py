"""Column profile: what a survey says of each column, as plain data for a page and for `profile.json`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.features.arrays import one_array
from jobs.features.survey import Survey, Totals
from jobs.features.values import ColumnKind

ProfileKind = Literal["number", "time", "category", "labels", "numbers", "bytes", "other"]
HISTOGRAM_BINS = 30
NUM_BINS = 10
"""Between the quantiles that are given."""
NUM_TOP_VALUES = 50
_LARGE = 2.0**50
"""From here on a float has no room for the half that an edge between whole numbers needs."""
_DIGITS = 9
"""Significant ones of a mean: the last bits of a sum of floats depend on the order of its parts."""


@dataclass(frozen=True)
class Histogram:
    """How many sampled values lie between neighbouring edges, and how many beyond the first and the last."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int = 0
    above: int = 0


@dataclass(frozen=True)
class ColumnProfile:
    """Exact: the counts, the lowest, the highest, mean and sd. Of the sample: everything else."""

    name: str
    kind: ProfileKind
    count: int
    num_null: int
    low: float | None
    """Of numbers; of text, lists and bytes: of their lengths, as `high`, `mean` and `sd`."""
    high: float | None
    mean: float | None
    sd: float | None
    num_sampled: int
    """Values in the sample that are not missing; of lists their entries."""
    deciles: tuple[float, ...] = ()
    """From the lowest in the sample to the highest; of numbers."""
    histogram: Histogram | None = None
    num_distinct: int = 0
    """In the sample."""
    is_whole: bool = False
    """Whether all numbers in the sample are whole."""
    top_shares: tuple[tuple[str, float], ...] = ()
    """The most frequent values and their shares of what is not missing in the sample; of text and labels."""

    @property
    def missing_share(self) -> float:
        """Of all rows."""
        return self.num_null / self.count if self.count else 0.0

    def as_json(self) -> dict[str, Any]:
        """As `profile.json` holds it: the keys of `jobs.features.profile` and more."""
        found: dict[str, Any] = {"count": self.count, "num_null": self.num_null}
        if self.low is None:
            return found
        found |= {"kind": self.kind, "num_sampled": self.num_sampled}
        sizes = {"min": self.low, "max": self.high, "mean": self.mean, "sd": self.sd}
        found |= sizes if self.kind in ("number", "time") else {"lengths": sizes}
        if self.deciles:
            found["decile_edges"] = list(self.deciles)
        if self.histogram:
            shape = self.histogram
            found["histogram"] = {"edges": [*shape.edges], "counts": [shape.below, *shape.counts, shape.above]}
        if self.kind != "bytes":
            found["num_distinct"] = self.num_distinct
        return found | ({"top_shares": dict(self.top_shares)} if self.top_shares else {})


def describe(survey: Survey, kinds: Mapping[str, ColumnKind] | None = None) -> dict[str, ColumnProfile]:
    """The profile of each column.

    Args:
        kinds: of the columns that are known to hold moments, which are numbers by their type.
    """
    return {
        name: _described(name, totals, survey.sample.column(name), (kinds or {}).get(name))
        for name, totals in survey.totals.items()
    }


def known_values(column: pa.ChunkedArray) -> pa.Array:
    """The sampled values that are not missing; of lists their entries."""
    array = one_array(column).drop_null()
    return pc.list_flatten(array).drop_null() if pa.types.is_nested(array.type) else array


def _described(name: str, totals: Totals, sample: pa.ChunkedArray, kind: ColumnKind | None) -> ColumnProfile:
    shown: ProfileKind = "category" if totals.form == "text" else totals.form
    shown = "time" if kind == "time" and shown == "number" else shown
    count = totals.num_known + totals.num_missing
    if shown == "other" or not totals.num_known:
        return ColumnProfile(name, shown, count, totals.num_missing, None, None, None, None, 0)
    sd = math.sqrt(totals.squares / totals.num_known)
    sizes = (totals.low, totals.high, _rounded(totals.mean), _rounded(sd))
    values = known_values(sample)
    parts = _of_text(values) if shown in ("category", "labels") else _of_numbers(values)
    if shown == "bytes":
        parts["num_distinct"] = 0
    return ColumnProfile(name, shown, count, totals.num_missing, *sizes, len(values), **parts)


def _of_text(values: pa.Array) -> dict[str, Any]:
    counts = pc.value_counts(values)
    found = pa.table({"value": counts.field(0), "count": counts.field(1)})
    top = found.sort_by([("count", "descending"), ("value", "ascending")]).slice(0, NUM_TOP_VALUES).to_pylist()
    shares = tuple((row["value"], row["count"] / len(values)) for row in top)
    return {"num_distinct": found.num_rows, "top_shares": shares}


def _of_numbers(values: pa.Array) -> dict[str, Any]:
    numbers = np.sort(values.to_numpy(zero_copy_only=False).astype(np.float64))
    if not len(numbers):
        return {}
    deciles = np.quantile(numbers, np.linspace(0, 1, NUM_BINS + 1))
    num_distinct = 1 + int(np.count_nonzero(np.diff(numbers)))
    return {
        "deciles": tuple(map(float, deciles)),
        "histogram": _histogram(numbers, num_distinct),
        "num_distinct": num_distinct,
        "is_whole": not np.any(numbers % 1),
    }


def _histogram(numbers: np.ndarray, num_distinct: int) -> Histogram:
    """Of sorted numbers: a bin a whole number where they are few and close, else bins from the 1st to the 99th
    percentile."""
    low, high = float(numbers[0]), float(numbers[-1])
    if high - low < HISTOGRAM_BINS and max(-low, high) < _LARGE and not np.any(numbers % 1):
        edges = np.arange(low - 0.5, high + 1)
    else:
        # Of few different numbers all are shown; an edge that equals the highest counts it in the last bin.
        low, high = (low, high) if num_distinct <= HISTOGRAM_BINS else map(float, np.quantile(numbers, [0.01, 0.99]))
        high = high if high > low else low + 1.0
        edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
    counts, _ = np.histogram(numbers, edges)
    below, above = int(np.sum(numbers < edges[0])), int(np.sum(numbers > edges[-1]))
    return Histogram(tuple(map(float, edges)), tuple(map(int, counts)), below, above)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
