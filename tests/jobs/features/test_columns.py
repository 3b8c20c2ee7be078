import pyarrow as pa
import pytest

from cluster.errors import DataError
from jobs.features.columns import Column, check_header, check_rows, rename

RATING = Column("rating", "number", low=0.5, high=5.0)
USER = Column("user_id", "id", source="userId")
GENRES = Column("genres", "labels", required=False)


def reasons(column: Column, given: pa.Array | list[object]) -> list[str | None]:
    return check_rows(pa.table({column.in_files: given}), [column]).column("reason").to_pylist()


def test_a_good_row_has_no_reason_and_typed_values() -> None:
    raw = pa.table({"userId": ["7"], "rating": [" 4.5"], "genres": ["Drama|War"], "unread": ["x"]})
    checked = check_rows(raw, [USER, RATING, GENRES])
    assert checked.to_pylist() == [{"user_id": "7", "rating": 4.5, "genres": ["Drama", "War"], "reason": None}]


@pytest.mark.parametrize(
    ("kind", "given", "reason"),
    [
        ("number", "five", "c 'five' is no number"),
        ("number", "nan", "c 'nan' is no number"),
        ("number", float("nan"), "c 'nan' is no number"),
        ("number", float("inf"), "c 'inf' is no number"),
        ("number", True, "c 'true' is no number"),
        ("number", [1.0], "c '[1.0]' is no number"),
        ("time", "yesterday", "c 'yesterday' is no number of seconds or ISO 8601 time"),
        ("time", 10**18, "c '1000000000000000000' is no number of seconds or ISO 8601 time"),
        ("id", float("nan"), "c 'nan' is no identifier"),
        ("id", {"a": 1}, "c '{'a': 1}' is no identifier"),
        ("id", b"\xff", r"c 'b'\xff'' is no identifier"),
        ("text", ["a"], "c '['a']' is no text"),
        ("labels", 3, "c '3' is no list of labels"),
        ("labels", [{"a": 1}], "c '[{'a': 1}]' is no list of labels"),
        ("numbers", "1|x", "c '1|x' is no list of numbers"),
        ("numbers", [1.0, None], "c '[1.0, None]' is no list of numbers"),
        ("numbers", "", "c is missing"),
        ("id", None, "c is missing"),
        ("number", "", "c is missing"),
        ("time", "  ", "c is missing"),
        ("id", b"", "c is missing"),
    ],
)
def test_the_reason_names_column_value_and_rule(kind: str, given: object, reason: str) -> None:
    assert reasons(Column("c", kind), pa.array([given])) == [reason]


def test_only_the_bad_rows_of_a_column_are_refused() -> None:
    given = [3.0, None, float("inf"), 0.5, 5.0]
    assert reasons(RATING, given) == [None, "rating is missing", "rating 'inf' is no number", None, None]


