"""Waiting for a server that is away for a moment: it restarts, or a connection to it broke."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

PATIENCE_S = 60.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
# pyarrow tells S3's errors apart in their text alone.
AWAY_ON_S3 = re.compile(
    r"AWS Error (NETWORK_CONNECTION|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|SLOW_DOWN|REQUEST_TIMEOUT"
    r"|UNKNOWN \(HTTP status 5\d\d\))"
)

Result = TypeVar("Result")
Given = ParamSpec("Given")
_ends_at: ContextVar[float | None] = ContextVar("ends_at", default=None)


@contextmanager
def patience(seconds: float) -> Iterator[float]:
    """What is retried inside is given up after so many seconds, or when the patience around this one ends."""
    ends_at = time.monotonic() + seconds
    outer = _ends_at.get()
    token = _ends_at.set(ends_at if outer is None else min(ends_at, outer))
    try:
        yield _ends_at.get() or ends_at
    finally:
        _ends_at.reset(token)


def patiently(call: Callable[[], Result]) -> Result:
    """Call it until the server answers, with growing pauses; it must do no harm when it is done twice.

    Raises:
        TimeoutError: the server was still away after PATIENCE_S, or the patience around the call.
    """
    started = time.monotonic()
    with patience(PATIENCE_S) as ends_at:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return call()
            except OSError as error:
                if not is_away(error):
                    raise
                now = time.monotonic()
                if now + pause_s > ends_at:
                    raise TimeoutError(f"no answer, tried for {now - started:.0f} s: {error}") from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def patient(method: Callable[Given, Result]) -> Callable[Given, Result]:
    """A function or method that is called `patiently`."""

    @wraps(method)
    def retried(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        return patiently(lambda: method(*args, **kwargs))

    return retried


def is_away(error: OSError) -> bool:
    """Whether trying again may help: the server did not answer, or not yet as one that works."""
    given_up = isinstance(error, TimeoutError)
    return not given_up and (isinstance(error, ConnectionError) or bool(AWAY_ON_S3.search(str(error))))
