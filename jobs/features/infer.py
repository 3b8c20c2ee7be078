"""Inference: what kind the first values of a column suggest, and whether a model can learn from it as it is."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from jobs.features.values import ARROW_TYPES, NUM_SHOWN, ColumnKind, plain, typed

SuggestedKind = ColumnKind | Literal["nested", "empty"]

MOST = 0.95
"""The share of values that must be of a kind; the others would go to quarantine."""
MANY = 0.1
"""The share of texts with a bar from which bars part the entries of lists."""
FEWEST_IDS = 20
"""So many different values can be chance, where there are fewer rows."""
MOST_CATEGORIES = 1000
LONGEST_LABEL = 64
"""Characters; what is longer is prose with a bar in it."""
NUM_EXAMPLES = 3
_RECENT = (7e8, 2.2e9)
"""Whole numbers between these are seconds since 1970, of 1992 to 2039."""
_CODE = r"^[+-]?0\d"
"""What loses its first digit as a number."""


@dataclass(frozen=True)
class Guess:
    """What a column seems to be."""

    name: str
    kind: SuggestedKind
    num_distinct: int
    """How many values differ; of labels, how many labels."""
    share_missing: float
    num_other: int
    """Values that are there and not of the kind."""
    examples: tuple[str, ...]
    left_out: str | None
    """Why a model cannot take it as a number or a category."""


def infer(table: pa.Table) -> tuple[Guess, ...]:
    """A guess a column, in their order; of text as it lies in files, or of typed values."""
    return tuple(_guess(name, table.column(name)) for name in table.column_names)


def _guess(name: str, column: pa.ChunkedArray) -> Guess:
    given = plain(column)
    known = _as_text(given).drop_null()
    kind = _kind(known)
    share_missing = (len(given) - len(known)) / len(given) if len(given) else 0.0
    values = _values(known, kind)
    distinct = list(dict.fromkeys(values))
    examples = tuple(_shown(value) for value in distinct[:NUM_EXAMPLES])
    num_other = len(known) - _num_of(known, kind)
    return Guess(name, kind, len(distinct), share_missing, num_other, examples, _left_out(kind, values, len(distinct)))


def _shown(value: object) -> str:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)


def _as_text(given: pa.Array) -> pa.Array:
    """Bytes that spell text are text."""
    if pa.types.is_binary(given.type) and len(given) != given.null_count:
        text = typed(given, "text")
        return text if text.null_count == given.null_count else given
    return given


def _kind(known: pa.Array) -> SuggestedKind:
    if not len(known):
        return "empty"
    if pa.types.is_string(known.type):
        return _kind_of_text(known)
    if pa.types.is_binary(known.type):
        return "image"
    if pa.types.is_boolean(known.type):
        return "text"
    if pa.types.is_timestamp(known.type) or pa.types.is_date(known.type):
        return "time"
    if pa.types.is_integer(known.type) or pa.types.is_floating(known.type) or pa.types.is_decimal(known.type):
        return _kind_of_numbers(known)
    if pa.types.is_nested(known.type):
        lists: tuple[Literal["numbers", "labels"], ...] = ("numbers", "labels")
        return next((kind for kind in lists if _num_of(known, kind)), "nested")
    return "text" if _num_of(known, "text") else "nested"


def _kind_of_text(known: pa.Array) -> SuggestedKind:
    wanted = MOST * len(known)
    is_code = pc.any(pc.match_substring_regex(known, _CODE)).as_py()
    if _num_of(known, "number") >= wanted and not is_code:
        return _kind_of_numbers(typed(known, "number").drop_null())
    if _num_of(known, "time") >= wanted and not is_code:
        return "time"
    if pc.mean(pc.match_substring(known, "|").cast(pa.float64())).as_py() >= MANY:
        if _num_of(known, "numbers") >= wanted:
            return "numbers"
        if pc.max(pc.utf8_length(typed(known, "labels").flatten())).as_py() <= LONGEST_LABEL:
            return "labels"
    has_spaces = pc.any(pc.match_substring_regex(known, r"\s")).as_py()
    return "id" if _all_differ(known) and not has_spaces else "text"


def _kind_of_numbers(known: pa.Array) -> SuggestedKind:
    numbers = typed(known, "number").drop_null()
    if not len(numbers) or not pc.all(pc.equal(numbers, pc.floor(numbers))).as_py():
        return "number"
    extremes = pc.min_max(numbers).as_py()
    if extremes["min"] >= _RECENT[0] and extremes["max"] <= _RECENT[1]:
        return "time"
    return "id" if _all_differ(numbers) else "number"


def _all_differ(known: pa.Array) -> bool:
    return len(known) >= FEWEST_IDS and pc.count_distinct(known).as_py() == len(known)


def _num_of(known: pa.Array, kind: SuggestedKind) -> int:
    """How many values are of the kind; all where a kind is none that a spec knows."""
    own = next((own for own in ARROW_TYPES if own == kind), None)
    return len(known) - (int(typed(known, own).null_count) if own else 0)


def _values(known: pa.Array, kind: SuggestedKind) -> list[object]:
    """What is counted, and what is shown."""
    if kind == "labels":
        return [label for labels in typed(known, "labels").drop_null().to_pylist() for label in labels]
    values: Iterable[object] = known.to_pylist()
    return [str(value) if isinstance(value, list | dict) else value for value in values]


def _left_out(kind: SuggestedKind, values: list[object], num_distinct: int) -> str | None:
    if kind == "empty":
        return "it has no values"
    if kind in ("time", "labels", "numbers", "image", "nested"):
        return _OF_NO_CELL[kind]
    if num_distinct == 1:
        return f"it is always {str(values[0])[:NUM_SHOWN]}"
    is_text = kind == "text"
    if kind == "id" or (is_text and len(values) >= FEWEST_IDS and num_distinct == len(values)):
        return "all its values differ"
    if is_text and num_distinct > MOST_CATEGORIES:
        return f"it has {num_distinct:,} different texts, more than {MOST_CATEGORIES:,}"
    return None


_OF_NO_CELL: dict[SuggestedKind, str] = {
    "time": "it is a time, which orders rows or is read by prepare.history",
    "labels": "it is a list of labels",
    "numbers": "it is a list of numbers, which workload.vectors takes if all have one length",
    "image": "it is bytes",
    "nested": "it is nested, which no kind of column is",
}
