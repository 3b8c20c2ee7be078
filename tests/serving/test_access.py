import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from serving.access import BodyLimit

To = Callable[..., httpx.Response]
ProblemIn = Callable[[httpx.Response, int], dict[str, Any]]
LIMIT = 1000


async def size_of_body(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 100


@pytest.fixture
def guarded() -> BodyLimit:
    return BodyLimit(size_of_body, LIMIT)


@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_a_body_up_to_the_limit_arrives_whole(to: To, guarded: BodyLimit, size: int) -> None:
    assert to(guarded, "POST", "/", content=b"x" * size).text == str(size)


def test_a_streamed_body_up_to_the_limit_arrives_whole(to: To, guarded: BodyLimit) -> None:
    assert to(guarded, "POST", "/", content=pieces(10)).text == "1000"


def test_a_larger_body_is_413(to: To, problem_in: ProblemIn, guarded: BodyLimit) -> None:
    content = problem_in(to(guarded, "POST", "/", content=b"x" * (LIMIT + 1)), 413)
    assert content["detail"] == "the body is larger than the 1000 bytes that this service takes"


def test_a_larger_streamed_body_is_413(to: To, problem_in: ProblemIn, guarded: BodyLimit) -> None:
    problem_in(to(guarded, "POST", "/", content=pieces(11)), 413)


def test_a_false_content_length_does_not_help(to: To, problem_in: ProblemIn, guarded: BodyLimit) -> None:
    problem_in(to(guarded, "POST", "/", content=pieces(11), headers={"content-length": "5"}), 413)


def test_a_request_without_body_passes(to: To, guarded: BodyLimit) -> None:
    assert to(guarded, "GET", "/").text == "0"


def test_a_client_that_goes_away_is_not_answered(guarded: BodyLimit) -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(guarded({"type": "http", "method": "POST", "headers": []}, receive, send))
    assert not sent


def test_an_endless_body_is_cut_off(guarded: BodyLimit) -> None:
    received = 0
    sent: list[Message] = []

    async def receive() -> Message:
        nonlocal received
        received += 2**20
        return {"type": "http.request", "body": bytes(2**20), "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(guarded({"type": "http", "method": "POST", "headers": []}, receive, send))
    assert sent[0]["status"] == 413
    assert received < 100 * 2**20


def test_what_is_not_http_passes(guarded: BodyLimit) -> None:
    seen: list[str] = []

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def unused() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    asyncio.run(BodyLimit(lifespan, LIMIT)({"type": "lifespan"}, unused, send))
    assert seen == ["lifespan"]