@pytest.mark.parametrize("form", [pa.float64(), pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_number_out_of_range_is_refused_in_every_form(form: pa.DataType) -> None:
    given = pa.array([0.4, 0.5, 5.0, 5.1]).cast(pa.string()).cast(form)
    assert reasons(RATING, given) == ["rating '0.4' is below 0.5", None, None, "rating '5.1' is above 5"]


def test_the_first_fault_in_the_order_of_the_columns_is_the_reason() -> None:
    raw = pa.table({"userId": [None, "1"], "rating": ["x", "x"]})
    assert check_rows(raw, [USER, RATING]).column("reason").to_pylist() == [
        "userId is missing",
        "rating 'x' is no number",
    ]


def test_an_absent_optional_column_is_filled_with_null() -> None:
    checked = check_rows(pa.table({"userId": ["1", "2"]}), [USER, GENRES])
    assert checked.column("genres").type == pa.list_(pa.string())
    assert checked.column("genres").to_pylist() == [None, None]
    assert checked.column("reason").to_pylist() == [None, None]


def test_an_empty_optional_value_is_no_fault_but_a_wrong_one_is() -> None:
    assert reasons(GENRES, pa.array([None, ""])) == [None, None]
    assert reasons(GENRES, pa.array([None, 3])) == [None, "genres '3' is no list of labels"]


def test_an_absent_required_column_is_missing_in_every_row() -> None:
    checked = check_rows(pa.table({"rating": [1.0, 2.0]}), [USER, RATING])
    assert checked.column("reason").to_pylist() == ["userId is missing"] * 2


def test_a_table_without_rows_gives_one_without_rows_of_the_same_types() -> None:
    full = check_rows(pa.table({"userId": ["1"], "rating": ["1"]}), [USER, RATING])
    empty = check_rows(pa.table({"userId": pa.array([], pa.string()), "rating": pa.array([])}), [USER, RATING])
    assert empty.num_rows == 0
    assert empty.schema == full.schema


def test_rename_sets_the_names_in_the_files_and_keeps_the_rules() -> None:
    (renamed,) = rename([RATING], {"rating": "stars"})
    assert renamed == Column("rating", "number", source="stars", low=0.5, high=5.0)


def test_rename_of_an_unknown_column_names_the_nearest() -> None:
    with pytest.raises(DataError, match=r"'ratings', which this workload does not read. Did you mean 'rating'\?"):
        rename([RATING, USER], {"ratings": "stars"})


def test_a_header_without_a_required_column_is_refused_with_the_way_out() -> None:
    with pytest.raises(DataError) as error:
        check_header(["user", "rating"], [USER, RATING], "'ratings.csv'")
    assert "'ratings.csv' has no column 'userId'. Did you mean 'user'?" in str(error.value)
    assert "columns: {user_id: NAME}" in str(error.value)


def test_a_header_may_lack_optional_columns_and_hold_others() -> None:
    check_header(["userId", "unread", "unread"], [USER, GENRES], "'ratings.csv'")


def test_a_header_with_a_column_twice_is_refused() -> None:
    with pytest.raises(DataError, match=r"'ratings\.csv' has 2 columns 'rating'; keep one"):
        check_header(["userId", "rating", "rating"], [USER, RATING], "'ratings.csv'")


@pytest.mark.parametrize("given", [["1|2|3", "1|2", "1|2|3|4", ""], [[1, 2, 3], [1, 2], [1, 2, 3, 4], None]])
def test_a_list_of_another_length_is_refused_with_both_lengths(given: list[object]) -> None:
    found = reasons(Column("pixels", "numbers", length=3), given)
    assert [reason and reason.rpartition("'")[2].removeprefix("pixels").strip() for reason in found] == [
        None,
        "has 2 entries, not 3",
        "has 4 entries, not 3",
        "is missing",
    ]


def test_a_nullable_column_must_be_in_the_files_but_not_in_every_row() -> None:
    income = Column("income", "number", nullable=True)
    assert reasons(income, ["1", "", None, "x"]) == [None, None, None, "income 'x' is no number"]
    with pytest.raises(DataError, match=r"loans\.csv has no column 'income'\. Did you mean 'incomes'\?"):
        check_header(["incomes"], [income], "loans.csv")


def test_renaming_keeps_every_rule_of_a_column() -> None:
    column = Column("image", "numbers", required=False, nullable=True, low=0, high=9, length=4)
    (renamed,) = rename([column], {"image": "pixels"})
    assert renamed == Column("image", "numbers", "pixels", required=False, nullable=True, low=0, high=9, length=4)


@pytest.mark.parametrize("tags", [["A|O|O", "A|O", "O", "", "A"], [["A", "O", "O"], ["A", "O"], ["O"], None, ["A"]]])
def test_a_list_needs_an_entry_for_each_word(tags: list[object]) -> None:
    columns = (Column("text", "text"), Column("tags", "labels", entry_a_word_of="text"))
    table = pa.table({"text": ["Emma  is\n in", "Emma is in", " Emma ", "Emma", None], "tags": tags})
    checked = check_rows(table, columns)
    assert [reason and reason.rpartition("'")[2] for reason in checked.column("reason").to_pylist()] == [
        None,
        " has 2 entries, but text has 3 words",
        None,
        "tags is missing",
        "text is missing",
    ]
    assert checked.column("tags")[0].as_py() == ["A", "O", "O"]
