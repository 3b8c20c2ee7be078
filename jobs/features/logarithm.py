"""Logarithm: of a number, which draws in a long tail."""

from collections.abc import Mapping
from math import inf
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.features.arrays import one_array
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind

_OF_BASE = {"e": np.log, "2": np.log2, "10": np.log10}


class Logarithm(Step):
    """log(x + shift); a number that has no logarithm becomes missing."""

    kind: Literal["log"] = "log"
    column: str
    output: str = ""
    """The column to put it in; by default `column` itself."""
    base: Literal["e", "2", "10"] = "e"
    shift: float = 0.0
    """1 lets zeros have a logarithm, 0."""

    @property
    def learns(self) -> bool:
        """Nothing."""
        return False

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The number."""
        return {self.column: "number"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """Its logarithm."""
        return {self.output or self.column: "number"}

    def apply(self, table: pa.Table) -> pa.Table:
        """float64."""
        column = table.column(self.column).cast(pa.float64())
        shifted = pc.add(column, self.shift)
        positive = one_array(pc.if_else(_has_logarithm(shifted), shifted, pa.scalar(None, pa.float64())))
        known = positive.is_valid().to_numpy(zero_copy_only=False)
        values = np.ones(len(positive))
        values[known] = positive.drop_null().to_numpy()
        return put(table, self.output or self.column, pa.array(_OF_BASE[self.base](values), mask=~known))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A number or None."""
        value = row[self.column]
        shifted = None if value is None else value + self.shift
        name = self.output or self.column
        return {name: float(_OF_BASE[self.base](shifted)) if shifted is not None and 0 < shifted < inf else None}


def _has_logarithm(shifted: pa.ChunkedArray) -> pa.ChunkedArray:
    """Where a number is above 0 and the shift has not made it infinite."""
    return pc.and_(pc.greater(shifted, 0), pc.less(shifted, inf))
