"""Shadow: a version that is asked what another one answered; its answers are compared and kept, and never returned.

It runs in a process of its own that yields the CPU to everything else, and has what was asked handed over in batches
after it was answered. What it cannot keep up with is left out and counted.

    shadows/<name>/<version>/<day>/<time>-<replica>-<number>.jsonl     both answers of a request a line
"""

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayError
from starlette.types import ASGIApp

from cluster.storage import Storage
from serving.differences import OWN, differences
from serving.exchange import Exchange
from serving.in_process import answer_of
from serving.line_files import LineFiles

log = logging.getLogger(__name__)

MAX_WAITING = 4_000
MAX_BYTES = 64 * 2**20
"""Of requests and answers that wait for the shadow."""
AT_ONCE = 64
PAUSE_S = 1.0
"""Between batches: each holds up what the replica answers by the moment it takes to hand over."""
LINES_A_FILE, WRITE_AFTER_S = 1_000, 5.0
LOADED_WITHIN_S, COMPARED_WITHIN_S, END_WITHIN_S = 100.0, 120.0, 10.0
MAX_RESTARTS = 5
"""Of a shadow's process that dies or hangs."""
MAX_LINES = 10_000
"""That wait where storage is away; earlier ones go."""
WHO = frozenset({"version", "system_fingerprint"})
"""Fields that name who answered."""


@dataclass(frozen=True)
class Agreement:
    """What came of comparisons."""

    num_compared: int = 0
    num_same: int = 0
    """Numbers within the tolerance of the parity gate."""
    num_same_but_numbers: int = 0
    """Of the others: labels, items and texts are the same."""
    num_failed: int = 0
    """The shadow failed where the version that answered did not."""
    num_numbers: int = 0
    """That differ."""
    sum_of_differences: float = 0.0
    """Of those."""
    seconds: float = 0.0
    """That the shadow took."""

    def __add__(self, other: "Agreement") -> "Agreement":
        mine, its = asdict(self), asdict(other)
        return Agreement(**{name: mine[name] + its[name] for name in mine})


class Comparing(Protocol):
    """The process of a shadow, as its replica knows it."""

    def compare(self, exchanges: Sequence[Exchange]) -> Agreement:
        """Ask the shadow the same, and compare; waits for it."""

    def end(self) -> None:
        """End the process."""


class Shadow:
    """A version that shadows, as one replica sees it."""

    def __init__(self, process: Comparing) -> None:
        self._process = process
        self._waiting: deque[Exchange] = deque()
        self._num_bytes, self._num_left_out = 0, 0
        self._found = Agreement()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._hand_over, name="shadow", daemon=True)
        self._thread.start()

    def add(self, exchange: Exchange) -> None:
        """Have something compared, or left out where too much waits; in microseconds."""
        with self._lock:
            if len(self._waiting) >= MAX_WAITING or self._num_bytes + exchange.num_bytes > MAX_BYTES:
                self._num_left_out += 1
                return
            self._waiting.append(exchange)
            self._num_bytes += exchange.num_bytes

    def told(self) -> dict[str, Any]:
        """What came of it."""
        return {**asdict(self._found), "num_left_out": self._num_left_out, "num_waiting": len(self._waiting)}

    def end(self) -> None:
        """Compare no more; what was compared is kept."""
        self._ended.set()

    def _hand_over(self) -> None:
        while not self._ended.wait(PAUSE_S):
            while (batch := self._next()) and not self._ended.is_set():
                try:
                    self._found += self._process.compare(batch)
                except Exception:  # its process died: what it shadowed goes on
                    with self._lock:
                        self._num_left_out += len(batch)
                    log.exception("a shadow does not answer")
        self._process.end()

    def _next(self) -> list[Exchange]:
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            self._num_bytes -= sum(exchange.num_bytes for exchange in batch)
        return batch


