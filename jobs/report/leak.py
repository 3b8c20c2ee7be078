"""Leak: how much one feature alone says about the label, on a sample; near 1 it is seldom known when it is needed."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.features.arrays import one_array

NUM_BINS = 64
MAX_CLASSES = 100
MIN_ROWS = 100
SUSPICIOUS = 0.99


def auc(feature: pa.ChunkedArray, is_positive: np.ndarray) -> float:
    """The area under the ROC curve of a column of numbers for two classes, the better way round; missing counts as
    lowest. `is_positive` [rows] bool holds both.
    """
    values = pc.fill_null(one_array(feature).cast(pa.float64(), safe=False), -np.inf).to_numpy()
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    num_positive, num_negative = int(is_positive.sum()), int((~is_positive).sum())
    area = float(ranks[is_positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)
    return max(area, 1 - area)


def told_share(feature: pa.ChunkedArray, classes: np.ndarray) -> float:
    """The share of the label's entropy that the feature tells, from 0 to 1: mutual information, less what as many
    values tell by chance (Miller, 1955). Numbers are parted at quantiles; missing is a value.

    Args:
        classes: of each row, from 0 on [rows] int64; at least two occur.
    """
    values = _places(feature)
    table = np.zeros((values.max() + 1, classes.max() + 1))
    np.add.at(table, (values, classes), 1)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    num_rows = table.sum()
    total = _entropy(table.sum(axis=0) / num_rows)
    mutual = total + _entropy(table.sum(axis=1) / num_rows) - _entropy(table.ravel() / num_rows)
    by_chance = (table.shape[0] - 1) * (table.shape[1] - 1) / (2 * num_rows)
    return float(np.clip((mutual - by_chance) / total, 0, 1))


def suspicion(feature: pa.ChunkedArray, label: pa.ChunkedArray) -> str | None:
    """Why a feature looks like the label; None where it does not, or where the sample does not suffice to say."""
    is_known = pc.is_valid(label)
    feature, label = feature.filter(is_known), label.filter(is_known)
    encoded = pc.dictionary_encode(one_array(label).cast(pa.string()))
    num_classes = len(encoded.dictionary)
    if len(label) < MIN_ROWS or not 2 <= num_classes <= MAX_CLASSES or pa.types.is_nested(feature.type):
        return None
    classes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    is_number = pa.types.is_integer(feature.type) or pa.types.is_floating(feature.type)
    if is_number and num_classes == 2 and (area := auc(feature, classes == 1)) > SUSPICIOUS:
        return f"alone tells the two classes apart with an area under the ROC curve of {area:.3f}"
    if (told := told_share(feature, classes)) > SUSPICIOUS:
        return f"alone tells {told:.1%} of what there is to know of it"
    return None


def _places(feature: pa.ChunkedArray) -> np.ndarray:
    """Which value, or part of the range, each row has [rows] int64."""
    column = one_array(feature)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy()
        known = values[~np.isnan(values)]
        if len(known):
            cuts = np.unique(np.quantile(known, np.linspace(0, 1, NUM_BINS + 1)[1:-1], method="lower"))
            column = pa.array(np.where(np.isnan(values), -1, np.searchsorted(cuts, values, side="right")))
    indices = pc.dictionary_encode(column, null_encoding="encode").indices
    places: np.ndarray = indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return places


def _entropy(shares: np.ndarray) -> float:
    """In nats."""
    used = shares[shares > 0]
    return float(-np.sum(used * np.log(used)))
