from typing import Any

import pyarrow as pa
import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.features.columns import Column, check_rows
from serving.raw_row import row_model, typed_rows

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
