"""Rows in quarantine by the rule they broke, for a page: each rule with its rows and some of the values."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

NUM_EXAMPLES = 3
_QUOTING = r"(?s)^(.*?) '(.*)' (.+)$"
"""Column, value, rule, as `jobs.features.columns` words a reason."""
_COUNTING = r"^(\S+) has \d+ entries, not"
"""A rule that tells the length of each list; the rows of all lengths count together."""


@dataclass(frozen=True)
class Reason:
    """A rule that rows broke."""

    rule: str
    """With its column, such as "rating is above 5"."""
    num_rows: int
    examples: tuple[str, ...]
    """Values that broke it, the first by the alphabet; none where the rule quotes none."""


def count_reasons(reasons: pa.ChunkedArray) -> tuple[Reason, ...]:
    """The rules that the rows of a quarantine broke, the most frequent first; `merge_reasons` adds several up."""
    if not len(reasons):
        return ()
    quotes = pc.match_substring_regex(reasons, _QUOTING)
    rules = pc.replace_substring_regex(reasons, _QUOTING, r"\1 \3")
    rules = pc.replace_substring_regex(rules, _COUNTING, r"\1 has other than the right number of entries,")
    values = pc.if_else(quotes, pc.replace_substring_regex(reasons, _QUOTING, r"\2"), pa.scalar(None, pa.string()))
    pairs = pa.table({"rule": rules, "value": values}).group_by(["rule", "value"]).aggregate([([], "count_all")])
    found: dict[str, tuple[int, list[str]]] = {}
    ordered = pairs.sort_by([("rule", "ascending"), ("value", "ascending")])
    for rule, value, count in zip(*(ordered.column(name).to_pylist() for name in ordered.column_names), strict=True):
        num_rows, examples = found.get(rule, (0, []))
        if value is not None and len(examples) < NUM_EXAMPLES:
            examples.append(value)
        found[rule] = (num_rows + count, examples)
    return _by_frequency([Reason(rule, count, tuple(examples)) for rule, (count, examples) in found.items()])


def merge_reasons(parts: Sequence[Sequence[Reason]]) -> tuple[Reason, ...]:
    """The reasons of several parts as one, in any order and grouping the same."""
    found: dict[str, Reason] = {}
    for reason in (reason for part in parts for reason in part):
        other = found.get(reason.rule, Reason(reason.rule, 0, ()))
        examples = sorted({*other.examples, *reason.examples})[:NUM_EXAMPLES]
        found[reason.rule] = Reason(reason.rule, other.num_rows + reason.num_rows, tuple(examples))
    return _by_frequency(list(found.values()))


def _by_frequency(reasons: list[Reason]) -> tuple[Reason, ...]:
    return tuple(sorted(reasons, key=lambda reason: (-reason.num_rows, reason.rule)))
