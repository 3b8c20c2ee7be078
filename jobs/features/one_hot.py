"""One hot: a 1 in the place of a row's category."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from cluster.errors import DataError
from jobs.features.arrays import one_array
from jobs.features.split import TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind
from jobs.features.vocabulary import by_frequency, count_values, merge_value_counts

MAX_ENTRIES = 1 << 14
"""In each list; a batch of rows is held in full."""


class OneHot(Step):
    """One entry a category of the training rows, in the order of their text, then one for all others: rare ones, ones
    that training did not show, and missing ones."""

    kind: Literal["one_hot"] = "one_hot"
    column: str
    output: str
    min_count: int = Field(1, ge=1)
    """Rarer categories count as others."""
    max_categories: int | None = Field(None, ge=1)
    """The most frequent ones that get an entry; of equally frequent ones the first by text."""
    others: Literal["entry", "zeros"] = "entry"
    """Whether others have an entry, or are all zeros."""

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The category."""
        return {self.column: "text"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The entries."""
        return {self.output: "numbers"}

    def statistics(self, train: TrainRows) -> pa.Table:
        """Counts of each category."""
        return count_values(train.table.column(self.column))

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """The counts of several parts as one."""
        return merge_value_counts(parts)

    def fitted(self, statistics: pa.Table) -> Self:
        """The step of these counts.

        Raises:
            DataError: there would be too many entries.
        """
        kept = by_frequency(statistics, self.min_count).slice(0, self.max_categories)
        if kept.num_rows > MAX_ENTRIES:
            raise DataError(
                f"column '{self.column}' has {kept.num_rows:,} categories, one_hot makes at most {MAX_ENTRIES:,} "
                "entries; give max_categories or a higher min_count, or take vocabulary or hashing"
            )
        return self.with_state(kept.select(["value"]).sort_by("value"))

    def apply(self, table: pa.Table) -> pa.Table:
        """Lists of float32."""
        found = one_array(pc.index_in(table.column(self.column), self._values))
        places = found.fill_null(len(self._values)).to_numpy()
        entries = np.zeros((table.num_rows, self.size), np.float32)
        has_entry = places < self.size
        entries[np.flatnonzero(has_entry), places[has_entry]] = 1
        offsets = pa.array(np.arange(table.num_rows + 1) * self.size, pa.int32())
        return put(table, self.output, pa.ListArray.from_arrays(offsets, pa.array(entries.reshape(-1))))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A list of numbers."""
        entries = [0.0] * self.size
        place = self._places.get(row[self.column], len(self._places))
        if place < self.size:
            entries[place] = 1.0
        return {self.output: entries}

    def told(self) -> str:
        """The categories."""
        values = self._values.to_pylist()
        more = f" and {len(values) - 10:,} more" if len(values) > 10 else ""
        return f"{self.column}: {', '.join(values[:10])}{more}{'; others' if self.others == 'entry' else ''}"

    @property
    def length(self) -> int:
        """Of the lists."""
        return self.size

    @cached_property
    def size(self) -> int:
        """How many entries each list has."""
        return len(self._values) + (self.others == "entry")

    @cached_property
    def _values(self) -> pa.Array:
        return one_array(self.state().column("value"))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {value: place for place, value in enumerate(self._values.to_pylist())}
