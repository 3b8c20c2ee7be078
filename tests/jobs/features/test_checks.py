import pyarrow as pa
import pytest
from pydantic import ValidationError

from cluster.errors import SpecError
from jobs.features.checks import CheckSpec, checked
from jobs.features.columns import REASON, Column, check_rows

COLUMNS = (Column("age", "number", nullable=True, low=0), Column("code", "text", nullable=True))


def reasons(checks: dict[str, CheckSpec]) -> list[str | None]:
    raw = pa.table({"age": ["7", None, "200", "-1"], "code": ["A1", "B22", "A1\n", None]})
    found: list[str | None] = check_rows(raw, checked(COLUMNS, checks, "raw.events")).column(REASON).to_pylist()
    return found


def test_a_row_that_breaks_a_check_says_which() -> None:
    assert reasons({}) == [None, None, None, "age '-1' is below 0"]
    assert reasons({"age": CheckSpec(required=True, low=-5, high=120)}) == [
        None,
        "age is missing",
        "age '200' is above 120",
        None,
    ]
    assert reasons({"code": CheckSpec(pattern="A.|C")}) == [
        None,
        "code 'B22' does not match 'A.|C'",
        None,
        "age '-1' is below 0",
    ]


@pytest.mark.parametrize(
    ("name", "check", "message"),
    [
        ("aeg", CheckSpec(required=True), "raw.events.checks: no column 'aeg' is read. Did you mean 'age'"),
        ("age", CheckSpec(pattern="a"), "checks.age.pattern='a': the column is of kind number, a pattern is for text"),
        ("code", CheckSpec(low=1), "checks.code: the column is of kind text, low and high are for numbers"),
        ("code", CheckSpec(unit="m"), "checks.code.unit='m': the column is of kind text, units are of numbers"),
    ],
)
def test_a_check_that_cannot_be_is_refused(name: str, check: CheckSpec, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        checked(COLUMNS, {name: check}, "raw.events")


@pytest.mark.parametrize(
    ("values", "message"),
    [({"low": 2.0, "high": 1.0}, "low=2 is above high=1"), ({"pattern": "("}, "is no regular expression of RE2")],
)
def test_a_check_that_nothing_can_pass_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CheckSpec.model_validate(values)
