"""Parity: whether a version answers over HTTP as it does in this process, where its golden rows were replayed.

What is asked is what an application's `golden` names: where it can be, each golden row by itself.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from starlette.types import ASGIApp, Message

from cluster.errors import ReleaseError
from serving.ask import Question, ask
from serving.live_versions import VERSION
from serving.published import TOLERANCE

OWN = frozenset({"id", "created"})
"""Fields of an answer that are its own each time."""


def check_parity(
    address: str,
    version: str,
    application: ASGIApp,
    questions: Sequence[Question],
    headers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Ask the version that runs at `address` everything, and compare.

    Args:
        headers: that let the requests pass.

    Raises:
        ReleaseError: an answer differs; the message has the row, the place in the answer and both values.
        OSError: nothing answers at `address`.
    """
    for question in questions:
        expected = answer(application, question)
        given = ask(address, question, headers={**headers, VERSION: version})
        for place, here, there in differences(expected[1], given[1]):
            raise ReleaseError(
                f"version {version} answers {question.title} unlike it does where it was loaded by itself: {place} is "
                f"{there!r}, was {here!r}, and may differ by {TOLERANCE:g}. The traffic stays as it was; look at the "
                "replicas' packages and code"
            )
        if expected[0] != given[0]:
            raise ReleaseError(f"version {version} answers {question.title} with {given[0]}, expected {expected[0]}")


def differences(expected: Any, given: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two answers are not the same: the place, and both values."""
    if isinstance(expected, dict) and isinstance(given, dict):
        for key in [*expected, *(key for key in given if key not in expected)]:
            if key not in OWN:
                yield from differences(expected.get(key), given.get(key), f"{place}/{key}")
    elif isinstance(expected, list) and isinstance(given, list) and len(expected) == len(given):
        for number, (here, there) in enumerate(zip(expected, given, strict=True)):
            yield from differences(here, there, f"{place}/{number}")
    elif isinstance(expected, float) and isinstance(given, int | float):
        if not abs(expected - given) <= TOLERANCE:  # so that NaN differs, too
            yield place, expected, given
    elif expected != given:
        yield place, expected, given


def answer(application: ASGIApp, question: Question) -> tuple[int, Any]:
    """What an application in this process answers: the status, and JSON."""
    sent: list[Message] = []
    body = b"" if question.body is None else json.dumps(question.body).encode()

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET" if question.body is None else "POST",
        "scheme": "http",
        "path": question.path,
        "raw_path": question.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": ("127.0.0.1", 80),
    }
    asyncio.run(application(scope, receive, send))  # type: ignore[arg-type]
    content = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    return int(sent[0]["status"]), json.loads(content)
