import base64
import io
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from PIL import Image, ImageFile

from jobs.features.values import ARROW_TYPES, image_bytes, plain, shown, typed

NAN, INF = float("nan"), float("inf")

FORMS = {
    "strings": pa.array(["1", "abc", " 5 ", "+5", "", "1e3", None, "1" + "0" * 18, "nan", "inf", "1e400", "a|b", "|"]),
    "large strings": pa.array(["1", "x", ""], pa.large_string()),
    "string views": pa.array(["1", "x", None], pa.string_view()),
    "binary": pa.array([b"1", b"\xff", b"", None]),
    "ints": pa.array([1, None, -2, 2**62]),
    "small ints": pa.array([1, -2], pa.int8()),
    "unsigned ints": pa.array([1, 2**63 + 5], pa.uint64()),
    "floats": pa.array([1.0, 2.5, None, NAN, INF, -INF, 1e300, -1e18]),
    "floats of 32 bits": pa.array([1.0, 1e30, NAN], pa.float32()),
    "floats of 16 bits": pa.array([1.0, 2.5, INF], pa.float16()),
    "bools": pa.array([True, None, False]),
    "decimals": pa.array([Decimal("1.50"), None]),
    "timestamps": pa.array([datetime(2020, 1, 1), None]),
    "timestamps of a zone": pa.array([datetime(2020, 1, 1)], pa.timestamp("us", "Europe/Berlin")),
    "timestamps of an unknown zone": pa.array([0], pa.timestamp("us", "Nowhere/Land")),
    "nanoseconds": pa.array([10**18 + 5], pa.timestamp("ns")),
    "dates": pa.array([date(2020, 1, 1), None]),
    "dates of 64 bits": pa.array([date(2020, 1, 1)], pa.date64()),
    "times of day": pa.array([time(1, 2)]),
    "durations": pa.array([timedelta(seconds=4)]),
    "nulls": pa.nulls(2),
    "lists": pa.array([["a", "b"], None, [], [None, ""]]),
    "lists of ints": pa.array([[1, 2], None]),
    "large lists": pa.array([["a"]], pa.large_list(pa.string())),
    "lists of one size": pa.array([["a", "b"]], pa.list_(pa.string(), 2)),
    "lists of structs": pa.array([[{"a": 1}]]),
    "structs": pa.array([{"a": 1}, None]),
    "maps": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    "dictionary of strings": pa.array(["a", "1", None, "a"]).dictionary_encode(),
    "dictionary of ints": pa.array([1, 2, None]).dictionary_encode(),
    "no rows": pa.array([], pa.string()),
    "no rows of ints": pa.array([], pa.int64()),
    "no rows of a dictionary": pa.array([], pa.string()).dictionary_encode(),
    "several chunks": pa.chunked_array([["1"], ["x", ""]]),
    "no chunks": pa.chunked_array([], pa.string()),
    "chunks of different dictionaries": pa.chunked_array(
        [pa.array(["1"]).dictionary_encode(), pa.array(["x"]).dictionary_encode()]
    ),
}


def values(given: pa.Array, kind: str) -> list[object]:
    return typed(plain(pa.chunked_array([given])), kind).to_pylist()


@pytest.mark.parametrize("kind", ARROW_TYPES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_becomes_every_kind_without_an_error(form: str, kind: str) -> None:
    column = FORMS[form] if isinstance(FORMS[form], pa.ChunkedArray) else pa.chunked_array([FORMS[form]])
    given = plain(column)
    made = typed(given, kind)
    made.validate(full=True)
    assert made.type == ARROW_TYPES[kind]
    assert len(made) == len(column)
    quoted = shown(given).to_pylist()
    assert [text is None for text in quoted] == given.is_null().to_pylist()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1.0),
        (" 5 ", 5.0),
        ("+5", 5.0),
        ("-2.50", -2.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("1" + "0" * 18, 1e18),
        ("", None),
        ("  ", None),
        ("nan", None),
        ("inf", None),
        ("1e400", None),
        ("0x10", None),
        ("1_000", None),
        ("1,5", None),
        ("+-5", None),
        ("٣", None),
        ("five", None),
    ],
)
def test_number_is_read_from_text_as_people_write_numbers(text: str, number: float | None) -> None:
    assert values(pa.array([text]), "number") == [number]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (pa.array(["1260759144"]), 1260759144),
        (pa.array(["1260759144.9"]), 1260759144),
        (pa.array(["-1.5"]), -2),
        (pa.array(["1.26e9"]), 1260000000),
        (pa.array(["999999999999999999"]), 999999999999999999),
        (pa.array(["1" + "0" * 18]), None),
        (pa.array(["yesterday"]), None),
        (pa.array([1260759144]), 1260759144),
        (pa.array([999999999999999999]), 999999999999999999),
        (pa.array([2**62]), None),
        (pa.array([-(2**63)]), None),
        (pa.array([2**63 + 5], pa.uint64()), None),
        (pa.array([1260759144.9]), 1260759144),
        (pa.array([-1.5]), -2),
        (pa.array([Decimal("1.5")]), 1),
        (pa.array([datetime(2020, 1, 1, 0, 0, 0, 900_000)]), int(datetime(2020, 1, 1, tzinfo=UTC).timestamp())),
        (pa.array([-1500], pa.timestamp("ms")), -2),
        (pa.array([0], pa.timestamp("s", "Europe/Berlin")), 0),
        (pa.array([date(2020, 1, 1)]), int(datetime(2020, 1, 1, tzinfo=UTC).timestamp())),
        (pa.array([date(2020, 1, 1)], pa.date64()), int(datetime(2020, 1, 1, tzinfo=UTC).timestamp())),
        (pa.array([time(1, 2)]), None),
        (pa.array([timedelta(seconds=4)]), None),
        (pa.array([True]), None),
    ],
    ids=str,
)
def test_time_is_seconds_with_fractions_dropped_downwards(given: pa.Array, seconds: int | None) -> None:
    assert values(given, "time") == [seconds]


