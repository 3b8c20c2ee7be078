from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.features.columns import Column, check_rows
from jobs.report.quarantine import Reason, count_reasons, merge_reasons


def counted(*reasons: str) -> tuple[Reason, ...]:
    return count_reasons(pa.chunked_array([pa.array(reasons, pa.string())]))


def test_rows_count_by_column_and_rule_with_some_values() -> None:
    found = counted(
        "rating '9.5' is above 5", "userId is missing", "rating '7' is above 5", "rating 'abc' is no number"
    )
    assert found == (
        Reason("rating is above 5", 2, ("7", "9.5")),
        Reason("rating is no number", 1, ("abc",)),
        Reason("userId is missing", 1, ()),
    )


@pytest.mark.parametrize("value", ["it's", "a' is above 5", "two\nlines", "' '", "x\\1"])
def test_a_value_may_hold_anything(value: str) -> None:
    assert counted(f"name '{value}' does not match 'N.*'") == (Reason("name does not match 'N.*'", 1, (value,)),)


def test_every_rule_of_the_checks_is_told_from_its_values() -> None:
    columns = (
        Column("a", "number", low=0, high=5),
        Column("b", "text", pattern="N.*"),
        Column("c", "numbers", length=2),
        Column("d", "time"),
    )
    raw = {"a": ["-1", "9", "x", "8", "2"], "b": ["N", "N", "N", "N", "'q'"], "c": ["1|2"] * 5, "d": ["1"] * 5}
    lists = {"a": ["1", "1"], "b": ["N", "N"], "c": ["1", "1|2|3"], "d": ["1", "1"]}
    reasons = [
        reason
        for table in (raw, lists)
        for reason in check_rows(pa.table(table), columns).column("reason").to_pylist()
        if reason
    ]
    assert {reason.rule: reason.num_rows for reason in counted(*reasons)} == {
        "a is above 5": 2,
        "a is below 0": 1,
        "a is no number": 1,
        "b does not match 'N.*'": 1,
        "c has other than the right number of entries, 2": 2,
    }


REASONS = st.lists(
    st.builds("{} '{}' is above 5".format, st.sampled_from("ab"), st.text(max_size=2)) | st.just("c is missing")
)


@given(reasons=REASONS, cuts=st.lists(st.integers(0, 20), max_size=3))
def test_parts_add_up_to_the_whole(reasons: list[str], cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(reasons)]
    parts = [counted(*reasons[start:end]) for start, end in pairwise(edges)]
    assert merge_reasons(parts[::-1]) == counted(*reasons)
