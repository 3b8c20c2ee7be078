"""Compare: a number against a bound, as yes or no."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from jobs.features.step import Step, put
from jobs.features.values import ColumnKind

YES, NO = "yes", "no"


class Compare(Step):
    """Whether a number is above, or below, a bound, such as a delay of more than 15 minutes; missing stays missing."""

    kind: Literal["compare"] = "compare"
    column: str
    output: str
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"above={self.above} and below={self.below}: give exactly one of them")
        return self

    @property
    def learns(self) -> bool:
        """The bound is given."""
        return False

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The number."""
        return {self.column: "number"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """`yes` or `no`."""
        return {self.output: "text"}

    def apply(self, table: pa.Table) -> pa.Table:
        """Text."""
        column = table.column(self.column)
        holds = pc.greater(column, self.above) if self.above is not None else pc.less(column, self.below)
        return put(table, self.output, pc.if_else(holds, YES, NO))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Text."""
        value = row[self.column]
        if value is None:
            return {self.output: None}
        holds = value > self.above if self.above is not None else value < self.below
        return {self.output: YES if holds else NO}
