"""Complete: only training rows in which nothing is missing."""

from collections.abc import Mapping
from functools import reduce
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.features.step import Step
from jobs.features.values import ColumnKind


class Complete(Step):
    """Leaves out training rows in which one of the columns is missing."""

    kind: Literal["complete"] = "complete"
    columns: tuple[str, ...] = Field(min_length=1)
    of: Literal["number", "text"] = "number"

    @property
    def learns(self) -> bool:
        """Nothing."""
        return False

    @property
    def leaves_out(self) -> bool:
        """Always."""
        return True

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The columns."""
        return dict.fromkeys(self.columns, self.of)

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """Nothing."""
        return {}

    def keeps(self, table: pa.Table) -> pa.Array:
        """Which rows have a value in every column."""
        return reduce(pc.and_, [table.column(name).is_valid() for name in self.columns])

    def apply(self, table: pa.Table) -> pa.Table:
        """The table as it is."""
        return table

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing."""
        return {}
