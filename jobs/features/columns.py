"""Columns of raw data: what a value must be, and why a row that breaks it goes to quarantine."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import DataError, nearest

ColumnKind = Literal["id", "number", "time", "text", "labels"]

ARROW_TYPES: dict[ColumnKind, pa.DataType] = {
    "id": pa.string(),
    "number": pa.float64(),
    "time": pa.int64(),
    "text": pa.string(),
    "labels": pa.list_(pa.string()),
}
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_WHOLE = r"^\s*[+-]?\d{1,18}(\.0*)?\s*$"
REASON = "reason"


@dataclass(frozen=True)
class Column:
    """One column by its name in Rayline and in the files.

    Kinds: `id` an opaque string; `number`; `time` in whole seconds since 1970; `text`; `labels` a list written
    as "a|b|c".
    """

    name: str
    kind: ColumnKind
    source: str = ""
    required: bool = True
    low: float | None = None
    high: float | None = None

    @property
    def in_files(self) -> str:
        """The name it has in the files."""
        return self.source or self.name


def rename(columns: Sequence[Column], names: dict[str, str]) -> tuple[Column, ...]:
    """The columns with the names that `names` gives them in the files.

    Raises:
        DataError: `names` speaks of a column that is not among them.
    """
    known = {column.name for column in columns}
    for name in names:
        if name not in known:
            raise DataError(f"raw columns name '{name}', which this workload does not read. {nearest(name, known)}")
    return tuple(Column(c.name, c.kind, names.get(c.name, ""), c.required, c.low, c.high) for c in columns)


def check_header(header: Iterable[str], columns: Sequence[Column], source: str) -> None:
    """Raise DataError unless every required column is among `header`."""
    present = list(header)
    for column in columns:
        if column.required and column.in_files not in present:
            raise DataError(
                f"{source} has no column '{column.in_files}'. {nearest(column.in_files, present)} "
                f"Where it has another name, say so in the spec: columns: {{{column.name}: NAME}}"
            )


def check_rows(raw: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """Type every column and say what is wrong with each row.

    Args:
        raw: columns by their names in the files, as text or already typed; absent optional ones are filled with null.

    Returns:
        A table of the columns by their own names and types, plus `reason`: null for a good row. A value that is
        wrong is null.
    """
    arrays: dict[str, pa.Array] = {}
    reasons: pa.Array = pa.nulls(raw.num_rows, pa.string())
    for column in columns:
        given = _column(raw, column.in_files)
        typed = _typed(given, column)
        lost = pc.and_(pc.is_valid(given), pc.is_null(typed))
        reasons = _say(reasons, lost, _quote(column, given, f"is no {_RULES[column.kind]}"))
        if column.required:
            reasons = _say(reasons, pc.is_null(given), f"{column.in_files} is missing")
        if column.low is not None:
            wrong = pc.less(typed, column.low)
            reasons = _say(reasons, wrong, _quote(column, given, f"is below {column.low:g}"))
        if column.high is not None:
            wrong = pc.greater(typed, column.high)
            reasons = _say(reasons, wrong, _quote(column, given, f"is above {column.high:g}"))
        arrays[column.name] = typed
    return pa.table({**arrays, REASON: reasons})


_RULES: dict[ColumnKind, str] = {
    "id": "identifier",
    "number": "number",
    "time": "whole number of seconds",
    "text": "text",
    "labels": "list of labels",
}


def _column(raw: pa.Table, name: str) -> pa.Array:
    if name not in raw.column_names:
        return pa.nulls(raw.num_rows, pa.string())
    array = raw.column(name).combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        text = pc.utf8_trim_whitespace(array.cast(pa.string()))
        return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    return array


def _typed(given: pa.Array, column: Column) -> pa.Array:
    """`given` in the column's type, null where it cannot be."""
    target = ARROW_TYPES[column.kind]
    if pa.types.is_null(given.type):
        return pa.nulls(len(given), target)
    if pa.types.is_string(given.type):
        return _typed_text(given, column.kind)
    if column.kind == "time":
        return _seconds(given)
    if column.kind == "labels" and not pa.types.is_list(given.type):
        return pa.nulls(len(given), target)
    if column.kind in ("id", "text") and pa.types.is_floating(given.type):
        return _ids_of_floats(given)
    try:
        typed = given.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.nulls(len(given), target)
    return _finite(typed) if column.kind == "number" else typed


def _typed_text(text: pa.Array, kind: ColumnKind) -> pa.Array:
    if kind == "labels":
        return pc.split_pattern(text, "|")
    if kind == "number":
        return _finite(_only(text, _NUMBER).cast(pa.float64()))
    if kind == "time":
        whole = pc.replace_substring_regex(_only(text, _WHOLE), r"\.0*$", "")
        return pc.replace_substring_regex(whole, r"^\+", "").cast(pa.int64())
    return text


def _only(text: pa.Array, pattern: str) -> pa.Array:
    return pc.if_else(pc.match_substring_regex(text, pattern), text, pa.scalar(None, pa.string()))


def _finite(numbers: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))


def _seconds(given: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(given.type):
        return given.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    if pa.types.is_floating(given.type):
        whole = pc.and_(pc.is_finite(given), pc.less(pc.abs(given), 1e18))
        given = pc.if_else(whole, pc.floor(given), pa.scalar(None, given.type))
    try:
        return given.cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.nulls(len(given), pa.int64())


def _ids_of_floats(given: pa.Array) -> pa.Array:
    """Whole numbers that a reader made floats, because some are missing, keep the spelling of whole numbers."""
    finite = pc.if_else(pc.is_finite(given), given, pa.scalar(None, given.type))
    if pc.all(pc.equal(finite, pc.floor(finite))).as_py() is not False:
        return finite.cast(pa.int64(), safe=False).cast(pa.string())
    return finite.cast(pa.string())


def _quote(column: Column, given: pa.Array, rule: str) -> pa.Array:
    shown = given if not pa.types.is_nested(given.type) else pa.array([str(value) for value in given.to_pylist()])
    text = pc.utf8_slice_codeunits(shown.cast(pa.string()), 0, 80)
    return pc.binary_join_element_wise(f"{column.in_files} '", text, f"' {rule}", "", null_handling="replace")


def _say(reasons: pa.Array, where: pa.Array, reason: pa.Array | str) -> pa.Array:
    """Add `reason` where nothing was said before; a null in `where` is a no."""
    first = pc.and_(pc.is_null(reasons), pc.fill_null(where, False))
    return pc.if_else(first, reason, reasons)
