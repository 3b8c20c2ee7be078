"""Leaving out: what steps share that learn the keys of training rows which are not to train."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.features.arrays import one_array
from jobs.features.step import Step
from jobs.features.values import ColumnKind


class LeavingOut(Step):
    """A step whose fitted state is a table of `key`; a row that is served it neither changes nor needs."""

    key: str
    """A column that tells rows apart."""

    @property
    def leaves_out(self) -> bool:
        """Always."""
        return True

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """Nothing."""
        return {}

    def keeps(self, table: pa.Table) -> pa.Array:
        """Which rows' keys are not among those to leave out."""
        return pc.invert(pc.is_in(table.column(self.key), self.left_out))

    def apply(self, table: pa.Table) -> pa.Table:
        """The table as it is."""
        return table

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing."""
        return {}

    @cached_property
    def left_out(self) -> pa.Array:
        """The keys of the rows to leave out."""
        return one_array(self.state().column("key"))
