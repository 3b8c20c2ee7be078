"""Drift: how far a column's values in two samples lie apart, by the population stability index."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.features.arrays import one_array
from jobs.features.column_profile import known_values
from jobs.report.shown import number

NUM_BINS = 10
NUM_CATEGORIES = 20
CLEAR = 0.25
"""From here on two distributions are commonly said to differ."""
MAX_CHANCE = 0.05
"""What the index of two samples of one distribution may come to; smaller samples are not compared."""
MISSING, OTHERS = "missing", "others"


@dataclass(frozen=True)
class Drift:
    """A column whose distribution in two samples is not the same."""

    column: str
    split: str
    """Which is compared with the training rows."""
    index: float
    labels: tuple[str, ...]
    """Of the parts of its range, or of its values."""
    train: tuple[float, ...]
    """Shares of the training rows."""
    other: tuple[float, ...]


def drift(column: str, split: str, train: pa.ChunkedArray, other: pa.ChunkedArray) -> Drift | None:
    """The index of a column of numbers or text; None of other columns, and where the samples are too small to say."""
    if pa.types.is_string(train.type):
        labels, counts = _of_text(train, other)
    elif pa.types.is_integer(train.type) or pa.types.is_floating(train.type):
        labels, counts = _of_numbers(train, other)
    else:
        return None
    by_chance = (len(labels) - 1) * (1 / max(len(train), 1) + 1 / max(len(other), 1))
    if by_chance > MAX_CHANCE or len(labels) < 2:
        return None
    smoothed = counts + 0.5
    first, second = smoothed / smoothed.sum(axis=1, keepdims=True)
    index = float(np.sum((second - first) * np.log(second / first)))
    shares = counts / counts.sum(axis=1, keepdims=True)
    return Drift(column, split, index, labels, tuple(map(float, shares[0])), tuple(map(float, shares[1])))


def _of_numbers(train: pa.ChunkedArray, other: pa.ChunkedArray) -> tuple[tuple[str, ...], np.ndarray]:
    """By the deciles of the training rows; labels and counts [2, parts]."""
    samples = [known_values(column).to_numpy(zero_copy_only=False).astype(np.float64) for column in (train, other)]
    if not len(samples[0]):
        return (), np.zeros((2, 0))
    cuts = np.unique(np.quantile(samples[0], np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
    counts = [np.bincount(np.searchsorted(cuts, values), minlength=len(cuts) + 1) for values in samples]
    labels = [f"to {number(cut)}" for cut in cuts] + [f"above {number(float(cuts[-1]))}"]
    return _with_missing(labels, np.stack(counts), train, other)


def _of_text(train: pa.ChunkedArray, other: pa.ChunkedArray) -> tuple[tuple[str, ...], np.ndarray]:
    """By the most frequent values of the training rows."""
    counted = pc.value_counts(known_values(train))
    found = pa.table({"value": counted.field(0), "count": counted.field(1)})
    top = found.sort_by([("count", "descending"), ("value", "ascending")]).slice(0, NUM_CATEGORIES).column("value")
    rows = []
    for column in (train, other):
        places = pc.fill_null(pc.index_in(known_values(column), value_set=one_array(top)), len(top))
        rows.append(np.bincount(places.to_numpy(zero_copy_only=False), minlength=len(top) + 1))
    return _with_missing([*top.to_pylist(), OTHERS], np.stack(rows), train, other)


def _with_missing(
    labels: list[str], counts: np.ndarray, train: pa.ChunkedArray, other: pa.ChunkedArray
) -> tuple[tuple[str, ...], np.ndarray]:
    """Less the parts that nothing is in, and with one for what is missing."""
    counts = np.column_stack([counts, [train.null_count, other.null_count]])
    is_used = counts.sum(axis=0) > 0
    return tuple(label for label, used in zip([*labels, MISSING], is_used, strict=True) if used), counts[:, is_used]
