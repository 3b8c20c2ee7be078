"""RawRow: the request's row of a version, made of the raw columns that its steps read, and the typing that prepare has.

JSON says less than a file: a number must be a number, text may be a whole number, a list a list. What a value must be
besides, such as bounds and patterns, is asked by the very function that prepare asks.
"""

from array import array
from collections.abc import Sequence
from math import isfinite
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator, Field, StringConstraints, create_model

from jobs.features.columns import REASON, Column, check_rows, whole
from jobs.features.values import TEXT, ColumnKind
from serving.endpoint import Body, as_text
from serving.problem import fault

Text = Annotated[
    str, StringConstraints(strip_whitespace=True), BeforeValidator(as_text, json_schema_input_type=str | int)
]
Number = Annotated[float, Field(allow_inf_nan=False)]
_JSON_TYPES: dict[ColumnKind, Any] = {
    "id": Text,
    "text": Text,
    "number": Number,
    "time": Text,
    "labels": list[Text | None],
    "numbers": list[Number],
    "image": Text,
}
_ARROW_TYPES: dict[ColumnKind, pa.DataType] = {
    "id": pa.string(),
    "text": pa.string(),
    "number": pa.float64(),
    "time": pa.string(),
    "labels": pa.list_(pa.string()),
    "numbers": pa.list_(pa.float64()),
    "image": pa.string(),
}
_FIELD = "column"
_KINDS: dict[ColumnKind, str] = {
    "id": "An identifier.",
    "text": "Text.",
    "number": "A number.",
    "time": "Seconds since 1970, or ISO 8601.",
    "labels": "A list of labels.",
    "numbers": "A list of numbers.",
    "image": "The content of an image file, in base64.",
}


def row_model(columns: Sequence[Column]) -> type[Body]:
    """The pydantic model of a row; its fields are numbered, since a column may have any name, and go by alias."""
    fields: dict[str, Any] = {f"{_FIELD}{number}": _field(column) for number, column in enumerate(columns)}
    return create_model("Row", __base__=Body, __doc__="The raw columns of a row, by name.", **fields)


def _field(column: Column) -> tuple[Any, Any]:
    kind = _JSON_TYPES[column.kind]
    told: dict[str, Any] = {"alias": column.name, "json_schema_extra": _rules(column)}
    description = _KINDS[column.kind] + (f" In {column.unit}." if column.unit else "")
    if not column.nullable:
        return kind, Field(**told, description=description)
    return kind | None, Field(None, **told, description=f"{description} May be null or left out.")


def _rules(column: Column) -> dict[str, Any]:
    """What `check_rows` asks, in the words of JSON Schema, for the OpenAPI page."""
    pattern = None if column.pattern is None else whole(column.pattern)
    rules = {
        "minimum": column.low,
        "maximum": column.high,
        "pattern": pattern,
        "minItems": column.length,
        "maxItems": column.length,
    }
    return {name: rule for name, rule in rules.items() if rule is not None}


class _NeedsCloserLookError(Exception):
    """A value that is not plainly right, or whose kind takes more than a comparison."""


def plain_row(row: Body, columns: Sequence[Column]) -> dict[str, Any] | None:
    """The row as `typed_rows` would give it, in microseconds; None where a value needs the closer look of that.

    Args:
        row: of the `row_model` of these columns.
    """
    try:
        return {column.name: _plain(getattr(row, f"{_FIELD}{number}"), column) for number, column in enumerate(columns)}
    except _NeedsCloserLookError:
        return None


def _plain(value: Any, column: Column) -> Any:
    if value is None and (column.nullable or not column.required):
        return None
    if value and column.kind in TEXT and (column.pattern is None or _matches(value, column.pattern)):
        return value
    if value is not None and column.kind == "number":
        is_low = column.low is not None and value < column.low
        if isfinite(value) and not is_low and (column.high is None or value <= column.high):
            return float(value)
    if value is not None and column.kind == "numbers" and column.length in (None, len(value)):
        singles = array("f", value)
        if all(map(isfinite, singles)):
            return singles.tolist()
    raise _NeedsCloserLookError


def _matches(value: str, pattern: str) -> bool:
    """By the library that prepare asks: regular expressions of Python would differ."""
    return bool(pc.match_substring_regex(pa.scalar(value), whole(pattern)).as_py())


def as_asked(row: Body, columns: Sequence[Column]) -> dict[str, Any]:
    """The values of a row by their column's name, as the request has them."""
    return {column.name: getattr(row, f"{_FIELD}{number}") for number, column in enumerate(columns)}


def typed_rows(rows: Sequence[Body], columns: Sequence[Column]) -> pa.Table:
    """The rows in the types that steps take, checked as prepare checks them.

    Args:
        rows: of the `row_model` of these columns; what was left out is null.

    Raises:
        RequestValidationError: a value breaks a rule; names row and column of each.
    """
    raw = pa.table(
        {
            column.name: pa.array([getattr(row, _FIELD + str(number)) for row in rows], _ARROW_TYPES[column.kind])
            for number, column in enumerate(columns)
        }
    )
    checked = check_rows(raw, columns)
    if checked.column(REASON).null_count < len(rows):
        raise RequestValidationError([each for column in columns for each in _faults(raw, column)])
    return checked.drop_columns([REASON])


def _faults(raw: pa.Table, column: Column) -> list[dict[str, Any]]:
    reasons = check_rows(raw.select([column.name]), [column]).column(REASON)
    broken = pc.indices_nonzero(pc.is_valid(reasons)).to_pylist()
    return [
        fault(("body", "rows", row, column.name), reasons[row].as_py().removeprefix(f"{column.name} "))
        for row in broken
    ]
