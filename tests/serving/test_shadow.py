"""What a shadow makes of what was answered, what it keeps, and what it leaves out."""

import json
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cluster.storage import Storage
from serving import shadow
from serving.shadow import Agreement, Exchange, Shadow, ShadowProcess, compared, line_of

ANSWER = {"version": "old", "label": "good", "shares": [0.25, 0.75]}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "PAUSE_S", 0.02)


def application(version: str) -> Starlette:
    """Answers what it is sent, as its own version."""

    async def echo(request: Request) -> Response:
        sent = await request.json()
        if sent == "fail":
            raise ValueError("broken inside")
        return JSONResponse({**sent, "version": version}, 200)

    return Starlette(routes=[Route("/predict", echo, methods=["POST"])])


def exchange(asked: Any, answer: Any = None, status: int = 200) -> Exchange:
    answer = ANSWER if answer is None else answer
    return Exchange(
        "/predict", b"", b"application/json", json.dumps(asked).encode(), "old", status, json.dumps(answer).encode()
    )


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, Agreement(num_compared=1, num_same=1)),
        ({"shares": [0.25001, 0.75]}, Agreement(num_compared=1, num_same=1)),
        (
            {"shares": [0.5, 0.5]},
            Agreement(num_compared=1, num_same_but_numbers=1, num_numbers=2, sum_of_differences=0.5),
        ),
        (
            {"label": "bad", "shares": [0.5, 0.75]},
            Agreement(num_compared=1, num_numbers=1, sum_of_differences=0.25),
        ),
        ({"shares": [0.25]}, Agreement(num_compared=1)),
    ],
)
def test_answers_are_compared_but_for_who_gave_them(asked: Any, expected: Agreement) -> None:
    found, line = compared(application("new"), exchange({**ANSWER, **asked}))
    assert Agreement(**{**found.__dict__, "seconds": 0.0}) == expected
    assert found.seconds > 0
    assert line["shadow_answer"] == {**ANSWER, **asked, "version": "new"}
    assert (line["version"], line["answer"], line["status"]) == ("old", ANSWER, [200, 200])


def test_a_shadow_that_fails_is_counted_and_one_that_refuses_alike_agrees() -> None:
    found, line = compared(application("new"), exchange("fail"))
    assert (found.num_failed, found.num_same, line["status"]) == (1, 0, [200, 500])
    found, _ = compared(application("new"), exchange("fail", status=500))
    assert found.num_failed == 0


def test_both_answers_are_kept_a_line_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "LINES_A_FILE", 3)
    monkeypatch.setattr(shadow, "WRITE_AFTER_S", math.inf)
    process = ShadowProcess(application, "new", Storage(str(tmp_path)), "loans")
    found = process.compare([exchange(ANSWER) for _ in range(2)])
    assert not list(tmp_path.rglob("*.jsonl"))
    found += process.compare([exchange(ANSWER)])
    (path,) = tmp_path.rglob("*.jsonl")
    assert path.parent.parent == tmp_path / "shadows/loans/new"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["shadow"] for line in lines] == ["new"] * 3
    assert (found.num_compared, found.num_same) == (3, 3)
    process.compare([exchange(ANSWER)])
    process.write()
    process.write()
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2


class Held:
    """A process that compares when it is let go on."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.batches: list[int] = []

    def compare(self, exchanges: Sequence[Exchange]) -> Agreement:
        if not self.goes_on.wait(120):
            raise TimeoutError("it was not let go on")
        if any(exchange.body == b'"die"' for exchange in exchanges):
            raise ConnectionError("the process died")
        self.batches.append(len(exchanges))
        return Agreement(num_compared=len(exchanges))

    def end(self) -> None:
        self.goes_on.set()


def settled(one: Shadow, num: int) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (told := one.told())["num_compared"] + told["num_left_out"] < num:
        assert time.monotonic() < deadline, told
        time.sleep(0.02)
    return told


def test_what_it_cannot_keep_up_with_is_left_out_and_counted() -> None:
    process = Held()
    one = Shadow(process)
    num = 2 * shadow.MAX_WAITING
    for _ in range(num):
        one.add(exchange({}))
    process.goes_on.set()
    told = settled(one, num)
    assert told["num_compared"] + told["num_left_out"] == num
    assert shadow.MAX_WAITING <= told["num_compared"] <= shadow.MAX_WAITING + shadow.AT_ONCE
    assert max(process.batches) <= shadow.AT_ONCE
    one.end()


def test_no_more_waits_than_memory_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "MAX_BYTES", 10 * exchange({}).num_bytes)
    process = Held()
    one = Shadow(process)
    for _ in range(50):
        one.add(exchange({}))
    process.goes_on.set()
    told = settled(one, 50)
    assert told["num_compared"] <= 10 + 10
    one.add(exchange({}))
    assert settled(one, 51)["num_compared"] == told["num_compared"] + 1, "what was compared takes no room"
    one.end()


def test_a_process_that_dies_costs_what_it_had() -> None:
    process = Held()
    process.goes_on.set()
    one = Shadow(process)
    one.add(exchange("die"))
    assert settled(one, 1)["num_left_out"] == 1
    one.add(exchange({}))
    assert settled(one, 2)["num_compared"] == 1
    one.end()


def test_all_replicas_are_told_of_together() -> None:
    told = {**Agreement(10, 5, 3, 1, 6, 3.0, 0.5).__dict__, "num_left_out": 2, "num_waiting": 0}
    assert line_of("v2", [told, told]) == (
        "  v2  shadow  20 compared: 50.0% the same, 30.0% but for numbers (0.5 apart), 10.0% failed; 50.0 ms each, "
        "4 left out"
    )
