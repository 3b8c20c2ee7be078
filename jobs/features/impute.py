"""Impute: something in the place of what is missing."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from cluster.errors import DataError
from jobs.features.moments import merge_moments, moments, moments_table
from jobs.features.quantiles import counts, counts_table, max_cells, merge_counts
from jobs.features.split import TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind
from jobs.features.vocabulary import by_frequency, count_values, merge_value_counts


class Impute(Step):
    """The mean, the median or the most frequent value of the training rows, or a constant; of equally frequent values
    the lowest."""

    kind: Literal["impute"] = "impute"
    column: str
    output: str = ""
    """The column to put it in; by default `column` itself."""
    of: Literal["number", "text"] = "number"
    fill: Literal["mean", "median", "mode", "constant"] = "median"
    constant: float | str | None = None
    indicator: str = ""
    """A column to make that is 1 where the value was missing, else 0."""
    exact: bool = False
    """Whether median and mode are exact however many different numbers there are, at 16 bytes each."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.of == "text" and self.fill in ("mean", "median"):
            raise ValueError(f"fill={self.fill} is of numbers; for text take mode or constant")
        if (self.fill == "constant") != (self.constant is not None):
            raise ValueError(f"fill={self.fill} and constant={self.constant}: a constant goes with fill=constant alone")
        wanted = str if self.of == "text" else float
        if self.constant is not None and (not isinstance(self.constant, wanted) or self.constant == ""):
            raise ValueError(f"constant={self.constant!r} is no {self.of}; give one, or say of=number or of=text")
        return self

    @property
    def learns(self) -> bool:
        """Unless the constant is given."""
        return self.fill != "constant"

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The column with gaps."""
        return {self.column: self.of}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The column without gaps, and the indicator."""
        made: dict[str, ColumnKind] = {self.output or self.column: self.of}
        return made | ({self.indicator: "number"} if self.indicator else {})

    def statistics(self, train: TrainRows) -> pa.Table:
        """Moments for the mean, else counts."""
        column = train.table.column(self.column)
        if self.of == "text":
            return count_values(column)
        values = column.drop_null().to_numpy().astype(float)
        return (
            moments_table(values, squares=False) if self.fill == "mean" else counts_table(values, max_cells(self.exact))
        )

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """Added up exactly."""
        if self.of == "text":
            return merge_value_counts(parts)
        return merge_moments(parts) if self.fill == "mean" else merge_counts(parts, max_cells(self.exact))

    def fitted(self, statistics: pa.Table) -> Self:
        """The step of these statistics.

        Raises:
            DataError: the training rows have no value.
        """
        value = self._learned(statistics)
        if value is None:
            raise DataError(
                f"column '{self.column}' is missing in every training row, so it has no {self.fill}; "
                "give fill=constant with a constant, or leave the column out"
            )
        return self.with_state(
            pa.table({"value": pa.array([value], pa.string() if self.of == "text" else pa.float64())})
        )

    def apply(self, table: pa.Table) -> pa.Table:
        """The column without gaps, and the indicator."""
        column = table.column(self.column)
        if self.of == "number":
            column = column.cast(pa.float64())
        made = put(table, self.output or self.column, pc.fill_null(column, self._value))
        return put(made, self.indicator, column.is_null().cast(pa.float64())) if self.indicator else made

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The value, and the indicator."""
        value = row[self.column]
        made = {self.output or self.column: self._value if value is None else value}
        if self.indicator:
            made[self.indicator] = float(value is None)
        return made

    def told(self) -> str:
        """The value."""
        return f"{self.column}: {self._value} where it is missing ({self.fill})"

    @cached_property
    def _value(self) -> Any:
        return self.constant if self.fill == "constant" else self.state().column("value")[0].as_py()

    def _learned(self, statistics: pa.Table) -> float | str | None:
        if self.of == "text":
            values: list[str] = by_frequency(statistics).column("value").slice(0, 1).to_pylist()
            return values[0] if values else None
        if self.fill == "mean":
            found = moments(statistics)
            return found.mean if found.count else None
        numbers = counts(statistics)
        if not len(numbers.values):
            return None
        return numbers.most_frequent() if self.fill == "mode" else numbers.quantile(0.5)
