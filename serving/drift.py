"""Drift: how far what is asked now lies from what the version was trained on, column by column.

Only counts are kept, of parts of a column's range or of its frequent values in training, over the last rows: nothing of
a row that was asked stays. Numbers are compared by the population stability index, categories by it and by the
chi-square test.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel
from scipy.special import chdtrc

from jobs.features.columns import Column
from jobs.features.transform import RAW
from jobs.features.values import TEXT

WINDOW = 2000
"""Rows of a half of what is looked at: the last 2,000 to 4,000."""
NUM_PARTS = 10
NUM_CATEGORIES = 20
CLEAR = 0.25
"""From here on two distributions are commonly said to differ."""
MAX_CHANCE = 0.05
"""What the index may come to by chance alone; with fewer rows nothing is said."""
LEAST_SHARE = 1e-4
"""Of a part that training did not show."""
MOST_DISTINCT = 0.5
"""Of the training values may be different ones; beyond that a column is free text, or names its rows."""
MISSING, OTHERS = "missing", "others"


class ColumnDrift(BaseModel):
    """One column."""

    column: str
    index: float
    """The population stability index; 0 where nothing has changed, 0.25 and more where much has."""
    p_value: float | None
    """Of a category, by the chi-square test: how likely such counts are if nothing has changed."""
    is_clear: bool
    """Whether the index is 0.25 or more."""
    parts: list[str]
    training: list[float]
    """Share of each part."""
    live: list[float]


@dataclass(frozen=True)
class Parts:
    """The parts of a column, and the shares that they had in training."""

    labels: tuple[str, ...]
    shares: np.ndarray
    cuts: tuple[float, ...] = ()
    """Between the parts of a number's range."""
    places: Mapping[str, int] | None = None
    """Of a category's values."""

    def place(self, value: Any) -> int:
        """The part that a value is in; the last one is of what is missing."""
        if value is None:
            return len(self.labels) - 1
        if self.places is None:
            return bisect_right(self.cuts, value)
        return self.places.get(value, len(self.labels) - 2)


def parts_of(profile: Mapping[str, Any]) -> Parts | None:
    """The parts of a column by its entry in `profile.json`; None of one that has no such parts."""
    missing = profile["num_null"] / profile["count"] if profile["count"] else 0.0
    if profile.get("kind") == "number" and "histogram" in profile:
        return _of_number(profile["histogram"], missing)
    is_few = profile.get("num_distinct", 0) <= max(MOST_DISTINCT * profile.get("num_sampled", 0), 1)
    if profile.get("kind") == "category" and is_few:
        return _of_category(profile["top_shares"], missing)
    return None


def _of_number(histogram: Mapping[str, list[float]], missing: float) -> Parts:
    """Neighbouring bins together, until each part has about a tenth of the training rows."""
    counts = np.array(histogram["counts"], np.float64)
    edges, total = histogram["edges"], counts.sum()
    cuts, shares, held = list[float](), list[float](), 0.0
    for count, edge in zip(counts[:-1], edges, strict=True):
        held += count
        if held * NUM_PARTS >= total:
            cuts.append(edge)
            shares.append(held / total)
            held = 0.0
    shares.append((held + counts[-1]) / total)
    labels = (*(f"to {cut:g}" for cut in cuts), f"above {cuts[-1]:g}" if cuts else "all", MISSING)
    return Parts(labels, np.array([*(share * (1 - missing) for share in shares), missing]), tuple(cuts))


def _of_category(top_shares: Mapping[str, float], missing: float) -> Parts:
    top = dict(list(top_shares.items())[:NUM_CATEGORIES])
    shares = [*top.values(), max(0.0, 1 - sum(top.values()))]
    places = {value: place for place, value in enumerate(top)}
    return Parts((*top, OTHERS, MISSING), np.array([*(share * (1 - missing) for share in shares), missing]), (), places)


class LiveDrift:
    """The last rows that a version was asked, in counts; one thread adds to it."""

    def __init__(self, profile: Mapping[str, Any], columns: Sequence[Column]) -> None:
        """Args:
        profile: of `profile.json`, by column; what a step replaced is there as it was read.
        columns: that a row which is asked has.
        """
        self._parts: dict[str, Parts] = {}
        for column in columns:
            entry = profile.get(RAW + column.name, profile.get(column.name))
            found = parts_of(entry) if entry and (column.kind == "number" or column.kind in TEXT) else None
            if found:
                self._parts[column.name] = found
        self._num_rows = 0
        self._now, self._before = self._zeros(), self._zeros()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count the values of some rows; of columns that a row lacks as missing."""
        for row in rows:
            if self._num_rows == WINDOW:
                self._before, self._now, self._num_rows = self._now, self._zeros(), 0
            self._num_rows += 1
            for name, parts in self._parts.items():
                self._now[name][parts.place(row.get(name))] += 1

    def told(self) -> list[ColumnDrift]:
        """Every column of which enough was asked, the one that changed most first; of any thread."""
        now, before = self._now, self._before
        found = [drift_of(name, parts, now[name] + before[name]) for name, parts in self._parts.items()]
        return sorted((one for one in found if one), key=lambda one: -one.index)

    def _zeros(self) -> dict[str, np.ndarray]:
        return {name: np.zeros(len(parts.labels), np.int64) for name, parts in self._parts.items()}


def drift_of(column: str, parts: Parts, counts: np.ndarray) -> ColumnDrift | None:
    """How far counts lie from the shares of training; None where they are too few to say."""
    num_rows = int(counts.sum())
    is_used = (counts > 0) | (parts.shares > 0)
    num_used = int(is_used.sum())
    if num_rows == 0 or (num_used - 1) / num_rows > MAX_CHANCE:
        return None
    expected = np.maximum(parts.shares[is_used], LEAST_SHARE)
    expected = expected / expected.sum()
    live = (counts[is_used] + 0.5) / (num_rows + 0.5 * num_used)
    index = float(np.sum((live - expected) * np.log(live / expected)))
    p_value = None
    if parts.places is not None and num_used > 1:
        statistic = float(np.sum((counts[is_used] - num_rows * expected) ** 2 / (num_rows * expected)))
        p_value = float(chdtrc(num_used - 1, statistic))
    return ColumnDrift(
        column=column,
        index=index,
        p_value=p_value,
        is_clear=index >= CLEAR,
        parts=[label for label, used in zip(parts.labels, is_used, strict=True) if used],
        training=parts.shares[is_used].tolist(),
        live=(counts[is_used] / num_rows).tolist(),
    )
