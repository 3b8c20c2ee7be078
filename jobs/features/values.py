"""Values of raw data in the type of their column's kind; the same value fares the same in any file format."""

import base64
import io
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from jobs.features.arrays import one_array

ColumnKind = Literal["id", "number", "time", "text", "labels", "numbers", "image"]

ARROW_TYPES: dict[ColumnKind, pa.DataType] = {
    "id": pa.string(),
    "number": pa.float64(),
    "time": pa.int64(),
    "text": pa.string(),
    "labels": pa.list_(pa.string()),
    "numbers": pa.list_(pa.float32()),
    "image": pa.binary(),
}
TEXT: frozenset[ColumnKind] = frozenset({"id", "text"})
"""Kinds that hold text."""
MAX_PIXELS = 2**26
"""Of an image, such as 8,192 x 8,192: photos have fewer, and half a megabyte of zeros may claim to be more."""
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""As Pillow names them; it would start another program for some that it knows besides, such as EPS."""
NUM_SHOWN = 80
"""Characters of a value that a message quotes."""
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_DATE = (
    r"^(?P<date>\d{4}-\d{2}-\d{2})(?:[T ](?P<clock>\d{2}:\d{2})(?P<seconds>:[0-5]\d)?(?:\.\d+)?"
    r"(?:Z|(?P<sign>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2})?)?)?$"
)
_WHOLE = r"^[+-]?\d{1,18}$"
_TOO_LARGE = 1e18
"""Whole numbers from here on are no moments; floats hold them only roughly."""


def is_one_kind(given: ColumnKind, wanted: ColumnKind) -> bool:
    """Whether what is of one kind can be taken as the other."""
    return given == wanted or {given, wanted} <= TEXT


def plain(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece, dictionaries decoded, text trimmed and null where empty, moments in UTC."""
    array = one_array(column)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_text(array.type):
        return _trimmed(array.cast(pa.string()))
    if pa.types.is_timestamp(array.type):
        return array.cast(pa.timestamp(array.type.unit))
    if _is_binary(array.type):
        array = array.cast(pa.binary())
        return pc.if_else(pc.equal(pc.binary_length(array), 0), pa.scalar(None, pa.binary()), array)
    return array


def typed(given: pa.Array, kind: ColumnKind) -> pa.Array:
    """`given`, as `plain` gives it, in the type of `kind`: null where a value cannot be."""
    if kind == "image":
        return _images(given)
    if _is_binary(given.type):
        given = _trimmed(pa.array([_decoded(value) for value in given.to_pylist()], pa.string()))
    is_text = pa.types.is_string(given.type)
    if kind == "number":
        return _numbers_of_text(given) if is_text else _numbers(given)
    if kind == "time":
        return _seconds_of_text(given) if is_text else _seconds(given)
    if kind == "labels":
        return _labels_of_text(given) if is_text else _labels(given)
    if kind == "numbers":
        return _lists_of_text(given) if is_text else _lists(given)
    return given if is_text else _text(given)


def image_bytes(value: bytes | str) -> bytes | None:
    """An image file's content; text is base64, as JSON carries it. None where it is none of `IMAGE_FORMATS` that can
    be decoded, or has more than `MAX_PIXELS`."""
    try:
        content = base64.b64decode(value, validate=True) if isinstance(value, str) else value
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:  # known before any pixel is decoded
                return None
            image.load()
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError):  # what Pillow's formats raise
        return None
    return content


def _images(given: pa.Array) -> pa.Array:
    if not (_is_binary(given.type) or _is_text(given.type)):
        return pa.nulls(len(given), pa.binary())
    return pa.array([None if value is None else image_bytes(value) for value in given.to_pylist()], pa.binary())


