"""Rolling: the last values of a list as one number."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.features.arrays import one_array
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind


class Rolling(Step):
    """A statistic of the last values of a list. Of an empty list the count and the sum are 0, all others missing."""

    kind: Literal["rolling"] = "rolling"
    column: str
    output: str
    of: Literal["mean", "sum", "min", "max", "sd", "count", "last_difference"]
    """`sd` is of a sample (n - 1), `last_difference` the last value less the one before: both missing of one value."""
    size: int = Field(ge=1)
    """Values at the end of the list."""

    @property
    def learns(self) -> bool:
        """Nothing."""
        return False

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The lists."""
        return {self.column: "numbers"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The statistic."""
        return {self.output: "number"}

    def apply(self, table: pa.Table) -> pa.Table:
        """float64."""
        lists = one_array(table.column(self.column))
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
        values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        numbers, is_missing = self._of(values, lengths)
        return put(table, self.output, pa.array(numbers, pa.float64(), mask=is_missing))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A number or None."""
        values = np.array(row[self.column] or (), np.float64)
        numbers, is_missing = self._of(values, np.array([len(values)]))
        return {self.output: None if is_missing[0] else float(numbers[0])}

    def _of(self, values: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The statistic of each list [rows] and whether it is missing. A list's values are added one by one, the last
        one first, so that it does not matter which lists lie beside it."""
        sizes = np.minimum(lengths, self.size)
        last = np.cumsum(lengths) - 1
        if self.of == "count":
            return sizes.astype(np.float64), np.zeros(len(sizes), bool)
        if self.of == "last_difference":
            sizes = np.where(sizes < 2, 0, 2)
            return _folded(np.subtract, values, last, sizes), sizes < 2
        if self.of in ("min", "max"):
            fold = np.minimum if self.of == "min" else np.maximum
            return _folded(fold, values, last, sizes), sizes == 0
        sums = _folded(np.add, values, last, sizes)
        if self.of == "sum":
            return sums, np.zeros(len(sizes), bool)
        means = sums / np.maximum(sizes, 1)
        if self.of == "mean":
            return means, sizes == 0
        squares = (values - np.repeat(means, lengths)) ** 2
        return np.sqrt(_folded(np.add, squares, last, sizes) / np.maximum(sizes - 1, 1)), sizes < 2


def _folded(fold: np.ufunc, values: np.ndarray, last: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The last `sizes` values of each list folded into one, 0 of none; `last` is where each list's last value lies."""
    folded = np.zeros(len(sizes))
    rows = np.flatnonzero(sizes > 0)
    folded[rows] = values[last[rows]]
    back = 1
    while len(rows := rows[sizes[rows] > back]):
        folded[rows] = fold(folded[rows], values[last[rows] - back])
        back += 1
    return folded
