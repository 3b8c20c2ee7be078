"""Vocabulary: a category's value to a small whole number, learned from the training rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from jobs.features.split import TrainRows

UNKNOWN = 0


@dataclass(frozen=True)
class Vocabulary:
    """`column` -> `output`: 1 for the most frequent value, 2 for the next, 0 for one that training did not show."""

    kind: ClassVar[str] = "vocabulary"

    column: str
    output: str
    min_count: int = 1
    """Rarer values count as unknown."""
    values: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    """What index 1, 2, ... stand for; empty until fitted."""

    def statistics(self, train: TrainRows) -> pa.Table:
        """Counts of each value: `value`, `count`."""
        counts = pc.value_counts(train.table.column(self.column).combine_chunks())
        return pa.table({"value": counts.field("values"), "count": counts.field("counts")})

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """The counts of several parts as one; in any order, any grouping."""
        summed = pa.concat_tables(parts).group_by("value").aggregate([("count", "sum")])
        return summed.rename_columns({"count_sum": "count"})

    def fitted(self, statistics: pa.Table) -> "Vocabulary":
        """The vocabulary of these counts: by falling count, equal counts by value."""
        kept = statistics.filter(pc.greater_equal(statistics.column("count"), self.min_count)).drop_null()
        ordered = kept.sort_by([("count", "descending"), ("value", "ascending")]).column("value").combine_chunks()
        return self.with_state(pa.table({"value": ordered}))

    def apply(self, table: pa.Table) -> pa.Table:
        """Append `output`, int32."""
        found = pc.index_in(table.column(self.column), self.values)
        return table.append_column(self.output, pc.add(pc.fill_null(found, -1), 1).cast(pa.int32()))

    def apply_row(self, row: Mapping[str, Any]) -> int:
        """The `output` of one row."""
        return self._indices.get(row[self.column], UNKNOWN)

    @property
    def size(self) -> int:
        """How many indices there are, the unknown one included."""
        return len(self.values) + 1

    def settings(self) -> dict[str, Any]:
        """What the constructor takes besides the fitted state."""
        return {"column": self.column, "output": self.output, "min_count": self.min_count}

    def state(self) -> pa.Table:
        """What was fitted, for `with_state`."""
        return pa.table({"value": self.values})

    def with_state(self, state: pa.Table) -> "Vocabulary":
        """This vocabulary with what was fitted before."""
        values = state.column("value").combine_chunks()
        return Vocabulary(self.column, self.output, self.min_count, values)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {value: index for index, value in enumerate(self.values.to_pylist(), start=1)}
