"""Which version answers, what happens to versions that fail, and that no request is lost on the way."""

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from cluster.errors import RegistryError
from cluster.storage import Storage
from serving.access import BodyLimit
from serving.live_versions import TRY_AGAIN_S, LiveVersions
from serving.outcomes import Outcome
from serving.predictions import PredictionLog, predictions_of
from serving.shadow import Shadow, ShadowProcess
from serving.shares import ExperimentSpec, Guardrails, ShareLog

Send = Callable[..., httpx.Response]
RAILS = Guardrails(max_error_rate=0.1, max_p95_ms=40, min_requests=20)


def version(name: str) -> Starlette:
    """One that says its name; those called `failing` and `slow` are."""

    async def health(request: Request) -> Response:
        return PlainTextResponse(f"{name} is well")

    async def say(request: Request) -> Response:
        if name == "slow":
            await asyncio.sleep(0.08)
        if name == "failing":
            raise RuntimeError("broken inside")
        if "application/json" in request.headers.get("content-type", ""):
            return JSONResponse({"version": name, "asked": await request.json(), "size": len(name)})
        return PlainTextResponse(name)

    if name == "damaged":
        raise RegistryError(f"version {name} is not what was published")
    if name == "buggy":
        raise ValueError("a shape does not fit")
    return Starlette(
        routes=[
            Route("/", say, methods=["POST"]),
            Route("/feedback", say, methods=["POST"]),
            Route("/health", health),
        ]
    )


class InThisProcess(ShadowProcess):
    """As a shadow runs, but in the thread that asks it."""

    def end(self) -> None:
        self.write()


