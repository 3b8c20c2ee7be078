from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from jobs.features.infer import Guess, infer
from tests.jobs.features.test_values import FORMS

N = 40
WORDS = ["red", "green", "blue", "red"]


def guess(values: object) -> Guess:
    (found,) = infer(pa.table({"x": values}))
    return found


COLUMNS: dict[str, tuple[object, str, str | None]] = {
    "numbers": ([n % 7 for n in range(N)], "number", None),
    "numbers in text": ([f"{n / 4}" for n in range(N)], "number", None),
    "fractions that all differ": ([n + 0.5 for n in range(N)], "number", None),
    "whole numbers that all differ": (list(range(N)), "id", "all its values differ"),
    "the same in text": ([str(n) for n in range(N)], "id", "all its values differ"),
    "too few to be told from chance": ([3, 1, 2], "number", None),
    "seconds": ([1_600_000_000 + n // 2 for n in range(N)], "time", "it is a time"),
    "moments": ([datetime(2020, 1, 1, n % 24, tzinfo=UTC) for n in range(N)], "time", "it is a time"),
    "days": ([date(2020, 1, 1)] * N, "time", "it is a time"),
    "moments in text": ([f"2020-01-{1 + n % 30:02d}T10:00" for n in range(N)], "time", "it is a time"),
    "codes with a leading zero": (["01234", "90210"] * N, "text", None),
    "words": (WORDS * N, "text", None),
    "truths": ([True, False] * N, "text", None),
    "names": ([f"tail{n}" for n in range(N)], "id", "all its values differ"),
    "documents": ([f"some words, {n} | of them" for n in range(N)], "labels", "it is a list of labels"),
    "prose with bars": ([f"{'so many words ' * 9} | {n}" for n in range(N)], "text", "all its values differ"),
    "many words": ([f"w{n}" for n in range(1001)] * 2, "text", "it has 1,001 different texts, more than 1,000"),
    "just few enough words": ([f"w{n}" for n in range(1000)] * 2, "text", None),
    "one word": (["here"] * N, "text", "it is always here"),
    "one number": ([7] * N, "number", "it is always 7"),
    "labels in text": (["a|b", "b", "c|a"] * N, "labels", "it is a list of labels"),
    "labels": ([["a", "b"], ["b"]] * N, "labels", "it is a list of labels"),
    "lists": ([[1.0, 2.0], [3.0]] * N, "numbers", "it is a list of numbers"),
    "lists in text": (["1|2", "3|4.5"] * N, "numbers", "it is a list of numbers"),
    "bytes": ([b"\x89PNG\xff", b"\xff\xd8\xff"] * N, "image", "it is bytes"),
    "text as bytes": ([word.encode() for word in WORDS * N], "text", None),
    "objects": ([{"a": 1}] * N, "nested", "it is nested"),
    "nothing": ([None] * N, "empty", "it has no values"),
    "blanks": (["", " "] * N, "empty", "it has no values"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_told_by_its_values(name: str) -> None:
    values, kind, left_out = COLUMNS[name]
    found = guess(values)
    assert found.kind == kind
    assert found.left_out is None if left_out is None else str(found.left_out).startswith(left_out)


def test_what_is_missing_other_and_different_is_counted() -> None:
    found = guess([*map(str, range(10)), *["7"] * 89, "n/a", "", None, " ", *["8"] * 2])
    assert found == Guess("x", "number", 11, 3 / 105, 1, ("0", "1", "2"), None)
    labels = guess(["a|b", "b|c", None, "a"])
    assert (labels.num_distinct, labels.share_missing, labels.examples) == (3, 0.25, ("a", "b", "c"))


def test_one_value_in_twenty_may_be_of_another_kind() -> None:
    assert guess(["7"] * 95 + ["n/a"] * 5).kind == "number"
    assert guess(["7"] * 94 + ["n/a"] * 6).kind == "text"


def test_examples_are_the_first_that_differ_and_bytes_are_not_shown() -> None:
    assert guess(WORDS).examples == ("red", "green", "blue")
    assert guess([b"\xff" * 2000, b"\xfe"]).examples == ("2,000 bytes", "1 bytes")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_is_told_without_an_error(form: str) -> None:
    found = guess(FORMS[form])
    assert 0 <= found.share_missing <= 1
    assert found.num_other >= 0


def test_columns_keep_their_order_and_a_table_without_rows_has_nothing_to_tell() -> None:
    table = pa.table({"b": pa.array([], pa.string()), "a": pa.array([], pa.int64())})
    assert [(found.name, found.kind, found.share_missing) for found in infer(table)] == [
        ("b", "empty", 0.0),
        ("a", "empty", 0.0),
    ]
