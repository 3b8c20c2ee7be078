"""What a request must pass: alone, and before an application with two replicas over real HTTP."""

import asyncio
import json
import select
import shutil
import socket
import time
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from cluster.storage import Storage
from serving.access import BodyLimit, Guard
from serving.app import deploy, remove, stop_if_idle
from serving.ask import Question, ask
from serving.key_ring import LOOK_WITHIN_S, KeyRing
from serving.keys import AccessLog, Limited, key_id_of, operator_headers
from serving.limiter import LimitsError, end_limits
from serving.limits import ASK_AGAIN_S, Granted, Ledger, Stock, TenantLimits
from serving.usage import UsageLog, Use, used_on, uses_on
from tests.ports import kept_ports

To = Callable[..., httpx.Response]
ProblemIn = Callable[[httpx.Response, int], dict[str, Any]]
LIMIT = 1000
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
ROW = {"in/come": 120.5, "age": 40, "home": "own", "shop": "3", "model_config": "x", "marks": [0.5, 1]}


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


@pytest.mark.parametrize("declared", ["", "many", "9" * 5000, "-1"])
def test_a_content_length_that_is_no_number_is_counted(to: To, guarded: BodyLimit, declared: str) -> None:
    assert to(guarded, "POST", "/", content=pieces(10), headers={"content-length": declared}).text == "1000"


def test_what_says_that_it_is_too_large_is_refused_before_it_is_read(guarded: BodyLimit) -> None:
    async def receive() -> Message:
        raise AssertionError("a client that asks first (Expect: 100-continue) is told to send")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", b"%d" % (LIMIT + 1))]
    asyncio.run(guarded({"type": "http", "method": "POST", "headers": headers}, receive, send))
    assert sent[0]["status"] == 413


@pytest.mark.parametrize(("num_pieces", "answer"), [(9, b"9000"), (11, b"")])
def test_a_limit_above_what_is_discarded_holds_for_the_whole_body(
    monkeypatch: pytest.MonkeyPatch, num_pieces: int, answer: bytes
) -> None:
    """A body was passed on cut off where discarding ends."""
    monkeypatch.setattr("serving.access.MAX_DISCARDED_BYTES", 5000)
    left, sent = [True] * (num_pieces - 1) + [False], list[Message]()

    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(1000), "more_body": left.pop(0)}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(BodyLimit(size_of_body, 10_000)({"type": "http", "method": "POST", "headers": []}, receive, send))
    assert sent[0]["status"] == (200 if answer else 413)
    assert not answer or sent[1]["body"] == answer


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


def test_a_body_that_does_not_arrive_in_time_is_408(problem_in: ProblemIn) -> None:
    async def receive() -> Message:
        await asyncio.sleep(0.2)
        return {"type": "http.request", "body": b"x", "more_body": True}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": []}
    asyncio.run(BodyLimit(size_of_body, LIMIT, within_s=0.5)(scope, receive, send))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["detail"] == "the body did not arrive within 0.5 s"


@dataclass
class Guarded:
    """An application behind a guard, and what the guard goes by."""

    app: Guard
    log: AccessLog
    keys: KeyRing
    usage: UsageLog

    def key(self, *scopes: Any, days: float = 1, tenant: str = "acme") -> dict[str, str]:
        text = self.log.create(tenant, scopes or ("predict",), timedelta(days=days))
        self.keys.refresh()
        return {"X-API-Key": text}

    def limit(self, **limits: Any) -> None:
        self.log.add(Limited(tenant="acme", limits=TenantLimits(**limits)))
        self.keys.refresh()


@pytest.fixture
def behind(tmp_path: Path) -> Guarded:
    """For its ledger and its usage it is always noon."""
    storage = Storage(str(tmp_path))
    log, ledger = AccessLog(storage, "films"), Ledger(lambda day: {}, NOON.timestamp)
    keys, usage = KeyRing(log), UsageLog(storage, "films", lambda: NOON)

    async def take(tenant: str, limits: TenantLimits) -> Granted:
        return ledger.take(tenant, limits)

    return Guarded(Guard(size_of_body, keys, Stock(take), usage), log, keys, usage)


def test_without_a_key_only_health_is_told(to: To, problem_in: ProblemIn, behind: Guarded) -> None:
    assert to(behind.app, "GET", "/health").status_code == 200
    assert to(behind.app, "POST", "/health").status_code == 401
    assert to(behind.app, "GET", "/health", headers={"X-Version": "v1"}).status_code == 401
    for path in ("/predict", "/docs", "/openapi.json", "/health/", "/", "/versions", "//health"):
        answer = to(behind.app, "POST", path)
        assert problem_in(answer, 401)["detail"] == "show a key: Authorization: Bearer KEY, or X-API-Key: KEY"
        assert answer.headers["www-authenticate"].startswith("Bearer, Basic")


