"""Class weight: how much a row counts, so that every class counts alike."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from jobs.features.arrays import one_array
from jobs.features.split import TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind
from jobs.features.vocabulary import count_values, merge_value_counts


class ClassWeight(Step):
    """The training rows divided by the number of classes and by the rows of the class (King and Zeng, 2001): 1 on
    average. A class that training did not show, or that is missing, weighs 1."""

    kind: Literal["class_weight"] = "class_weight"
    column: str
    """The label."""
    output: str

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The class."""
        return {self.column: "text"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The weight."""
        return {self.output: "number"}

    def statistics(self, train: TrainRows) -> pa.Table:
        """Counts of each class."""
        return count_values(train.table.column(self.column))

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """The counts of several parts as one."""
        return merge_value_counts(parts)

    def fitted(self, statistics: pa.Table) -> "ClassWeight":
        """The weights of these counts."""
        classes = statistics.drop_null().sort_by("value")
        counts = classes.column("count").cast(pa.float64())
        total = pc.sum(counts).as_py() or 0.0
        weights = pc.divide(total / max(len(counts), 1), counts)
        return self.with_state(pa.table({"value": classes.column("value"), "weight": weights}))

    def apply(self, table: pa.Table) -> pa.Table:
        """float64."""
        places = pc.index_in(table.column(self.column), one_array(self.state().column("value")))
        weights = one_array(self.state().column("weight")).take(one_array(places))
        return put(table, self.output, pc.fill_null(weights, 1.0))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A number."""
        return {self.output: self._weights.get(row[self.column], 1.0)}

    def told(self) -> str:
        """The first classes and their weights."""
        first = ", ".join(f"{value} {weight:.3g}" for value, weight in list(self._weights.items())[:10])
        return f"{self.column}: {first}"

    @cached_property
    def _weights(self) -> dict[str, float]:
        state = self.state()
        return dict(zip(state.column("value").to_pylist(), state.column("weight").to_pylist(), strict=True))
