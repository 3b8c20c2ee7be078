"""Checks: what a spec asks of raw values beyond what the workload does."""

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from cluster.errors import SpecError, nearest
from cluster.spec import Spec
from jobs.features.columns import Column
from jobs.features.values import TEXT


class CheckSpec(Spec):
    """What a value of a column must be; a row that breaks it goes to quarantine."""

    required: bool = False
    """Whether it must be there."""
    low: float | None = None
    high: float | None = None
    pattern: str | None = None
    """A regular expression (of RE2) that must match all of a text."""
    unit: str = ""
    """What a number is counted in, such as `years`; who asks the served model is told."""

    @model_validator(mode="after")
    def _can_be_kept(self) -> "CheckSpec":
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low={self.low:g} is above high={self.high:g}, so no value would pass; swap them")
        if self.pattern is not None:
            try:
                pc.match_substring_regex(pa.array([""]), self.pattern)
            except pa.ArrowInvalid as error:
                raise ValueError(f"pattern '{self.pattern}' is no regular expression of RE2: {error}") from None
        return self


def checked(columns: tuple[Column, ...], checks: Mapping[str, CheckSpec], source: str) -> tuple[Column, ...]:
    """The columns with what the spec asks of them.

    Args:
        source: the section of the spec that the checks are in.

    Raises:
        SpecError: a check is of another column, or of the wrong kind.
    """
    names = {column.name for column in columns}
    for name in checks:
        if name not in names:
            raise SpecError(f"{source}.checks: no column '{name}' is read. {nearest(name, names)}")
    return tuple(
        _with_check(column, checks[column.name], f"{source}.checks.{column.name}") if column.name in checks else column
        for column in columns
    )


def _with_check(column: Column, check: CheckSpec, where: str) -> Column:
    if check.pattern is not None and column.kind not in TEXT:
        raise SpecError(
            f"{where}.pattern='{check.pattern}': the column is of kind {column.kind}, "
            "a pattern is for text; give low and high"
        )
    if (check.low, check.high) != (None, None) and column.kind not in ("number", "time"):
        raise SpecError(f"{where}: the column is of kind {column.kind}, low and high are for numbers; give a pattern")
    if check.unit and column.kind not in ("number", "numbers"):
        raise SpecError(f"{where}.unit='{check.unit}': the column is of kind {column.kind}, units are of numbers")
    return replace(
        column,
        nullable=column.nullable and not check.required,
        low=check.low if check.low is not None else column.low,
        high=check.high if check.high is not None else column.high,
        pattern=check.pattern,
        unit=check.unit,
    )
