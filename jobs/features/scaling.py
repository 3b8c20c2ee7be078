"""Scaling: numbers less a centre, divided by a width, both of the training rows."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from jobs.features.arrays import one_array
from jobs.features.moments import merge_moments, moments, moments_table
from jobs.features.quantiles import counts, counts_table, max_cells, merge_counts
from jobs.features.split import TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind

GROUP = "group"


class Scaling(Step):
    """A number, or a list of numbers of one length, in single precision. What is missing stays so; numbers that are all
    the same become 0."""

    kind: Literal["scaling"] = "scaling"
    column: str
    output: str = ""
    """The column to put it in; by default `column` itself."""
    method: Literal["standard", "min_max", "robust", "none"] = "standard"
    """Centre and width: mean and standard deviation; the least number and the way to the greatest; the median and the
    distance of the quartiles; `none` takes numbers as they are."""
    groups: int = Field(1, ge=1)
    """A list is made of so many stretches of one length, such as the channels of an image, each scaled on its own."""
    of_lists: bool = False
    """Whether the column holds lists of numbers."""
    exact: bool = False
    """Whether quartiles are exact however many different numbers there are, at 16 bytes each."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.groups > 1 and not self.of_lists:
            raise ValueError(f"groups={self.groups} are of lists; set of_lists=true")
        if self.of_lists and self.method == "robust":
            raise ValueError("method=robust scales single numbers; for lists take standard or min_max")
        return self

    @property
    def learns(self) -> bool:
        """Unless numbers stay as they are."""
        return self.method != "none"

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The column."""
        return {self.column: "numbers" if self.of_lists else "number"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The scaled one."""
        return {self.output or self.column: "numbers" if self.of_lists else "number"}

    def statistics(self, train: TrainRows) -> pa.Table:
        """By `method` the moments, the least and greatest or the counts; for lists of each `group`."""
        known = one_array(train.table.column(self.column).drop_null())
        values = self._by_group(_matrix(known))
        if self.method == "standard":
            return _grouped([moments_table(of_group) for of_group in values])
        if self.method == "min_max":
            return _grouped([_ends(of_group) for of_group in values])
        return counts_table(values[0], max_cells(self.exact))

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """Added up exactly."""
        if self.method == "standard":
            return merge_moments(parts, by=(GROUP,))
        if self.method == "min_max":
            ends = pa.concat_tables(parts).group_by(GROUP).aggregate([("low", "min"), ("high", "max")])
            return (
                ends.rename_columns({"low_min": "low", "high_max": "high"})
                .sort_by(GROUP)
                .select(["low", "high", GROUP])
            )
        return merge_counts(parts, max_cells(self.exact))

    def fitted(self, statistics: pa.Table) -> "Scaling":
        """The scaling of these statistics; of no numbers one that changes nothing."""
        centres, widths = np.zeros(self.groups), np.ones(self.groups)
        for group in range(self.groups):
            centre, width = self._centre_and_width(_of_group(statistics, group))
            centres[group], widths[group] = centre, width or 1.0
        return self.with_state(pa.table({"center": pa.array(centres), "width": pa.array(widths)}))

    def apply(self, table: pa.Table) -> pa.Table:
        """float32, or lists of float32."""
        column = one_array(table.column(self.column))
        known = column.drop_null()
        scaled = self._scaled(_matrix(known))
        values = pa.array(scaled.reshape(-1), pa.float32())
        if pa.types.is_list(column.type):
            values = pa.ListArray.from_arrays(pa.array(np.arange(len(known) + 1) * scaled.shape[1], pa.int32()), values)
        if column.null_count:
            is_null = column.is_null().to_numpy(zero_copy_only=False)
            values = values.take(pa.array(np.cumsum(~is_null) - 1, mask=is_null))
        return put(table, self.output or self.column, values)

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A number, a list of them, or None."""
        value = row[self.column]
        name = self.output or self.column
        if value is None:
            return {name: None}
        if isinstance(value, list):
            return {name: self._scaled(np.asarray(value, np.float64)[None])[0].tolist()}
        return {name: float(np.float32((value - self._centres_widths[0][0]) / self._centres_widths[1][0]))}

    def told(self) -> str:
        """The first group's numbers."""
        if not self.learns:
            return ""
        centre, width = (values[0] for values in self._centres_widths)
        more = f", and {self.groups - 1} more groups" if self.groups > 1 else ""
        return f"{self.column}: less {centre:g}, divided by {width:g} ({self.method}){more}"

    @cached_property
    def _centres_widths(self) -> tuple[list[float], list[float]]:
        if not self.learns:
            return [0.0] * self.groups, [1.0] * self.groups
        state = self.state()
        return state.column("center").to_pylist(), state.column("width").to_pylist()

    def _centre_and_width(self, statistics: pa.Table) -> tuple[float, float]:
        if self.method == "standard":
            found = moments(statistics)
            return found.mean, found.sd
        if self.method == "min_max":
            low, high = (statistics.column(name)[0].as_py() for name in ("low", "high"))
            return (0.0, 1.0) if low is None else (low, high - low)
        numbers = counts(statistics)
        if not len(numbers.values):
            return 0.0, 1.0
        return numbers.quantile(0.5), numbers.quantile(0.75) - numbers.quantile(0.25)

    def _by_group(self, values: np.ndarray) -> list[np.ndarray]:
        """[rows, entries] as the numbers of each group [numbers]."""
        if not len(values):
            return [np.array([])] * self.groups
        parted = values.reshape(len(values), self.groups, -1)
        return [parted[:, group].reshape(-1) for group in range(self.groups)]

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        """[rows, entries] -> the same, scaled, float32."""
        width = values.shape[1] // self.groups
        centres, widths = (np.repeat(numbers, width) for numbers in self._centres_widths)
        scaled: np.ndarray = ((values - centres) / widths).astype(np.float32)
        return scaled


def _matrix(known: pa.Array) -> np.ndarray:
    """Numbers as [rows, 1], lists of them as [rows, entries], float64."""
    flat = known.flatten() if pa.types.is_list(known.type) else known
    entries = len(flat) // max(len(known), 1)
    values: np.ndarray = flat.to_numpy().astype(np.float64).reshape(len(known), entries)
    return values


def _ends(values: np.ndarray) -> pa.Table:
    ends = [values.min(), values.max()] if len(values) else [None, None]
    return pa.table({name: pa.array([end], pa.float64()) for name, end in zip(("low", "high"), ends, strict=True)})


def _grouped(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of all, with the number of each in the column `group`."""
    numbered = [
        table.append_column(GROUP, pa.array(np.full(table.num_rows, number), pa.int32()))
        for number, table in enumerate(tables)
    ]
    return pa.concat_tables(numbered)


def _of_group(statistics: pa.Table, group: int) -> pa.Table:
    if GROUP not in statistics.column_names:
        return statistics
    return statistics.filter(pc.equal(statistics.column(GROUP), group))