def shadow(name: str) -> Shadow:
    return Shadow(InThisProcess(version, name, Storage(mkdtemp()), "loans"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.shadow.PAUSE_S", 0.02)


class Clock:
    """Time as a replica reads it, which passes where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for name in ("live_versions", "exchange"):
        monkeypatch.setattr(f"serving.{name}.time", found)
    return found


@pytest.fixture
def log(tmp_path: Path) -> ShareLog:
    return ShareLog(Storage(str(tmp_path)), "loans")


@pytest.fixture
def live(log: ShareLog) -> LiveVersions:
    return LiveVersions(version, log, "old", shadow)


def release(log: ShareLog, rails: Guardrails = RAILS, **shares: float) -> None:
    log.add(log.newest("old").next(shares, "by the test").model_copy(update={"guardrails": rails}))


def texts(live: LiveVersions, to: Send, num: int, **headers: str) -> list[str]:
    return [to(live, "POST", "/", headers=headers).text for _ in range(num)]


def test_what_was_deployed_answers_until_something_is_said(live: LiveVersions, to: Send) -> None:
    answer = to(live, "POST", "/")
    assert (answer.text, answer.headers["x-version"]) == ("old", "old")


def test_a_state_is_taken_while_the_replica_runs_and_units_keep_their_version(
    live: LiveVersions, log: ShareLog, to: Send
) -> None:
    release(log, old=0.5, new=0.5)
    assert texts(live, to, 5) == ["old"] * 5
    live.refresh()
    state = log.newest("old")
    for unit in ("ann", "bob", "eve", "joe"):
        assert set(texts(live, to, 3, **{"X-Unit": unit})) == {state.version_of(unit)}
    assert {"old", "new"} == set(texts(live, to, 60))
    release(log, new=1.0)
    live.refresh()
    assert set(texts(live, to, 20)) == {"new"}


def test_a_request_may_name_its_version(live: LiveVersions, log: ShareLog, to: Send) -> None:
    release(log, old=1.0, new=0.0)
    live.refresh()
    assert texts(live, to, 5, **{"X-Version": "new"}) == ["new"] * 5
    assert set(texts(live, to, 20)) == {"old"}
    refused = to(live, "POST", "/", headers={"X-Version": "other"})
    assert refused.status_code == 404
    assert refused.json()["detail"] == "version 'other' does not answer here; old, new do"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("damaged", "version damaged is not what was published"),
        ("buggy", "ValueError('a shape does not fit')"),
    ],
)
def test_a_version_that_cannot_be_loaded_leaves_all_as_it_was(
    live: LiveVersions, log: ShareLog, to: Send, bad: str, why: str
) -> None:
    release(log, **{bad: 1.0})
    live.refresh()
    live.refresh()
    assert texts(live, to, 3) == ["old"] * 3
    told = to(live, "GET", "/versions").json()
    assert told["refused"] == {bad: why}
    assert told["release"]["shares"] == {"old": 1.0}
    release(log, old=0.5, new=0.5)
    live.refresh()
    told = to(live, "GET", "/versions").json()
    assert (told["refused"], told["release"]["shares"]) == ({}, {"old": 0.5, "new": 0.5})


@pytest.mark.parametrize(
    ("bad", "why"), [("failing", "100.0% of its last 20 requests failed"), ("slow", "95th percentile of its latency")]
)
def test_a_version_that_breaks_a_guardrail_is_rolled_back_by_the_replica(
    live: LiveVersions, log: ShareLog, to: Send, bad: str, why: str
) -> None:
    release(log, old=0.8, **{bad: 0.2})
    live.refresh()
    for _ in range(20):
        to(live, "POST", "/", headers={"X-Version": bad})
    live.refresh()
    assert set(texts(live, to, 30)) == {"old"}
    newest = log.newest("old")
    assert newest.shares == {"old": 1.0}
    assert newest.why.startswith(f"rolled back {bad}: ")
    assert why in newest.why


def test_the_main_version_is_never_rolled_back(log: ShareLog, to: Send) -> None:
    live = LiveVersions(version, log, "failing", shadow)
    log.add(log.newest("failing").next({"failing": 0.9, "new": 0.1}, "").model_copy(update={"guardrails": RAILS}))
    live.refresh()
    for _ in range(40):
        to(live, "POST", "/", headers={"X-Version": "failing"})
    live.refresh()
    assert log.newest("failing").shares == {"failing": 0.9, "new": 0.1}


def test_another_replica_that_was_first_is_followed(live: LiveVersions, log: ShareLog, to: Send) -> None:
    other = LiveVersions(version, log, "old", shadow)
    release(log, old=0.8, failing=0.2)
    for one in (live, other):
        one.refresh()
        for _ in range(20):
            to(one, "POST", "/", headers={"X-Version": "failing"})
    live.refresh()
    other.refresh()
    assert len(log.history()) == 2
    assert {to(one, "GET", "/versions").json()["release"]["number"] for one in (live, other)} == {2}


def test_a_replica_that_starts_late_has_what_the_others_have(live: LiveVersions, log: ShareLog, to: Send) -> None:
    release(log, new=1.0)
    assert texts(LiveVersions(version, log, "old", shadow), to, 3) == ["new"] * 3
    assert (
        texts(LiveVersions(version, log, "newer", shadow), to, 3) == ["newer"] * 3
    )  # the state was made for another one


def test_requests_that_are_under_way_end_where_they_began(log: ShareLog) -> None:
    num_begun, goes_on = asyncio.Semaphore(0), asyncio.Event()

    def load(name: str) -> ASGIApp:
        async def held(scope: Any, receive: Any, send: Any) -> None:
            num_begun.release()
            await goes_on.wait()
            await version(name)(scope, receive, send)

        return held if name == "old" else version(name)

    live = LiveVersions(load, log, "old", shadow)
    log.add(log.newest("old").next({"new": 1.0}, ""))

    async def ask() -> list[str]:
        transport: Any = httpx.ASGITransport(live)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            begun = [asyncio.create_task(client.post("/")) for _ in range(5)]
            for _ in begun:
                await asyncio.wait_for(num_begun.acquire(), 60)
            live.refresh()
            later = await asyncio.wait_for(client.post("/"), 60)
            goes_on.set()
            return [*[answer.text for answer in await asyncio.gather(*begun)], later.text]

    assert asyncio.run(ask()) == ["old"] * 5 + ["new"]


def test_what_is_only_read_is_the_main_versions(live: LiveVersions, log: ShareLog, to: Send) -> None:
    release(log, old=0.1, new=0.9)
    live.refresh()
    for unit in ("ann", "bob", "eve", "joe"):
        assert to(live, "GET", "/health", headers={"X-Unit": unit}).text == "old is well"
    assert to(live, "GET", "/health", headers={"X-Version": "new"}).text == "new is well"


def test_no_request_is_lost_while_states_follow_each_other(live: LiveVersions, log: ShareLog, to: Send) -> None:
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            release(log, new=1.0)
            live.refresh()
            release(log, old=1.0)
            live.refresh()

    thread, usual = threading.Thread(target=change, daemon=True), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that each may come between any two lines of the other
    thread.start()
    try:
        answers = [to(live, "POST", "/") for _ in range(600)]
        deadline = time.monotonic() + 60
        while not {"old", "new"} <= {answer.text for answer in answers}:  # its first files may take as long as all that
            assert time.monotonic() < deadline
            answers.append(to(live, "POST", "/"))
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(usual)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.text for answer in answers} == {"old", "new"}


def test_what_was_seen_is_told(live: LiveVersions, to: Send) -> None:
    texts(live, to, 3)
    told = to(live, "GET", "/versions").json()
    assert told["seen"]["old"]["num_requests"] == 3
    assert told["release"]["deployed"] == "old"
    assert len(told["replica"]) == 8


def shadowed(log: ShareLog, *names: str) -> None:
    log.add(log.newest("old").next({"old": 1.0}, "by the test").model_copy(update={"shadows": names}))


def told_of(live: LiveVersions, to: Send, name: str, num: int) -> dict[str, Any]:
    """What is told of a shadow once it has compared as many."""
    deadline = time.monotonic() + 60
    while (told := to(live, "GET", "/versions").json()["shadows"][name])["num_compared"] < num:
        assert time.monotonic() < deadline, told
        time.sleep(0.02)
    return dict(told)


def test_a_shadow_is_asked_what_was_answered_and_nobody_gets_its_answer(
    live: LiveVersions, log: ShareLog, to: Send
) -> None:
    shadowed(log, "newer", "failing")
    live.refresh()
    answers = [to(live, "POST", "/", json={"row": number}) for number in range(10)]
    assert [answer.json() for answer in answers] == [
        {"version": "old", "asked": {"row": n}, "size": 3} for n in range(10)
    ]
    found, failing = told_of(live, to, "newer", 10), told_of(live, to, "failing", 10)
    assert (found["num_same"], found["num_same_but_numbers"], found["num_failed"]) == (0, 10, 0)
    assert (found["num_numbers"], found["sum_of_differences"]) == (10, 20.0)
    assert (failing["num_failed"], failing["num_left_out"]) == (10, 0)


def test_a_shadow_gets_no_feedback_and_no_streams(live: LiveVersions, log: ShareLog, to: Send) -> None:
    shadowed(log, "newer")
    live.refresh()
    to(live, "POST", "/feedback", json={"rating": 5})
    to(live, "POST", "/", content=b"plain text is answered by plain text")
    to(live, "GET", "/health")
    to(live, "POST", "/", json={"row": 1})
    assert told_of(live, to, "newer", 1)["num_compared"] == 1


def test_a_shadow_comes_and_goes_and_one_that_cannot_be_loaded_changes_nothing(
    live: LiveVersions, log: ShareLog, to: Send
) -> None:
    shadowed(log, "newer", "damaged")
    live.refresh()
    told = to(live, "GET", "/versions").json()
    assert told["refused"] == {"damaged": "version damaged is not what was published"}
    assert set(told["shadows"]) == {"newer"}, "the others are taken"
    shadowed(log, "newer")
    live.refresh()
    assert set(to(live, "GET", "/versions").json()["shadows"]) == {"newer"}
    shadowed(log)
    live.refresh()
    assert to(live, "GET", "/versions").json()["shadows"] == {}


def test_what_could_not_be_loaded_is_tried_again_later(log: ShareLog, to: Send, clock: Clock) -> None:
    """Storage may have been away when a replica started; it must not stay behind the others for good."""
    is_away = True

    def load(name: str) -> Starlette:
        if is_away and name == "new":
            raise OSError("storage is away")
        return version(name)

    release(log, new=1.0)
    live = LiveVersions(load, log, "old", shadow)
    assert texts(live, to, 3) == ["old"] * 3
    assert "storage is away" in to(live, "GET", "/versions").json()["refused"]["new"]
    is_away = False
    clock.now += TRY_AGAIN_S - 1
    live.refresh()
    assert texts(live, to, 3) == ["old"] * 3, "not at every look"
    clock.now += 1
    live.refresh()
    assert texts(live, to, 3) == ["new"] * 3
    assert to(live, "GET", "/versions").json()["refused"] == {}


def test_what_no_version_was_asked_is_counted_of_none(live: LiveVersions, log: ShareLog, to: Send) -> None:
    shadowed(log, "newer")
    live.refresh()
    assert to(live, "POST", "/elsewhere", json={}).status_code == 404
    assert to(live, "POST", "/health", json={}).status_code == 405
    told = to(live, "GET", "/versions").json()
    assert told["seen"]["old"]["num_requests"] == 0
    assert told["shadows"]["newer"]["num_compared"] + told["shadows"]["newer"]["num_waiting"] == 0


def test_a_client_that_goes_away_is_no_failure_but_its_time_counts(log: ShareLog, clock: Clock) -> None:
    begun = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    live = LiveVersions(lambda name: endless, log, "old", shadow)

    async def give_up() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(live), base_url="http://test") as client:
            asked = asyncio.create_task(client.post("/"))
            await asyncio.wait_for(begun.wait(), 60)
            clock.now += 0.02
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked

    asyncio.run(give_up())
    seen = live.told()["seen"]
    assert isinstance(seen, dict)
    assert (seen["old"]["num_requests"], seen["old"]["error_rate"]) == (1, 0.0)
    assert seen["old"]["p95_ms"] == pytest.approx(20)


def limited(name: str) -> BodyLimit:
    """A version that reads the body first, as every application does."""
    return BodyLimit(version(name), 1000)


async def upload(live: LiveVersions, *pieces: Message, pause: Callable[[], None] = lambda: None) -> list[Message]:
    """What is answered to a body that comes in pieces."""
    left, sent = list(pieces), list[Message]()

    async def receive() -> Message:
        if not left:  # for ever, as from a client that sends no more
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        pause()
        return left.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await live({"type": "http", "method": "POST", "path": "/", "headers": []}, receive, send)
    return sent


HALF: Message = {"type": "http.request", "body": b"half", "more_body": True}
REST: Message = {"type": "http.request", "body": b"rest"}


def test_clients_that_end_in_the_middle_of_a_body_roll_nothing_back(log: ShareLog) -> None:
    live = LiveVersions(limited, log, "old", shadow)
    release(log, old=0.0, new=1.0)
    live.refresh()

    async def ask() -> None:
        for _ in range(RAILS.min_requests):
            assert await upload(live, HALF, {"type": "http.disconnect"}) == []
            with pytest.raises(TimeoutError):  # as Serve tells it: by cancelling
                await asyncio.wait_for(upload(live, HALF), 0.01)
        assert (await upload(live, HALF, REST))[0]["status"] == 200

    asyncio.run(ask())
    live.refresh()
    assert log.newest("old").shares == {"old": 0.0, "new": 1.0}
    told: Any = live.told()
    assert (told["seen"]["new"]["num_requests"], told["seen"]["new"]["error_rate"]) == (1, 0.0)


def test_a_client_that_ends_while_its_answer_is_made_is_counted_and_no_failure(log: ShareLog) -> None:
    """`silent` returns without an answer, as applications do whose client went away."""

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    live = LiveVersions(lambda name: BodyLimit(silent, 1000), log, "old", shadow)
    asyncio.run(upload(live, HALF, REST, {"type": "http.disconnect"}))
    told: Any = live.told()
    assert (told["seen"]["old"]["num_requests"], told["seen"]["old"]["error_rate"]) == (1, 0.0)


def test_the_time_of_an_upload_is_its_clients(log: ShareLog, clock: Clock) -> None:
    async def five_ms(scope: Any, receive: Any, send: Any) -> None:
        clock.now += 0.005
        await version("old")(scope, receive, send)

    def wait() -> None:
        clock.now += 0.2

    live = LiveVersions(lambda name: BodyLimit(five_ms, 1000), log, "old", shadow)
    asyncio.run(upload(live, HALF, HALF, REST, pause=wait))
    told: Any = live.told()
    assert told["seen"]["old"]["p95_ms"] == pytest.approx(5)


def test_a_shadow_that_gets_a_share_is_none_any_more(live: LiveVersions, log: ShareLog, to: Send) -> None:
    shadowed(log, "new")
    live.refresh()
    release(log, old=0.0, new=1.0)
    live.refresh()
    assert set(texts(live, to, 5)) == {"new"}
    assert to(live, "GET", "/versions").json()["shadows"] == {}


def test_answers_are_kept_under_the_id_that_they_name(log: ShareLog, to: Send, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "kept"))
    live = LiveVersions(version, log, "old", shadow, PredictionLog(storage, "loans"))
    answer = to(live, "POST", "/", json={"row": 1}, headers={"X-Unit": "ann"})
    to(live, "POST", "/feedback", json={"rating": 5})
    to(live, "POST", "/", content=b"plain")
    assert live._predictions
    live._predictions.flush()
    [kept] = predictions_of(storage, "loans")
    assert kept.prediction_id == answer.headers["x-prediction"]
    assert (kept.version, kept.unit, kept.path, kept.answer) == ("old", "ann", "/", answer.json())


def test_a_version_whose_answers_turn_out_worse_is_rolled_back(log: ShareLog, to: Send) -> None:
    draw, outcomes = random.Random(0), list[Outcome]()
    live = LiveVersions(version, log, "old", shadow, outcomes=lambda state: outcomes)
    state = log.newest("old").next({"old": 0.5, "new": 0.5}, "by the test")
    settings = {"guardrails": Guardrails(max_loss=0.05), "experiment": ExperimentSpec(expected_effect=0.2)}
    log.add(state.model_copy(update=settings))
    live.refresh()
    assert texts(live, to, 20).count("new") > 0
    for number in range(2000):
        given = state.version_of(f"user {number}")
        is_right = draw.random() < (0.9 if given == "old" else 0.6)
        outcomes.append(Outcome(given, f"user {number}", float(is_right), datetime.now(UTC) + timedelta(seconds=1)))
    live.compare()
    live.refresh()
    assert set(texts(live, to, 20)) == {"old"}
    assert log.newest("old").why.startswith("rolled back new: what came of its answers is worse by 0.3")


def test_a_newer_state_is_taken_while_outcomes_are_still_read(log: ShareLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.live_versions.POLL_S", 0.2)
    monkeypatch.setattr("serving.live_versions.COMPARE_S", 0.2)
    is_reading, is_over = threading.Event(), threading.Event()

    def outcomes(state: Any) -> list[Outcome]:
        is_reading.set()
        is_over.wait(300)
        return []

    live = LiveVersions(version, log, "old", shadow, outcomes=outcomes)
    release(log, Guardrails(max_loss=0.05), old=0.5, new=0.5)
    live.follow()
    assert is_reading.wait(60)
    release(log, old=1.0)
    deadline = time.monotonic() + 60
    while (told := live.told()["release"]) != log.newest("old").model_dump(mode="json"):
        assert time.monotonic() < deadline, told
        time.sleep(0.02)
    is_over.set()


def test_what_came_of_answers_says_nothing_of_a_state_that_was_changed_meanwhile(
    log: ShareLog, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading takes its time: what was read for one state must not undo the next one."""

    def outcomes(state: Any) -> list[Outcome]:
        release(log, old=0.9, new=0.1)
        later = datetime.now(UTC) + timedelta(seconds=1)
        return [
            Outcome(name, f"user {name} {number}", value + number % 2 / 100, later)
            for name, value in (("old", 0.9), ("new", 0.1))
            for number in range(500)
        ]

    live = LiveVersions(version, log, "old", shadow, outcomes=outcomes)
    release(log, Guardrails(max_loss=0.05), old=0.5, new=0.5)
    live.refresh()
    live.compare()
    assert "another replica, or somebody, changed the release first" in caplog.text
    assert log.newest("old").shares == {"old": 0.9, "new": 0.1}