def test_a_key_may_be_shown_in_three_ways(to: To, behind: Guarded) -> None:
    (text,) = behind.key().values()
    basic = b64encode(f"me:{text}".encode()).decode()
    for headers in ({"X-API-Key": text}, {"Authorization": f"Bearer {text}"}, {"Authorization": f"basic {basic}"}):
        assert to(behind.app, "POST", "/predict", headers=headers, content=b"abc").text == "3"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "rl_0123456789ab_" + "0" * 48},
        {"Authorization": "Bearer rl_x"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic \xe9"},
        {"Authorization": "Basic " + b64encode(b"\xff\xfe:x").decode()},
        {"Authorization": "Bearer " + "9" * 10_000},
        {"X-API-Key": "\xe9"},
    ],
)
def test_what_is_no_key_is_401(to: To, problem_in: ProblemIn, behind: Guarded, headers: dict[str, str]) -> None:
    behind.key()
    sent = [(name, value.encode("latin-1")) for name, value in headers.items()]
    problem_in(to(behind.app, "POST", "/predict", headers=sent), 401)


def test_an_expired_and_a_revoked_key_are_401(to: To, problem_in: ProblemIn, behind: Guarded) -> None:
    content = problem_in(to(behind.app, "POST", "/predict", headers=behind.key(days=-1)), 401)
    assert content["detail"].startswith("this key expired at 20")
    key = behind.key()
    behind.log.revoke(key_id_of(key["X-API-Key"]))
    behind.keys.refresh()
    content = problem_in(to(behind.app, "POST", "/predict", headers=key), 401)
    assert content["detail"].startswith("this key is unknown or revoked")


@pytest.mark.parametrize(
    ("scope", "path", "headers", "lacking"),
    [
        ("feedback", "/predict", {}, "predict"),
        ("predict", "/feedback", {}, "feedback"),
        ("predict", "/versions", {}, "operate"),
        ("predict", "/drift", {}, "operate"),
        ("predict", "/predict", {"X-Version": "v"}, "operate"),
        ("operate", "/predict", {"X-Version": "v"}, "predict"),
    ],
)
def test_a_key_without_the_scope_is_403(
    to: To, problem_in: ProblemIn, behind: Guarded, scope: str, path: str, headers: dict[str, str], lacking: str
) -> None:
    content = problem_in(to(behind.app, "POST", path, headers={**behind.key(scope), **headers}), 403)
    assert content["detail"] == f"this key has scopes {scope}, and lacks {lacking}"


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_every_key_may_read_the_pages(to: To, behind: Guarded, path: str) -> None:
    assert to(behind.app, "GET", path, headers=behind.key("feedback")).status_code == 200


