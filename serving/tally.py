"""Tally: how a version did in its last requests to one replica, and whether that keeps to the guardrails."""

from collections import deque
from dataclasses import dataclass

from serving.shares import WINDOW, Guardrails


@dataclass(frozen=True)
class Seen:
    """What came of a version's requests."""

    num_requests: int
    """Since it was loaded."""
    error_rate: float
    """Of the last ones."""
    p95_ms: float


class Tally:
    """Of one version in one replica; one thread adds to it."""

    def __init__(self) -> None:
        self._num_requests = 0
        self._failed: deque[bool] = deque(maxlen=WINDOW)
        self._ms: deque[float] = deque(maxlen=WINDOW)

    def add(self, status: int, ms: float) -> None:
        """Note one request."""
        self._num_requests += 1
        self._failed.append(status >= 500)
        self._ms.append(ms)

    def seen(self) -> Seen:
        """What came of them; of any thread."""
        ms, failed = self._ms.copy(), tuple(self._failed)  # the other thread may add meanwhile
        if not ms:
            return Seen(0, 0.0, 0.0)
        return Seen(self._num_requests, sum(failed) / len(failed), sorted(ms)[int(0.95 * (len(ms) - 1))])

    def breach(self, rails: Guardrails) -> str:
        """Which guardrail is broken, with both numbers; empty where none is, or too little was seen."""
        seen, counted = self.seen(), min(self._num_requests, WINDOW)
        if counted < rails.min_requests:
            return ""
        if rails.max_error_rate is not None and seen.error_rate > rails.max_error_rate:
            rule = f"at most {rails.max_error_rate:.1%} may"
            return f"{seen.error_rate:.1%} of its last {counted} requests failed, {rule}"
        if rails.max_p95_ms is not None and seen.p95_ms > rails.max_p95_ms:
            return f"the 95th percentile of its latency is {seen.p95_ms:.0f} ms, and may be {rails.max_p95_ms:.0f} ms"
        return ""
