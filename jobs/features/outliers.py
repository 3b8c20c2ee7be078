"""Outliers: numbers far from the others, by the quartiles or by the standard deviation."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from jobs.features.moments import merge_moments, moments, moments_table
from jobs.features.quantiles import counts, counts_table, max_cells, merge_counts
from jobs.features.split import TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind

LIMITS = {"iqr": 1.5, "z_score": 3.0}


class Outliers(Step):
    """What lies beyond the quartiles by more than `limit` times their distance (Tukey, 1977), or from the mean by more
    than `limit` standard deviations. What is missing is no outlier."""

    kind: Literal["outliers"] = "outliers"
    column: str
    output: str = ""
    """Where clipped numbers go, by default `column` itself; where marks go."""
    method: Literal["iqr", "z_score"] = "iqr"
    limit: float | None = Field(None, gt=0)
    """By default 1.5 of iqr and 3 of z_score."""
    then: Literal["drop", "clip", "mark"] = "clip"
    """Leave out training rows with one; move it to the nearest number that is none; make a column of 1 and 0."""
    exact: bool = False
    """Whether quartiles are exact however many different numbers there are, at 16 bytes each."""

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if self.then == "mark" and self.output in ("", self.column):
            raise ValueError(f"then=mark makes a column of its own, output='{self.output}' names none; give output")
        if self.then == "drop" and self.output:
            raise ValueError(f"then=drop makes no column; leave out output='{self.output}', or take clip or mark")
        return self

    @property
    def leaves_out(self) -> bool:
        """Where outliers are dropped."""
        return self.then == "drop"

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The number."""
        return {self.column: "number"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The clipped number or the mark."""
        return {} if self.then == "drop" else {self.output or self.column: "number"}

    def statistics(self, train: TrainRows) -> pa.Table:
        """Counts for quartiles, else moments."""
        values = train.table.column(self.column).drop_null().to_numpy().astype(float)
        return counts_table(values, max_cells(self.exact)) if self.method == "iqr" else moments_table(values)

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """Added up exactly."""
        return merge_counts(parts, max_cells(self.exact)) if self.method == "iqr" else merge_moments(parts)

    def fitted(self, statistics: pa.Table) -> Self:
        """The step of these statistics; of no numbers one without outliers."""
        limit = self.limit or LIMITS[self.method]
        if self.method == "iqr":
            numbers = counts(statistics)
            low, high = numbers.quantile(0.25), numbers.quantile(0.75)
            bounds = [low - limit * (high - low), high + limit * (high - low)] if len(numbers.values) else [None, None]
        else:
            found = moments(statistics)
            bounds = [found.mean - limit * found.sd, found.mean + limit * found.sd] if found.count else [None, None]
        return self.with_state(
            pa.table({"low": pa.array(bounds[:1], pa.float64()), "high": pa.array(bounds[1:], pa.float64())})
        )

    def keeps(self, table: pa.Table) -> pa.Array:
        """Which rows have no outlier."""
        return pc.invert(self._is_outlier(table.column(self.column)))

    def apply(self, table: pa.Table) -> pa.Table:
        """float64."""
        column = table.column(self.column)
        if self.then == "drop":
            return table
        if self.then == "mark":
            return put(table, self.output, self._is_outlier(column).cast(pa.float64()))
        low, high = self._bounds
        column = column.cast(pa.float64())
        clipped = (
            column
            if low is None
            else pc.min_element_wise(pc.max_element_wise(column, low, skip_nulls=False), high, skip_nulls=False)
        )
        return put(table, self.output or self.column, clipped)

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A number."""
        value, (low, high) = row[self.column], self._bounds
        if self.then == "drop":
            return {}
        if value is None or low is None:
            return {self.output or self.column: 0.0 if self.then == "mark" else value}
        if self.then == "mark":
            return {self.output: float(value < low or value > high)}
        return {self.output or self.column: min(max(value, low), high)}

    def told(self) -> str:
        """The bounds."""
        low, high = self._bounds
        return (
            f"{self.column}: no numbers seen"
            if low is None
            else f"{self.column}: outliers are below {low:g} and above {high:g}"
        )

    @cached_property
    def _bounds(self) -> tuple[float | None, float | None]:
        return self.state().column("low")[0].as_py(), self.state().column("high")[0].as_py()

    def _is_outlier(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        low, high = self._bounds
        if low is None:
            return pc.and_(column.is_null(), False)
        return pc.fill_null(pc.or_(pc.less(column, low), pc.greater(column, high)), False)