def shown(given: pa.Array) -> pa.Array:
    """Each value as a message quotes it."""
    is_plain = not (pa.types.is_nested(given.type) or _is_binary(given.type))
    text = _cast_or_null(given, pa.string()) if is_plain else None
    if text is None or text.null_count > given.null_count:
        text = pa.array([None if value is None else str(value) for value in given.to_pylist()], pa.string())
    return pc.utf8_slice_codeunits(text, 0, NUM_SHOWN)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    """Whether it is what some writers of Parquet store text as."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _decoded(value: bytes | None) -> str | None:
    try:
        return value.decode() if value is not None else None
    except UnicodeDecodeError:
        return None


def _trimmed(text: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(text)
    is_empty = pc.equal(pc.binary_length(trimmed), 0)
    return pc.if_else(is_empty, pa.scalar(None, pa.string()), trimmed) if pc.any(is_empty).as_py() else trimmed


def _only(text: pa.Array, pattern: str) -> pa.Array:
    return pc.if_else(pc.match_substring_regex(text, pattern), text, pa.scalar(None, pa.string()))


def _cast_or_null(given: pa.Array, target: pa.DataType) -> pa.Array:
    """`given` as `target`; all null where Arrow knows no way from type to type."""
    try:
        return given.cast(target, safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.nulls(len(given), target)


def _text(given: pa.Array) -> pa.Array:
    if pa.types.is_nested(given.type):
        return pa.nulls(len(given), pa.string())
    return _text_of_floats(given) if pa.types.is_floating(given.type) else _cast_or_null(given, pa.string())


def _text_of_floats(given: pa.Array) -> pa.Array:
    """Whole numbers that a reader made floats, because some are missing, keep the spelling of whole numbers."""
    given = given.cast(pa.float32()) if pa.types.is_float16(given.type) else given
    finite = pc.if_else(pc.is_finite(given), given, pa.scalar(None, given.type))
    is_whole = pc.and_(pc.equal(finite, pc.floor(finite)), pc.less(pc.abs(finite), _TOO_LARGE))
    whole = pc.if_else(is_whole, finite, pa.scalar(None, given.type)).cast(pa.int64(), safe=False)
    return pc.coalesce(whole.cast(pa.string()), finite.cast(pa.string()))


def _numbers(given: pa.Array) -> pa.Array:
    """Of numbers only: `true` and a date are none, as they are none in text."""
    if not (pa.types.is_integer(given.type) or pa.types.is_floating(given.type) or pa.types.is_decimal(given.type)):
        return pa.nulls(len(given), pa.float64())
    return _finite(given.cast(pa.float64(), safe=False))


def _numbers_of_text(text: pa.Array) -> pa.Array:
    return _finite(_only(text, _NUMBER).cast(pa.float64()))


def _finite(numbers: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, numbers.type))


def _seconds(given: pa.Array) -> pa.Array:
    """Whole seconds; fractions of one are dropped."""
    if pa.types.is_date(given.type):
        return given.cast(pa.timestamp("s")).cast(pa.int64())
    if pa.types.is_timestamp(given.type):
        return pc.floor_temporal(given, unit="second").cast(pa.timestamp("s")).cast(pa.int64())
    if pa.types.is_integer(given.type):
        return _seconds_of_text(given.cast(pa.string()))  # a float would round what is nearly too large
    numbers = pc.floor(_numbers(given))
    return pc.if_else(pc.less(pc.abs(numbers), _TOO_LARGE), numbers, pa.scalar(None, pa.float64())).cast(pa.int64())


def _seconds_of_text(text: pa.Array) -> pa.Array:
    whole = pc.replace_substring_regex(_only(text, _WHOLE), r"^\+", "").cast(pa.int64())
    return pc.coalesce(whole, _seconds(_numbers_of_text(text)), _seconds_of_dates(text))


def _seconds_of_dates(text: pa.Array) -> pa.Array:
    """Of ISO 8601, such as 2013-01-31, 2013-01-31 10:00 and 2013-01-31T10:00:00.5+02:00; without an offset in UTC."""
    parts = pc.extract_regex(text, _DATE)
    if parts.null_count == len(parts):
        return pa.nulls(len(text), pa.int64())
    field = {name: pc.struct_field(parts, name) for name in ("date", "clock", "seconds", "sign", "hours", "minutes")}
    clock = pc.if_else(pc.equal(field["clock"], ""), "00:00", field["clock"])
    seconds = pc.if_else(pc.equal(field["seconds"], ""), ":00", field["seconds"])
    spelt = pc.binary_join_element_wise(field["date"], pc.binary_join_element_wise(clock, seconds, ""), " ")
    moment = pc.strptime(spelt, format="%Y-%m-%d %H:%M:%S", unit="s", error_is_null=True)
    is_a_day = pc.equal(pc.strftime(moment, format="%Y-%m-%d"), field["date"])  # February has no 30th to roll over from
    offset = pc.add(pc.multiply(_whole_or_0(field["hours"]), 3600), pc.multiply(_whole_or_0(field["minutes"]), 60))
    shifted = pc.add(moment.cast(pa.int64()), pc.if_else(pc.equal(field["sign"], "-"), offset, pc.negate(offset)))
    return pc.if_else(is_a_day, shifted, pa.scalar(None, pa.int64()))


def _whole_or_0(text: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(text, ""), "0", text).cast(pa.int64())


def _labels(given: pa.Array) -> pa.Array:
    if not _is_list(given.type):
        return pa.nulls(len(given), ARROW_TYPES["labels"])
    return _cast_or_null(given, ARROW_TYPES["labels"])


def _lists(given: pa.Array) -> pa.Array:
    """Lists of numbers; null where one of them is none."""
    if not _is_list(given.type):
        return pa.nulls(len(given), ARROW_TYPES["numbers"])
    return _all_or_null(given, _finite(_numbers(given.flatten()).cast(pa.float32(), safe=False)))


def _lists_of_text(text: pa.Array) -> pa.Array:
    """The numbers between the bars."""
    parts = pc.split_pattern(text, "|")
    numbers = _numbers_of_text(_trimmed(parts.flatten()))
    return _all_or_null(parts, _finite(numbers.cast(pa.float32(), safe=False)))


def _all_or_null(lists: pa.Array, values: pa.Array) -> pa.Array:
    """`lists` with these values for their own, null where one is missing."""
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    ends = np.cumsum(sizes)
    missing = np.concatenate([[0], np.cumsum(values.is_null().to_numpy(zero_copy_only=False))])
    is_null = lists.is_null().to_numpy(zero_copy_only=False) | (missing[ends] > missing[ends - sizes])
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(is_null))


def _labels_of_text(text: pa.Array) -> pa.Array:
    """The labels between the bars; empty ones are none."""
    inner = pc.replace_substring_regex(text, r"^[\s|]+|[\s|]+$", "")
    labels = pc.split_pattern_regex(inner, r"\s*\|[\s|]*")
    return pc.if_else(pc.equal(inner, ""), pa.scalar([], labels.type), labels)