@pytest.mark.parametrize("given", [[1, 2**62], [1, 2**53 + 1]])
def test_one_large_number_does_not_spoil_its_neighbours(given: list[int]) -> None:
    assert values(pa.array(given), "number") == [float(value) for value in given]


def test_a_bool_is_no_number_in_any_form() -> None:
    assert values(pa.array([True, False]), "number") == [None, None]
    assert values(pa.array(["true", "false"]), "number") == [None, None]


def test_whole_floats_keep_the_spelling_of_whole_numbers() -> None:
    """pandas writes a column of ids with a gap as floats."""
    assert values(pa.array([1.0, None, 123456789012345680.0]), "id") == ["1", None, "123456789012345680"]


def test_an_id_is_spelt_the_same_whatever_stands_beside_it() -> None:
    for beside in (2.0, 2.5, 1e19, NAN, None):
        assert values(pa.array([1e15, beside]), "id")[0] == "1000000000000000"


def test_two_huge_float_ids_stay_two() -> None:
    assert len(set(values(pa.array([1e19, 1e20, 1e300]), "id"))) == 3


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Drama", ["Drama"]),
        ("Drama|War", ["Drama", "War"]),
        (" Drama | War ", ["Drama", "War"]),
        ("|Drama||War|", ["Drama", "War"]),
        ("Sci-Fi|Film Noir", ["Sci-Fi", "Film Noir"]),
        ("|", []),
        ("", None),
    ],
)
def test_labels_are_what_stands_between_bars(text: str, labels: list[str] | None) -> None:
    assert values(pa.array([text]), "labels") == [labels]


def test_labels_of_a_list_column_are_taken_as_they_are() -> None:
    assert values(pa.array([["a", "b"], [], None]), "labels") == [["a", "b"], [], None]


def test_text_stored_as_bytes_is_text_where_it_is_utf8() -> None:
    assert values(pa.array(["Amélie".encode(), b"\xff\xfe", b"", None]), "text") == ["Amélie", None, None, None]


def test_a_quoted_value_is_short() -> None:
    assert shown(pa.array(["x" * 1000])).to_pylist() == ["x" * 80]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1|2|3", [1.0, 2.0, 3.0]),
        (" 1 | -2.5|1e3 ", [1.0, -2.5, 1000.0]),
        ("7", [7.0]),
        ("1||3", None),
        ("1|2|", None),
        ("1|nan", None),
        ("1|1e39", None),
        ("1 2", None),
        ("|", None),
        ("", None),
    ],
)
def test_numbers_are_what_stands_between_bars_and_none_may_be_missing(text: str, numbers: list[float] | None) -> None:
    assert values(pa.array([text]), "numbers") == [numbers]


@pytest.mark.parametrize("form", [pa.list_(pa.uint8()), pa.large_list(pa.float64()), pa.list_(pa.int16(), 2)])
def test_numbers_of_a_list_column_are_taken_as_they_are(form: pa.DataType) -> None:
    given = pa.array([[0, 1], None, [2, None], [3, 4]], form)
    assert values(given, "numbers") == [[0.0, 1.0], None, None, [3.0, 4.0]]
    assert values(given.slice(2), "numbers") == [None, [3.0, 4.0]]


@pytest.mark.parametrize(
    "text",
    [
        "2013-01-31",
        "2013-01-01T10:00:00Z",
        "2013-01-31 10:00",
        "2013-01-31T10:00:00.9+02:00",
        "2013-01-31T10:00-0130",
        "1969-12-31T23:59:59Z",
        "2012-02-29T00:00:00+14",
    ],
)
def test_a_time_may_be_spelt_as_iso_8601_says_without_an_offset_in_utc(text: str) -> None:
    expected = datetime.fromisoformat(text)
    expected = expected if expected.tzinfo else expected.replace(tzinfo=UTC)
    assert values(pa.array([text, "7"]), "time") == [int(expected.timestamp() // 1), 7]


@pytest.mark.parametrize("text", ["2013-02-30", "2013-13-01", "2013-01-31T25:00", "2013-01-31T10:00:61", "31.1.2013"])
def test_a_day_or_hour_that_is_not_in_the_calendar_is_no_time(text: str) -> None:
    assert values(pa.array([text]), "time") == [None]


def test_an_image_of_too_many_pixels_is_none_and_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes of zeros, whatever they claim to be."""
    most, more = zeros(8192, 8192), zeros(8192, 8193)
    assert image_bytes(most) == most
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", lambda image: 1 / 0)
        assert image_bytes(more) is None
        assert image_bytes(base64.b64encode(more).decode()) is None
    assert values(pa.array([most, more, None]), "image") == [most, None, None]


@pytest.mark.parametrize(("name", "is_read"), [("TIFF", True), ("WEBP", True), ("EPS", False), ("PPM", False)])
def test_formats_are_those_that_are_told(name: str, is_read: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow knows more; an EPS would start Ghostscript, here and in a replica that is sent one."""
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, name)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given, **named: pytest.fail("it was started"))
    assert (image_bytes(content.getvalue()) is not None) is is_read


def zeros(width: int, height: int) -> bytes:
    """A PNG file that is black."""
    content = io.BytesIO()
    Image.new("1", (width, height)).save(content, "PNG")
    return content.getvalue()
