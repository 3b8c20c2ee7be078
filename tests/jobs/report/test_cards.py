import numpy as np
import pyarrow as pa
import pytest

from jobs.features.column_profile import ColumnProfile, describe
from jobs.features.survey import survey
from jobs.report.cards import card, shown_name, side


def profile(values: object, **kinds: object) -> ColumnProfile:
    table = pa.table({"c": values})
    return describe(survey(table, np.arange(table.num_rows, dtype=np.uint64)), kinds)["c"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ([1.0, 2.0, 4.0], "number", ["Distribution of c from 1 to 4", "<dd>1 to 4</dd>", "<dt>median</dt><dd>2</dd>"]),
        ([0, 86400], "time", ["from 1970-01-01 00:00 to 1970-01-02 00:00"]),
        (["a", "a", "b"], "text", ["a 67%, b 33%", "<dt>length</dt><dd>1</dd>"]),
        ([f"k{n}" for n in range(9)], "id", ["All values in the sample differ."]),
        ([f"k{n % 8}" for n in range(16)], "id", ["and 3 more values"]),
        (pa.array([None, None], pa.string()), "text", ["100.0% missing", "2 rows", "No value to draw."]),
        ([["a", "b"], ["a"]], "labels", ["list of labels", "a 67%"]),
        ([b"abc", b"abcd"], "text", ["bytes", "<dt>length</dt><dd>3 to 4</dd>"]),
        ([{"a": 1}], "other", ["No value to draw."]),
    ],
    ids=str,
)
def test_each_kind_of_column_shows_what_it_has(values: object, kind: str, said: list[str]) -> None:
    shown = card(profile(values, c=kind))
    for text in said:
        assert text in shown


def test_what_a_step_replaced_is_told_as_what_was_read() -> None:
    assert (shown_name("raw:delay"), shown_name("delay")) == ("delay, as read", "delay")


def test_a_side_of_a_step_shows_the_missing_only_where_there_is_any() -> None:
    assert "missing" not in side(profile([1.0, 2.0]))
    assert "50% missing" in side(profile([1.0, None]))
