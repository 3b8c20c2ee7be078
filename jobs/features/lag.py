"""Lag: one of the last values of a list."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.features.arrays import one_array
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind


class Lag(Step):
    """The last value of a list, or one before it; missing where the list is shorter."""

    kind: Literal["lag"] = "lag"
    column: str
    output: str
    back: int = Field(1, ge=1)
    """1 is the last."""

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
        """The value."""
        return {self.output: "number"}

    def apply(self, table: pa.Table) -> pa.Table:
        """float64."""
        lists = one_array(table.column(self.column))
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        has_it = lengths >= self.back
        places = (np.cumsum(lengths) - self.back)[has_it]
        values = np.full(len(lists), np.nan)
        values[has_it] = lists.flatten().to_numpy(zero_copy_only=False)[places]
        return put(table, self.output, pa.array(values, pa.float64(), mask=~has_it))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A number or None."""
        values = row[self.column] or ()
        return {self.output: float(values[-self.back]) if len(values) >= self.back else None}
