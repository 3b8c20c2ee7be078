import asyncio

import pytest
from starlette.types import Message

from serving.exchange import MAX_COPIED_BYTES, Copy, Upload, before_shutdown, is_copied

SCOPE = {
    "type": "http",
    "method": "POST",
    "root_path": "/loans",
    "path": "/loans/predict",
    "query_string": b"a=1",
    "headers": [(b"content-type", b"application/json")],
}


def test_what_passes_is_copied_whole() -> None:
    pieces: list[Message] = [{"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.request"}]

    async def receive() -> Message:
        return pieces.pop(0)

    copy = Copy(SCOPE, "v1")
    receiving = copy.receiving(receive)
    asyncio.run(receiving())
    asyncio.run(receiving())
    copy.note({"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", b"application/json")]})
    copy.note({"type": "http.response.body", "body": b"[1"})
    copy.note({"type": "http.response.body", "body": b"]"})
    found = copy.exchange()
    assert found
    assert (found.path, found.query, found.content_type, found.body) == ("/predict", b"a=1", b"application/json", b"ab")
    assert (found.version, found.status, found.answer, found.num_bytes) == ("v1", 200, b"[1]", 5)


def test_a_stream_is_no_exchange() -> None:
    copy = Copy(SCOPE, "v1")
    copy.note({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    copy.note({"type": "http.response.body", "body": b"data: 1"})
    assert copy.exchange() is None


@pytest.mark.parametrize(
    ("method", "path", "is_so"),
    [("POST", "/loans/predict", True), ("GET", "/loans/predict", False), ("POST", "/loans/feedback", False)],
)
def test_only_what_asks_for_an_answer_is_copied(method: str, path: str, is_so: bool) -> None:
    assert is_copied({**SCOPE, "method": method, "path": path}) == is_so


def test_every_copy_has_an_id_of_its_own() -> None:
    assert len({Copy(SCOPE, "v1").prediction_id for _ in range(100)}) == 100


def started(status: int) -> Message:
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-type", b"application/problem+json")],
    }


@pytest.mark.parametrize(("status", "is_kept"), [(200, True), (422, True), (404, False), (413, False)])
def test_what_no_route_was_asked_is_no_exchange(status: int, is_kept: bool) -> None:
    copy = Copy(SCOPE, "v1")
    copy.note(started(status))
    copy.note({"type": "http.response.body", "body": b"{}"})
    assert (copy.exchange() is not None) == is_kept


def test_of_what_is_too_long_nothing_is_kept() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(MAX_COPIED_BYTES // 4), "more_body": True}

    copy = Copy(SCOPE, "v1")
    receiving = copy.receiving(receive)
    for _ in range(20):
        assert len(asyncio.run(receiving())["body"]) == MAX_COPIED_BYTES // 4, "it is handed on nonetheless"
        assert len(copy.body) <= MAX_COPIED_BYTES
    copy.note(started(200))
    copy.note({"type": "http.response.body", "body": b"{}"})
    assert (copy.exchange(), len(copy.body)) == (None, 0)


def test_what_waits_is_flushed_before_all_is_shut_down() -> None:
    done: list[str] = []

    async def send(message: Message) -> None:
        done.append(message["type"])

    async def lifespan() -> None:
        sending = before_shutdown(send, lambda: done.append("flushed"))
        await sending({"type": "lifespan.startup.complete"})
        await sending({"type": "lifespan.shutdown.complete"})

    asyncio.run(lifespan())
    assert done == ["lifespan.startup.complete", "flushed", "lifespan.shutdown.complete"]


def test_a_body_is_awaited_from_its_first_message_to_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("serving.exchange.time.perf_counter", lambda: clock[-1])
    pieces: list[Message] = [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b"},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        clock.append(clock[-1] + 1)
        return pieces.pop(0)

    upload = Upload(receive)
    clock.append(100.0)  # the version's own time: it has not asked for the body yet
    awaited = [upload.is_awaited]
    for _ in range(3):
        asyncio.run(upload.receive())
        awaited.append(upload.is_awaited)
    assert awaited == [False, True, False, False]
    assert upload.waited_s == 2


def test_the_body_of_a_client_that_goes_away_is_never_there() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    upload = Upload(receive)
    asyncio.run(upload.receive())
    assert upload.is_awaited
    assert not upload.is_there