class ShadowProcess:
    """Runs in the shadow's process."""

    def __init__(
        self, load: Callable[[str], ASGIApp], version: str, storage: Storage, name: str, is_alone: bool = False
    ) -> None:
        """Args:
        is_alone: in its process, which is to run where nothing else wants to: this thread, and those that it starts.
        """
        if is_alone:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        self._app, self._version = load(version), version
        self._files = LineFiles(storage, f"shadows/{name}/{version}")
        self._lines: list[dict[str, Any]] = []
        self._written_at = time.monotonic()

    def ready(self) -> None:
        """Return once it is loaded."""

    def compare(self, exchanges: Sequence[Exchange]) -> Agreement:
        """Ask the version the same, and compare."""
        found = Agreement()
        for exchange in exchanges:
            agreement, line = compared(self._app, exchange)
            found += agreement
            self._lines.append({"shadow": self._version, **line})
        if len(self._lines) >= LINES_A_FILE or time.monotonic() - self._written_at > WRITE_AFTER_S:
            with suppress(Exception):  # storage may be away for a while: the lines wait
                self.write()
            self._lines = self._lines[-MAX_LINES:]
        return found

    def write(self) -> None:
        """Keep what was compared since the last time."""
        if not self._lines:
            return
        self._written_at = time.monotonic()
        self._files.write(self._lines)
        self._lines = []


def compared(app: ASGIApp, exchange: Exchange) -> tuple[Agreement, dict[str, Any]]:
    """What an application makes of an exchange: the comparison, and what is kept of it."""
    began = time.perf_counter()
    try:
        status, given = answer_of(app, exchange.path, exchange.body, exchange.query, exchange.content_type)
    except Exception:  # of the application, after its own answer to errors
        status, given = 500, b""
    found = Agreement(num_compared=1, seconds=time.perf_counter() - began)
    answer, shadow_answer = json.loads(exchange.answer), _json_of(given)
    line = {
        "version": exchange.version,
        "path": exchange.path,
        "status": [exchange.status, status],
        "answer": answer,
        "shadow_answer": shadow_answer,
    }
    if status >= 500 > exchange.status:
        return replace(found, num_failed=1), line
    places = list(differences(answer, shadow_answer, leave_out=OWN | WHO))
    gaps = [abs(here - there) for _, here, there in places if _is_number(here) and _is_number(there)]
    is_same = not places and status == exchange.status
    numbers_only = bool(places) and len(gaps) == len(places) and status == exchange.status
    return (
        replace(
            found,
            num_same=int(is_same),
            num_same_but_numbers=int(numbers_only),
            num_numbers=len(gaps),
            sum_of_differences=float(sum(gaps)),
        ),
        line,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json_of(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


@dataclass
class _RayProcess:
    """A shadow's process, which lives no longer than its replica."""

    actor: Any

    def compare(self, exchanges: Sequence[Exchange]) -> Agreement:
        try:
            found: Agreement = ray.get(self.actor.compare.remote(list(exchanges)), timeout=COMPARED_WITHIN_S)
        except GetTimeoutError:  # it hangs; Ray starts it anew
            ray.kill(self.actor, no_restart=False)
            raise
        return found

    def end(self) -> None:
        with suppress(RayError):
            ray.get(self.actor.write.remote(), timeout=END_WITHIN_S)
        with suppress(RayError):
            ray.kill(self.actor)


def started(load: Callable[[str], ASGIApp], version: str, storage: Storage, name: str) -> Shadow:
    """A shadow in a process of its own, once it is loaded.

    Args:
        load: makes the application of a version.

    Raises:
        RayError: it cannot be loaded.
    """
    kind: Any = ray.remote(ShadowProcess)
    actor = kind.options(num_cpus=0, max_restarts=MAX_RESTARTS).remote(load, version, storage, name, is_alone=True)
    try:
        ray.get(actor.ready.remote(), timeout=LOADED_WITHIN_S)
    except RayError:
        ray.kill(actor)
        raise
    return Shadow(_RayProcess(actor))


def line_of(version: str, told: Sequence[Mapping[str, float]]) -> str:
    """For people: what all replicas tell of one shadow."""
    if not told:
        return f"  {version}  shadow  no replica has it yet"
    found = {name: sum(one[name] for one in told) for name in told[0]}
    num = max(found["num_compared"], 1)
    gap = found["sum_of_differences"] / max(found["num_numbers"], 1)
    return (
        f"  {version}  shadow  {found['num_compared']:,.0f} compared: {found['num_same'] / num:.1%} the same, "
        f"{found['num_same_but_numbers'] / num:.1%} but for numbers ({gap:.3g} apart), "
        f"{found['num_failed'] / num:.1%} failed; {1000 * found['seconds'] / num:.1f} ms each, "
        f"{found['num_left_out']:,.0f} left out"
    )
