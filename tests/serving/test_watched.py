"""A request's id, its line in the log, and that nothing else changes."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from serving.access import TENANT
from serving.measures import Measures
from serving.watched import Lines, Watched

To = Callable[..., httpx.Response]


async def say(request: Request) -> Response:
    request.scope[TENANT] = "acme"
    if request.method == "PUT":
        raise RuntimeError("broken inside")
    return PlainTextResponse("said", headers={"X-Version": "v1"})


def watched(lines: Lines) -> Watched:
    routes = [Route("/say", say, methods=["POST", "PUT"])]
    return Watched(Starlette(routes=routes), "loans", Measures("loans", "r1"), lines)


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]


def test_the_id_of_a_request_is_the_clients_or_a_new_one(to: To, capsys: pytest.CaptureFixture[str]) -> None:
    app = watched("all")
    for headers in ({"X-Request-ID": "order-77"}, {"X-Request-ID": "x" * 5000}, {}, {}):
        assert to(app, "POST", "/say", headers=headers).text == "said"
    first, second, third, fourth = (line["request_id"] for line in lines_of(capsys))
    assert (first, second) == ("order-77", "x" * 128)
    assert third != fourth


def test_a_failure_is_a_line_of_json_and_what_goes_well_is_none(to: To, capsys: pytest.CaptureFixture[str]) -> None:
    app = watched("failures")
    to(app, "POST", "/say")
    assert lines_of(capsys) == []
    to(app, "PUT", "/say", headers={"X-Request-ID": "one"})
    [line] = lines_of(capsys)
    assert line.pop("at").startswith("20")
    assert line.pop("ms") > 0
    assert line == {
        "request_id": "one",
        "application": "loans",
        "tenant": "acme",
        "version": "none",
        "method": "PUT",
        "path": "/say",
        "status": 500,
    }


def test_all_requests_may_be_logged_or_none(to: To, capsys: pytest.CaptureFixture[str]) -> None:
    to(watched("all"), "POST", "/say")
    to(watched("all"), "POST", "/elsewhere")
    assert [(line["version"], line["status"]) for line in lines_of(capsys)] == [("v1", 200), ("none", 404)]
    to(watched("none"), "PUT", "/say")
    assert lines_of(capsys) == []


def test_a_new_line_in_an_id_cannot_forge_one_in_the_log(to: To, capsys: pytest.CaptureFixture[str]) -> None:
    scope_headers = [(b"x-request-id", b'one\n{"forged": 1}')]
    to(watched("all"), "POST", "/say", headers=scope_headers)
    [line] = lines_of(capsys)
    assert "forged" in line["request_id"]


def test_a_client_that_goes_away_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(10)

    async def unused() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    async def go_away() -> None:
        scope = {"type": "http", "method": "POST", "path": "/say", "headers": []}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Watched(slow, "loans", Measures("loans", "r1"), "all")(scope, unused, send), 0.05)

    asyncio.run(go_away())
    assert [line["status"] for line in lines_of(capsys)] == [499]


def test_a_request_that_ends_without_an_answer_has_lost_its_client(capsys: pytest.CaptureFixture[str]) -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": "/say", "headers": []}
    asyncio.run(Watched(silent, "loans", Measures("loans", "r1"), "all")(scope, receive, send))
    assert [line["status"] for line in lines_of(capsys)] == [499]
