"""Vocabulary: a category's value to a small whole number, learned from the training rows."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.features.arrays import one_array
from jobs.features.split import TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind

UNKNOWN = 0


class Vocabulary(Step):
    """1 for the most frequent value, 2 for the next, 0 for one that training did not show; of each entry, of lists."""

    kind: Literal["vocabulary"] = "vocabulary"
    column: str
    output: str
    of: Literal["text", "labels"] = "text"
    """Whether rows have a value each, or a list of them."""
    min_count: int = Field(1, ge=1)
    """Rarer values count as unknown."""

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The category, or the list of categories."""
        return {self.column: self.of}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """Its index, or the list of their indices."""
        return {self.output: "number" if self.of == "text" else "numbers"}

    def statistics(self, train: TrainRows) -> pa.Table:
        """Counts of each value: `value`, `count`."""
        return count_values(self._each(train.table))

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """The counts of several parts as one."""
        return merge_value_counts(parts)

    def fitted(self, statistics: pa.Table) -> "Vocabulary":
        """The vocabulary of these counts: by falling count, equal counts by value."""
        return self.with_state(by_frequency(statistics, self.min_count).select(["value"]))

    def apply(self, table: pa.Table) -> pa.Table:
        """int32, or lists of it; a missing list has no entries."""
        found = pc.index_in(self._each(table), self.values)
        indices = pc.add(pc.fill_null(found, -1), 1).cast(pa.int32())
        if self.of == "text":
            return put(table, self.output, indices)
        lengths = pc.fill_null(pc.list_value_length(table.column(self.column)), 0).to_numpy()
        borders = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        return put(table, self.output, pa.ListArray.from_arrays(borders, one_array(indices)))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The index, or the list of indices."""
        value = row[self.column]
        if self.of == "text":
            return {self.output: self._indices.get(value, UNKNOWN)}
        return {self.output: [self._indices.get(entry, UNKNOWN) for entry in value or ()]}

    def told(self) -> str:
        """How many values, and the most frequent ones."""
        first = ", ".join(self.values.slice(0, 5).to_pylist())
        return f"{self.column}: {len(self.values):,} values, the most frequent: {first}"

    @property
    def values(self) -> pa.Array:
        """What index 1, 2, ... stand for; empty until fitted."""
        return one_array(self.state().column("value")) if self.state().num_columns else pa.array([], pa.string())

    @property
    def size(self) -> int:
        """How many indices there are, the unknown one included."""
        return len(self.values) + 1

    def _each(self, table: pa.Table) -> pa.ChunkedArray:
        """All that is looked up, in the order of the rows."""
        column = table.column(self.column)
        return column if self.of == "text" else pc.list_flatten(column)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {value: index for index, value in enumerate(self.values.to_pylist(), start=1)}


def count_values(column: pa.ChunkedArray) -> pa.Table:
    """How often each value is there: `value` string, null among them, and `count`."""
    found = pc.value_counts(one_array(column))
    return pa.table({"value": found.field("values").cast(pa.string()), "count": found.field("counts")})


def merge_value_counts(parts: Sequence[pa.Table]) -> pa.Table:
    """The counts of several parts as one; in any order, any grouping."""
    summed = pa.concat_tables(parts).group_by("value").aggregate([("count", "sum")])
    return summed.rename_columns({"count_sum": "count"})


def by_frequency(statistics: pa.Table, min_count: int = 1) -> pa.Table:
    """What was counted at least so often, without null: by falling count, equal counts by value."""
    kept = statistics.filter(pc.greater_equal(statistics.column("count"), min_count)).drop_null()
    return kept.sort_by([("count", "descending"), ("value", "ascending")])
