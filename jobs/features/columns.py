"""Columns of raw data: what a value must be, and why a row that breaks it goes to quarantine."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import DataError, nearest
from jobs.features.values import MAX_PIXELS, ColumnKind, plain, shown, typed
from jobs.features.words import word_starts

REASON = "reason"


@dataclass(frozen=True)
class Column:
    """One column by its name in Rayline and in the files.

    Kinds: `id` an opaque string; `number`; `time` in seconds since 1970, fractions dropped, in text also ISO 8601;
    `text`; `labels` a list, in text written as "a|b|c"; `numbers` a list in single precision, in text written as
    "1|2|3"; `image` the content of an image file, in text as base64.
    """

    name: str
    kind: ColumnKind
    source: str = ""
    required: bool = True
    """Whether the files must have it; then each row must, too, unless it is `nullable`."""
    nullable: bool = False
    low: float | None = None
    high: float | None = None
    length: int | None = None
    """How many entries a list must have."""
    pattern: str | None = None
    """A regular expression (of RE2) that must match all of a text."""
    unit: str = ""
    """What a number is counted in; for who reads about it."""
    entry_a_word_of: str = ""
    """The text column, named before this one, of whose words a list must have an entry each; white space parts them."""

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
    return tuple(replace(column, source=names.get(column.name, "")) for column in columns)


def check_header(header: Iterable[str], columns: Sequence[Column], source: str) -> None:
    """Raise DataError unless every required column is among `header`, and none is there twice."""
    present = list(header)
    for column in columns:
        if present.count(column.in_files) > 1:
            raise DataError(f"{source} has {present.count(column.in_files)} columns '{column.in_files}'; keep one")
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
        A table of the columns by their own names and types, plus `reason`: null for a good row. A value that
        cannot be of its column's kind is null.
    """
    arrays: dict[str, pa.Array] = {}
    reasons: pa.Array = pa.nulls(raw.num_rows, pa.string())
    for column in columns:
        given = _column(raw, column.in_files)
        values = typed(given, column.kind)
        for where, rule in _faults(column, given, values, arrays):
            reasons = _say(reasons, where, column, given, rule)
        arrays[column.name] = values
    return pa.table({**arrays, REASON: reasons})


def whole(pattern: str) -> str:
    """The regular expression that all of a text must be for the pattern to match it."""
    return f"^(?:{pattern})$"


RULES: dict[ColumnKind, str] = {
    "id": "identifier",
    "number": "number",
    "time": "number of seconds or ISO 8601 time",
    "text": "text",
    "labels": "list of labels",
    "numbers": "list of numbers",
    "image": f"image of {MAX_PIXELS:,} pixels at most that can be decoded",
}
"""What a message says a value is not."""


def _column(raw: pa.Table, name: str) -> pa.Array:
    return plain(raw.column(name)) if name in raw.column_names else pa.nulls(raw.num_rows, pa.string())


def _faults(
    column: Column, given: pa.Array, values: pa.Array, before: Mapping[str, pa.Array]
) -> Iterator[tuple[pa.Array, str | pa.Array]]:
    """Where each rule is broken, and how a message says so: of all rows, or of each.

    Args:
        before: the columns before this one, typed.
    """
    yield pc.and_(pc.is_valid(given), pc.is_null(values)), f"is no {RULES[column.kind]}"
    if column.required and not column.nullable:
        yield pc.is_null(given), "is missing"
    if column.low is not None:
        yield pc.less(values, column.low), f"is below {column.low:g}"
    if column.high is not None:
        yield pc.greater(values, column.high), f"is above {column.high:g}"
    if column.pattern is not None:
        matches = pc.match_substring_regex(values, whole(column.pattern))
        yield pc.invert(matches), f"does not match '{column.pattern}'"
    if column.length is not None:
        lengths = pc.list_value_length(values)
        said = pc.binary_join_element_wise("has", lengths.cast(pa.string()), f"entries, not {column.length}", " ")
        yield pc.not_equal(lengths, column.length), said
    if column.entry_a_word_of:
        lengths, texts = pc.list_value_length(values), before[column.entry_a_word_of]
        words = pa.array([len(word_starts(text)) for text in texts.to_pylist()], pa.int32())
        numbers = lengths.cast(pa.string()), f"entries, but {column.entry_a_word_of} has", words.cast(pa.string())
        yield pc.not_equal(lengths, words), pc.binary_join_element_wise("has", *numbers, "words", " ")


def _say(reasons: pa.Array, where: pa.Array, column: Column, given: pa.Array, rule: str | pa.Array) -> pa.Array:
    """Add the reason where nothing was said before; a null in `where` is a no."""
    first = pc.and_(pc.is_null(reasons), pc.fill_null(where, False))
    if not pc.any(first).as_py():  # quoting every value of a good column would cost more than checking it
        return reasons
    quoted = pc.binary_join_element_wise("'", shown(given), "'", "")
    return pc.if_else(
        first, pc.binary_join_element_wise(column.in_files, quoted, rule, " ", null_handling="skip"), reasons
    )
