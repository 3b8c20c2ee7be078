from typing import Any

import pyarrow as pa
import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.features.columns import Column, check_rows
from serving.raw_row import plain_row, row_model, typed_rows

COLUMNS = (
    Column("weight", "number", nullable=True),
    Column("kind", "text", nullable=True),
    Column("when", "time", nullable=True),
    Column("tags", "labels", nullable=True),
    Column("marks", "numbers", nullable=True, length=2),
)
ROW = row_model(COLUMNS)
SPELT = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Z"), blacklist_characters="|"), min_size=1, max_size=5)
NUMBERS = st.floats(-1e30, 1e30)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "weight": st.none() | NUMBERS,
        "kind": st.none() | SPELT,
        "when": st.none() | st.integers(0, 10**10),
        "tags": st.none() | st.lists(SPELT, max_size=3),
        "marks": st.none() | st.lists(NUMBERS, min_size=2, max_size=2),
    },
)


def in_csv(value: Any) -> str | None:
    """A value as a file of text holds it."""
    if isinstance(value, list):
        return "|".join(map(str, value))
    return None if value is None else str(value)


@settings(max_examples=50)
@given(st.lists(ROWS, min_size=1, max_size=5))
def test_a_row_of_a_request_is_typed_like_the_same_row_of_a_file(rows: list[dict[str, Any]]) -> None:
    spelt = {each.name: pa.array([in_csv(row.get(each.name)) for row in rows], pa.string()) for each in COLUMNS}
    expected = check_rows(pa.table(spelt), COLUMNS).drop_columns(["reason"])
    asked = [ROW.model_validate(row) for row in rows]
    got = typed_rows(asked, COLUMNS)
    is_empty = [row.get("tags") == [] for row in rows]  # which text spells like a missing cell
    for name in expected.column_names:
        pairs = zip(got.column(name).to_pylist(), expected.column(name).to_pylist(), is_empty, strict=True)
        assert all(one == other or (name == "tags" and empty) for one, other, empty in pairs)
    assert got.schema == expected.schema


def test_times_may_be_seconds_or_iso_8601() -> None:
    columns = [Column("when", "time")]
    rows = [row_model(columns).model_validate({"when": when}) for when in (86400, "86400", "1970-01-02T01:00+01:00")]
    assert typed_rows(rows, columns).column("when").to_pylist() == [86400] * 3
    with pytest.raises(RequestValidationError) as raised:
        typed_rows([row_model(columns).model_validate({"when": "tomorrow"})], columns)
    [fault] = raised.value.errors()
    assert fault["loc"] == ("body", "rows", 0, "when")
    assert fault["msg"] == "'tomorrow' is no number of seconds or ISO 8601 time"


def test_a_list_of_another_length_is_a_fault() -> None:
    rows = [ROW.model_validate({"marks": [1.0, 2.0, 3.0]})]
    with pytest.raises(RequestValidationError) as raised:
        typed_rows(rows, COLUMNS)
    assert raised.value.errors()[0]["msg"] == "'[1.0, 2.0, 3.0]' has 3 entries, not 2"


@pytest.mark.parametrize("name", ["model_config", "schema", "_hidden", "petal length (cm)", "copy", "column1", ""])
def test_a_column_may_have_any_name(name: str) -> None:
    columns = [Column(name, "number"), Column("other", "number")]
    rows = [row_model(columns).model_validate({name: 1.5, "other": 2.0})]
    assert typed_rows(rows, columns).to_pylist() == [{name: 1.5, "other": 2.0}]
    assert set(row_model(columns).model_json_schema()["properties"]) == {name, "other"}
    with pytest.raises(ValidationError, match="other\n  Field required"):
        row_model(columns).model_validate({name: 1.5})


BOUNDED = (
    Column("age", "number", low=18, high=99.5),
    Column("plain", "number", nullable=True),
    Column("home", "text", nullable=True, pattern="[a-zü]+"),
    Column("note", "text", nullable=True),
    Column("code", "id", nullable=True),
    Column("marks", "numbers", nullable=True, length=2),
    Column("path", "numbers", nullable=True),
)
BOUNDED_ROW = row_model(BOUNDED)
ANY_NUMBER = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-200, 200)
ANY_TEXT = st.sampled_from(["own", "über", "Own", "o\n", "\u00a0x", "\u200b", "\u2003", " ", "", "a b"]) | st.text(
    st.characters(blacklist_categories=("Cs",)), max_size=4
)


@settings(max_examples=400)
@given(
    st.fixed_dictionaries(
        {"age": ANY_NUMBER},
        optional={
            "plain": st.none() | ANY_NUMBER,
            "home": st.none() | ANY_TEXT,
            "note": st.none() | ANY_TEXT,
            "code": st.none() | ANY_TEXT | st.integers(0, 10**6),
            "marks": st.none() | st.lists(ANY_NUMBER, min_size=1, max_size=3),
            "path": st.none() | st.lists(ANY_NUMBER, max_size=3),
        },
    )
)
def test_the_quick_way_gives_what_the_thorough_one_gives_or_nothing(asked: dict[str, Any]) -> None:
    row = BOUNDED_ROW.model_validate(asked)
    try:
        [thorough] = typed_rows([row], BOUNDED).to_pylist()
    except RequestValidationError:
        thorough = None
    quick = plain_row(row, BOUNDED)
    assert quick is None or repr(quick) == repr(thorough)


def test_plain_values_go_the_quick_way() -> None:
    asked = {"age": 40, "plain": None, "home": "über", "note": "Ä b", "code": 7, "marks": [0.1, 2], "path": []}
    row = BOUNDED_ROW.model_validate(asked)
    assert plain_row(row, BOUNDED) == typed_rows([row], BOUNDED).to_pylist()[0]
    times = [Column("when", "time")]
    assert plain_row(row_model(times).model_validate({"when": 86400}), times) is None
