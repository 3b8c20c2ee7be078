"""Where two answers of an application are not the same."""

from collections.abc import Iterator
from typing import Any

from serving.published import TOLERANCE

OWN = frozenset({"id", "created"})
"""Fields of an answer that are its own each time."""


def differences(
    expected: Any, given: Any, place: str = "", leave_out: frozenset[str] = OWN
) -> Iterator[tuple[str, Any, Any]]:
    """Where two answers are not the same, but for the fields to leave out: the place, and both values."""
    if isinstance(expected, dict) and isinstance(given, dict):
        for key in [*expected, *(key for key in given if key not in expected)]:
            if key not in leave_out:
                yield from differences(expected.get(key), given.get(key), f"{place}/{key}", leave_out)
    elif isinstance(expected, list) and isinstance(given, list) and len(expected) == len(given):
        for number, (here, there) in enumerate(zip(expected, given, strict=True)):
            yield from differences(here, there, f"{place}/{number}", leave_out)
    elif isinstance(expected, float) and isinstance(given, int | float):
        if not abs(expected - given) <= TOLERANCE:  # so that NaN differs, too
            yield place, expected, given
    elif expected != given:
        yield place, expected, given