def test_a_limit_is_429_with_the_time_to_wait(to: To, problem_in: ProblemIn, behind: Guarded) -> None:
    key = behind.key()
    behind.limit(requests_per_s=0.1, burst=2)
    answers = [to(behind.app, "POST", "/predict", headers=key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    content = problem_in(answers[2], 429)
    assert content["detail"] == "'acme' may ask 0.1 requests a second, 2 at once"
    assert answers[2].headers["retry-after"] == "10"
    assert to(behind.app, "POST", "/predict", headers=behind.key(tenant="bolt")).status_code == 200


def test_where_the_ledger_is_away_those_with_limits_wait(to: To, problem_in: ProblemIn, behind: Guarded) -> None:
    async def take(tenant: str, limits: TenantLimits) -> Granted:
        raise LimitsError("the ledger of 'films' does not answer")

    guard = Guard(size_of_body, behind.keys, Stock(take), behind.usage)
    key = behind.key()
    assert to(guard, "POST", "/predict", headers=key).status_code == 200
    behind.limit(requests_per_day=5)
    assert to(guard, "POST", "/predict", headers=key).headers["retry-after"] == "1"


def test_what_came_in_and_went_out_is_counted_by_key(to: To, behind: Guarded) -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError

    key = behind.key()
    to(behind.app, "POST", "/predict", headers=key, content=b"x" * 700)
    to(behind.app, "POST", "/feedback", headers=key)
    to(behind.app, "POST", "/predict")
    to(Guard(failing, behind.keys, Stock(Limits.none), behind.usage), "POST", "/predict", headers=key)
    behind.usage.flush()
    uses = {use.tenant: use for use in uses_on(behind.log.storage, "films", f"{NOON:%Y-%m-%d}")}
    acme = uses["acme"]
    assert (acme.num_requests, acme.num_refused, acme.num_failed) == (2, 1, 1)
    assert (acme.bytes_in, acme.bytes_out) == (700, 3)
    assert acme.seconds > 0
    assert (uses[""].num_requests, uses[""].num_refused) == (0, 1)


def test_a_client_that_goes_away_is_not_billed_for_a_failure(behind: Guarded) -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError

    [(name, text)] = behind.key().items()
    headers = [(name.lower().encode(), text.encode())]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
    guard = Guard(BodyLimit(size_of_body, LIMIT), behind.keys, Stock(Limits.none), behind.usage)
    asyncio.run(guard(scope, receive, send))
    behind.usage.flush()
    [use] = uses_on(behind.log.storage, "films", f"{NOON:%Y-%m-%d}")
    assert (use.num_requests, use.num_failed, use.bytes_in) == (1, 0, 4)


class Limits:
    @staticmethod
    async def none(tenant: str, limits: TenantLimits) -> Granted:
        raise AssertionError("who has no limits is not counted by the ledger")


def test_usage_is_written_when_the_replica_stops(behind: Guarded) -> None:
    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.shutdown.complete"})

    async def unused() -> Message:
        raise AssertionError

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    guard = Guard(lifespan, behind.keys, Stock(Limits.none), behind.usage)
    behind.usage.add(Use("acme", "0" * 12, 1))
    asyncio.run(guard({"type": "lifespan"}, unused, send))
    assert used_on(behind.log.storage, "films", f"{NOON:%Y-%m-%d}") == {"acme": 1}
    assert sent


@dataclass
class Served:
    """An application of two replicas that only those with a key reach."""

    address: str
    log: AccessLog

    def key(self, tenant: str, *scopes: Any, days: float = 1) -> dict[str, str]:
        return {"X-API-Key": self.log.create(tenant, scopes or ("predict",), timedelta(days=days))}

    def ask(self, headers: dict[str, str], path: str = "/predict") -> int:
        body = None if path == "/versions" else {"rows": [ROW]}
        return ask(self.address, Question("", path, body), headers=headers)[0]

    def until_known(self, tenant: str = "acme") -> None:
        """Return once both replicas know all that the log of keys has by now, and no pass that is gone.

        They read the log in its order, so who lets in its last key knows the rest. Passes are read after it: who knows
        a key that was made once an earlier one was known has done that, too.
        """
        for _ in range(2):
            last = self.key(tenant, "operate")
            heard, deadline = set[str](), time.monotonic() + 120
            while len(heard) < 2:
                assert time.monotonic() < deadline, heard
                status, told = ask(self.address, Question("", "/versions"), headers=last)
                if status == 200:
                    heard.add(told["replica"])

    def send(self, *pieces: bytes) -> bytes:
        """What is answered to bytes on a connection of their own; empty where it is closed without a word."""
        where = urlsplit(self.address)
        assert where.hostname
        assert where.port
        with socket.create_connection((where.hostname, where.port), timeout=60) as connection:
            with suppress(OSError):  # the other side has closed it already: what it said before lies here
                for piece in pieces:
                    connection.sendall(piece)
            try:
                return connection.recv(4096)
            except OSError:
                return b""


@pytest.fixture(scope="module")
def served(cluster: Any, loans: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    given, spec, _ = loans
    root = tmp_path_factory.mktemp("guarded")
    shutil.copytree(given.path("models"), root / "models")
    storage = Storage(str(root))
    serving = spec.serving.model_copy(update={"port": kept_ports(1)[0], "num_replicas": 2, "access": "keys"})
    spec = spec.model_copy(update={"serving": serving, "storage": storage.uri})
    try:
        yield Served(deploy(spec, storage), AccessLog(storage, spec.name))
    finally:
        remove(spec.name)
        stop_if_idle()


@pytest.mark.ray
def test_over_http_only_a_key_with_the_scope_is_let_in(served: Served) -> None:
    assert served.ask({}) == 401
    assert served.ask({"X-API-Key": "rl_0123456789ab_" + "0" * 48}) == 401
    expired, feedback = served.key("acme", days=-1), served.key("acme", "feedback")
    good = served.key("acme")
    served.until_known()
    assert [served.ask(key) for key in (expired, feedback, good)] == [401, 403, 200]
    assert ask(served.address, Question("", "/health"))[0] == 200
    served.log.revoke(key_id_of(good["X-API-Key"]))
    served.until_known()
    assert served.ask(good) == 401


@pytest.mark.ray
def test_an_operators_command_is_let_in_by_both_replicas_at_once_and_leaves_nothing(served: Served, loans: Any) -> None:
    spec = loans[1].model_copy(update={"serving": loans[1].serving.model_copy(update={"access": "keys"})})
    with operator_headers(spec, served.log.storage) as headers:
        heard, deadline = set[str](), time.monotonic() + 120
        while len(heard) < 2:
            began = time.monotonic()
            assert began < deadline, heard
            status, told = ask(served.address, Question("", "/versions"), headers=headers)
            if status == 200:
                heard.add(told["replica"])
            else:  # where a machine stands still, a look may take longer than it is waited for
                assert time.monotonic() - began > LOOK_WITHIN_S, (status, told)
    assert served.log.passes() == {}
    served.until_known()
    assert served.ask(dict(headers), "/versions") == 401


@pytest.mark.ray
def test_a_quota_holds_over_both_replicas_at_once_and_after_the_ledger_died(served: Served) -> None:
    key = served.key("limited")
    for tenant, most in {"limited": 40, "counted": 10**6}.items():
        served.log.add(Limited(tenant=tenant, limits=TenantLimits(requests_per_day=most)))
    served.until_known("counted")  # so the ledger is there
    with ThreadPoolExecutor(16) as pool:
        found = Counter(pool.map(lambda _: served.ask(key), range(120)))
    assert found == {200: 40, 429: 80}
    end_limits(served.log.name)
    deadline = time.monotonic() + 120  # usage is written every ten seconds
    while used_on(served.log.storage, served.log.name, f"{datetime.now(UTC):%Y-%m-%d}").get("limited") != 40:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(ASK_AGAIN_S)  # until then replicas refuse by what the ledger said that died
    while (status := served.ask(key)) == 503:  # another ledger is being started
        assert time.monotonic() < deadline
    assert status == 429


@pytest.mark.ray
def test_what_attackers_send_costs_the_others_nothing(served: Served) -> None:
    key = served.key("acme")
    name, value = next(iter(key.items()))
    path = urlsplit(served.address).path
    served.until_known()
    head = f"POST {path}/predict HTTP/1.1\r\nHost: x\r\n{name}: {value}\r\n".encode()
    large = head + b"Content-Length: %d\r\n\r\n" % (96 * 2**20)
    assert b" 413 " in served.send(large, *[bytes(2**20)] * 96).split(b"\r\n")[0]
    bombs = {
        "one huge header": head + b"X-Bomb: " + b"x" * 1_000_000 + b"\r\n\r\n",
        "many headers": head + b"".join(b"X-%d: x\r\n" % number for number in range(20_000)) + b"\r\n",
        "no end": head + b"X" * 1_000_000,
        "two lengths": head + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "length and chunks": head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n",
    }
    for what, sent in bombs.items():
        answer = served.send(sent)
        assert answer == b"" or answer.split()[1].startswith(b"4"), (what, answer[:200])
        assert served.ask(key) == 200, what


@pytest.mark.ray
def test_slow_clients_keep_nobody_waiting_and_a_slow_body_is_given_up(served: Served) -> None:
    """A byte at a time: some never end their headers, and the others, who have a key, their body."""
    key = served.key("acme")
    name, value = next(iter(key.items()))
    where = urlsplit(served.address)
    head = f"POST {where.path}/predict HTTP/1.1\r\nHost: x\r\n{name}: {value}\r\n".encode()
    served.until_known()
    with ExitStack() as stack:

        def begin(sent: bytes) -> socket.socket:
            connection = stack.enter_context(socket.create_connection((where.hostname, where.port), timeout=60))
            connection.sendall(sent)
            return connection

        in_headers = [begin(head) for _ in range(200)]
        in_body = {begin(head + b"Content-Length: 10000\r\n\r\n") for _ in range(60)}
        answers, deadline = [], time.monotonic() + 180
        while in_body:
            assert time.monotonic() < deadline, answers
            for connection in in_headers:
                connection.sendall(b"X")
            answered, _, _ = select.select(in_body, [], [], 0.2)
            in_body -= set(answered)
            answers += [connection.recv(4096) for connection in answered]
            for connection in in_body:
                connection.sendall(b" ")
            assert served.ask(key) == 200
    assert {answer.split()[1] for answer in answers} == {b"408"}
