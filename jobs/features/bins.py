"""Bins: which part of the training rows a number falls among."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field

from jobs.features.arrays import one_array
from jobs.features.quantiles import counts, counts_table, max_cells, merge_counts
from jobs.features.split import TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind


class Bins(Step):
    """The number of the bin, from 0 on, between quantiles of the training rows; missing stays missing.

    Edges that coincide are one, so there may be fewer bins. Numbers beyond the training rows' are in the bin at that
    end.
    """

    kind: Literal["bins"] = "bins"
    column: str
    output: str = ""
    """The column to put it in; by default `column` itself."""
    num_bins: int = Field(ge=2)
    exact: bool = False
    """Whether quantiles are exact however many different numbers there are, at 16 bytes each."""

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The number."""
        return {self.column: "number"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The bin."""
        return {self.output or self.column: "number"}

    def statistics(self, train: TrainRows) -> pa.Table:
        """Counts."""
        values = train.table.column(self.column).drop_null().to_numpy().astype(float)
        return counts_table(values, max_cells(self.exact))

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """Added up exactly."""
        return merge_counts(parts, max_cells(self.exact))

    def fitted(self, statistics: pa.Table) -> Self:
        """The bins of these counts; of no numbers a single one."""
        numbers = counts(statistics)
        shares = [number / self.num_bins for number in range(1, self.num_bins)] if len(numbers.values) else []
        edges = sorted({numbers.quantile(share) for share in shares})
        if edges and edges[0] == numbers.values[0]:
            del edges[0]  # nothing lies below it
        return self.with_state(pa.table({"edge": pa.array(edges, pa.float64())}))

    def apply(self, table: pa.Table) -> pa.Table:
        """float64."""
        column = one_array(table.column(self.column).cast(pa.float64()))
        missing = column.is_null().to_numpy(zero_copy_only=False)
        values = column.fill_null(0.0).to_numpy()
        found = np.searchsorted(self._edges, values, side="right").astype(float)
        return put(table, self.output or self.column, pa.array(found, mask=missing))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A number or None."""
        value = row[self.column]
        return {self.output or self.column: None if value is None else float(bisect_right(self._edges, value))}

    def told(self) -> str:
        """The edges."""
        cuts = f"{len(self._edges) + 1} bins, cut at {', '.join(f'{edge:g}' for edge in self._edges)}"
        return f"{self.column}: {cuts if self._edges else 'one bin for all numbers'}"

    @cached_property
    def _edges(self) -> list[float]:
        edges: list[float] = self.state().column("edge").to_pylist()
        return edges
