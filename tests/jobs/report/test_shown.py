import pytest

from jobs.report.shown import counted, moment, number, share, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234567.0, "1,234,567"),
        (1340.26, "1,340"),
        (0.12345, "0.1235"),
        (-11.96, "-11.96"),
        (1e20, "1e+20"),
    ],
)
def test_numbers_keep_what_is_worth_reading(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0%"),
        (0.0004, "<0.1%"),
        (0.0214, "2.1%"),
        (0.5, "50%"),
        (0.9912, "99.1%"),
        (0.99999, ">99.9%"),
        (1, "100.0%"),
    ],
)
def test_what_is_not_all_or_nothing_never_reads_so(value: float, text: str) -> None:
    assert share(value) == text


def test_moments_are_days_where_a_calendar_has_them() -> None:
    assert moment(0) == "1970-01-01 00:00"
    assert moment(1e17) == number(1e17)


@pytest.mark.parametrize(("num_bytes", "text"), [(7, "7 B"), (1536, "1.5 KiB"), (5 * 2**40, "5.0 TiB")])
def test_bytes_have_the_unit_that_fits(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text


def test_one_thing_is_no_several() -> None:
    assert (counted(1, "row"), counted(1200, "row")) == ("1 row", "1,200 rows")
