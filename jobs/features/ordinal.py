"""Ordinal: the place of a category in an order."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from jobs.features.arrays import one_array
from jobs.features.split import TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind
from jobs.features.vocabulary import count_values, merge_value_counts


class Ordinal(Step):
    """0 for the first category, 1 for the next; one that is not in the order becomes missing."""

    kind: Literal["ordinal"] = "ordinal"
    column: str
    output: str
    order: tuple[str, ...] = ()
    """The categories from the lowest on; without it those of the training rows by their text."""

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        for value in self.order:
            if self.order.count(value) > 1:
                raise ValueError(f"order names '{value}' {self.order.count(value)} times; name each category once")
        return self

    @property
    def learns(self) -> bool:
        """Unless the order is given."""
        return not self.order

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The category."""
        return {self.column: "text"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """Its place."""
        return {self.output: "number"}

    def statistics(self, train: TrainRows) -> pa.Table:
        """Counts of each category."""
        return count_values(train.table.column(self.column))

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """The counts of several parts as one."""
        return merge_value_counts(parts)

    def fitted(self, statistics: pa.Table) -> Self:
        """The categories by their text."""
        return self.with_state(statistics.select(["value"]).drop_null().sort_by("value"))

    def apply(self, table: pa.Table) -> pa.Table:
        """float64."""
        return put(table, self.output, pc.index_in(table.column(self.column), self._values).cast(pa.float64()))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A number or None."""
        return {self.output: self._places.get(row[self.column])}

    def told(self) -> str:
        """The first categories."""
        return f"{self.column}: {', '.join(self._values.slice(0, 10).to_pylist())}"

    @cached_property
    def _values(self) -> pa.Array:
        return pa.array(self.order, pa.string()) if self.order else one_array(self.state().column("value"))

    @cached_property
    def _places(self) -> dict[str, float]:
        return {value: float(place) for place, value in enumerate(self._values.to_pylist())}
