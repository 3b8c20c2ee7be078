"""What a key costs a request, and whether the time that a wrong key takes tells how nearly it fits.

    OMP_NUM_THREADS=1 python -m benchmarks.access_cost

Requests to an ASGI application that answers nothing, with and without the guard before it, turn about. The keys: one
that is right but for its first digit, one that is right but for its last, and one of an id that does not exist; the
order is shuffled, and Welch's t compares them, as dudect does (Reparaz, Balasch and Verbauwhede, 2017). Writes the .md
beside it.
"""

import asyncio
import platform
import random
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import fmean, median, variance
from tempfile import TemporaryDirectory
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.storage import Storage
from serving.access import Guard
from serving.key_ring import KeyRing
from serving.keys import AccessLog
from serving.limits import Granted, Ledger, Stock, TenantLimits
from serving.usage import UsageLog

NUM_TURNS, NUM_REQUESTS = 15, 2_000
NUM_ROUNDS, NUM_COMPARED = 15, 20_000
CROP = 0.9
"""Of the fastest comparisons; the rest met something else on the machine."""


async def empty(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    return None


def scope(key: str) -> dict[str, Any]:
    headers = [(b"host", b"x"), (b"content-type", b"application/json"), (b"authorization", f"Bearer {key}".encode())]
    return {"type": "http", "method": "POST", "path": "/predict", "root_path": "", "headers": headers}


async def us_a_request(app: ASGIApp, key: str) -> float:
    began = time.perf_counter()
    for _ in range(NUM_REQUESTS):
        await app(scope(key), receive, send)
    return (time.perf_counter() - began) / NUM_REQUESTS * 1e6


async def compared(ring: KeyRing, keys: dict[str, Callable[[], str]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {name: [] for name in keys}
    order = [name for name in keys for _ in range(NUM_COMPARED)]
    random.Random(0).shuffle(order)
    # Made before, so that all that runs between two of them is the same, and in this order, so that memory is, too.
    shown = [(name, keys[name]()) for name in order]
    for name, text in shown:
        began = time.perf_counter_ns()
        await ring.key(text)
        took = time.perf_counter_ns() - began
        found[name].append(took)
    return {name: sorted(times)[: int(CROP * len(times))] for name, times in found.items()}


def wrong_at(key: str, place: int, draw: random.Random) -> str:
    """A new text each time: where one and the same lies in memory shows, too."""
    digits = list(key)
    digits[place] = draw.choice([digit for digit in "0123456789abcdef" if digit != key[place]])
    return "".join(digits)


def welch(one: list[int], other: list[int]) -> float:
    spread = variance(one) / len(one) + variance(other) / len(other)
    return abs(fmean(one) - fmean(other)) / spread**0.5


async def measured(folder: str) -> str:
    log = AccessLog(Storage(folder), "app")
    key = log.create("acme", ["predict"], timedelta(days=1))
    ring, ledger = KeyRing(log), Ledger(lambda day: {})

    async def take(tenant: str, limits: TenantLimits) -> Granted:
        return ledger.take(tenant, limits)

    guard = Guard(empty, ring, Stock(take), UsageLog(log.storage, "app"))
    bare, guarded = [], []
    for _ in range(NUM_TURNS):
        bare.append(await us_a_request(empty, key))
        guarded.append(await us_a_request(guard, key))
    cost = [after - before for before, after in zip(bare, guarded, strict=True)]
    draw, first_digit = random.Random(0), key.rindex("_") + 1
    keys = {
        "wrong in its first digit": lambda: wrong_at(key, first_digit, draw),
        "the same once more": lambda: wrong_at(key, first_digit, draw),
        "wrong in its last digit": lambda: wrong_at(key, len(key) - 1, draw),
        "of no such id": lambda: wrong_at(key, first_digit - 2, draw),
    }
    ring.refresh()
    rounds = [await compared(ring, keys) for _ in range(NUM_ROUNDS)]
    rows = "\n".join(f"| {name} | {median(median(times[name]) for times in rounds):.0f} |" for name in keys)
    first, again, last, _ = keys
    far = sorted(welch(times[first], times[last]) for times in rounds)
    same = sorted(welch(times[first], times[again]) for times in rounds)
    return f"""# What a key costs

`python -m benchmarks.access_cost`, {platform.machine()}, Python {platform.python_version()}.

The guard (key, scope, limits that are not set, metering) adds **{median(cost):.1f} us** a request
({min(cost):.1f} to {max(cost):.1f} over {NUM_TURNS} turns of {NUM_REQUESTS:,} requests).

| a key | median ns |
|---|---|
{rows}

Welch's t of {NUM_COMPARED:,} shuffled comparisons each, the median of {NUM_ROUNDS} rounds and their range: between the
first and the last digit **{median(far):.1f}** ({far[0]:.1f} to {far[-1]:.1f}); between two of the same kind, which is
what the machine alone does, {median(same):.1f} ({same[0]:.1f} to {same[-1]:.1f}). Below 4.5 there is no sign of a
difference. Ids are no secret.
"""


def main() -> None:
    with TemporaryDirectory() as folder:
        text = asyncio.run(measured(folder))
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
