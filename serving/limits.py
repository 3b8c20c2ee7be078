"""Limits: how often a tenant may ask, over all replicas together.

One `Ledger` a cluster and application, in an actor, grants requests; a replica takes a few at once (`Stock`) and spends
them without asking. So what all replicas admit is never more than what was granted, and most requests cost no message.
"""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pydantic import Field

from cluster.spec import Spec

STOCK_S = 0.05
"""A replica takes as many requests at once as a tenant may ask in this time."""
STOCK_OF_DAY = 0.01
"""And no more than this part of what is left for the day: what a replica that dies had in stock is lost."""
MAX_STOCK = 100
"""Of a tenant without a rate."""
ASK_AGAIN_S = 1.0
"""A replica that was granted none asks again after this at the latest: limits may have changed."""


class TenantLimits(Spec):
    """What a tenant may ask; None asks nothing of it."""

    requests_per_s: float | None = Field(None, gt=0)
    """Over time."""
    burst: int | None = Field(None, ge=1)
    """At once, after a while without, where there is a rate; as many as in one second where it is absent."""
    requests_per_day: int | None = Field(None, ge=1)
    """Of the UTC calendar."""

    @property
    def at_once(self) -> int:
        """The most requests that are admitted together."""
        return self.burst or max(1, math.ceil(self.requests_per_s or 1))

    @property
    def exist(self) -> bool:
        """Whether there are any."""
        return self.requests_per_s is not None or self.requests_per_day is not None


@dataclass(frozen=True)
class Granted:
    """The answer to a replica that wants requests of a tenant."""

    num_requests: int
    wait_s: float = 0.0
    """Where it is none: until there may be one."""
    rule: str = ""
    """Where it is none: what forbids it."""


@dataclass
class _Bucket:
    tokens: float
    filled_at: float


class Ledger:
    """What every tenant has used, of one application; of one thread."""

    def __init__(self, used_on: Callable[[str], Mapping[str, int]], clock: Callable[[], float] = time.time) -> None:
        """Args:
        used_on: what each tenant had used of a day (2026-01-31) before this ledger began.
        clock: seconds since 1970.
        """
        self._used_on, self._clock = used_on, clock
        self._buckets: dict[str, _Bucket] = {}
        self._day, self._used = "", defaultdict[str, int](int)

    def take(self, tenant: str, limits: TenantLimits) -> Granted:
        """Requests for a replica to spend."""
        now = self._clock()
        self._turn_day(now)
        wanted = MAX_STOCK if limits.requests_per_s is None else max(1, int(limits.requests_per_s * STOCK_S))
        if limits.requests_per_day is not None:
            left = limits.requests_per_day - self._used[tenant]
            if left <= 0:
                rule = f"{limits.requests_per_day} requests a day, which begins at 0:00 UTC"
                return Granted(0, _until_tomorrow(now), rule)
            wanted = min(wanted, max(1, int(left * STOCK_OF_DAY)))
        if limits.requests_per_s is not None:
            bucket = self._filled(tenant, limits, limits.requests_per_s, now)
            if bucket.tokens < 1:
                rule = f"{limits.requests_per_s:g} requests a second, {limits.at_once} at once"
                return Granted(0, (1 - bucket.tokens) / limits.requests_per_s, rule)
            wanted = min(wanted, int(bucket.tokens))
            bucket.tokens -= wanted
        self._used[tenant] += wanted
        return Granted(wanted)

    def _filled(self, tenant: str, limits: TenantLimits, rate: float, now: float) -> _Bucket:
        bucket = self._buckets.setdefault(tenant, _Bucket(limits.at_once, now))
        bucket.tokens = min(limits.at_once, bucket.tokens + max(0.0, now - bucket.filled_at) * rate)
        bucket.filled_at = now
        return bucket

    def _turn_day(self, now: float) -> None:
        day = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}"
        if day != self._day:
            self._day, self._used = day, defaultdict(int, self._used_on(day))


def _until_tomorrow(now: float) -> float:
    tomorrow = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return tomorrow.timestamp() - now


@dataclass
class _Held:
    limits: TenantLimits
    num_requests: int = 0
    refused: Granted | None = None
    refused_until: float = 0.0
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Stock:
    """What one replica has been granted and not spent yet; of one event loop."""

    def __init__(self, take: Callable[[str, TenantLimits], Awaitable[Granted]]) -> None:
        """Args:
        take: asks the ledger.
        """
        self._take = take
        self._held: dict[str, _Held] = {}

    async def spend(self, tenant: str, limits: TenantLimits) -> Granted:
        """One request of the stock, filled up where it is empty; none where a limit forbids it."""
        held = self._held.get(tenant)
        if held is None or held.limits != limits:
            held = self._held[tenant] = _Held(limits)
        if held.num_requests == 0:
            async with held.asking:
                refused = await self._fill(tenant, held)
            if refused:
                return refused
        held.num_requests -= 1
        return Granted(1)

    async def _fill(self, tenant: str, held: _Held) -> Granted | None:
        """The refusal, where there is nothing to be had."""
        if held.num_requests > 0:  # another request filled it meanwhile
            return None
        now = time.monotonic()
        if held.refused and now < held.refused_until:
            return held.refused
        granted = await self._take(tenant, held.limits)
        if granted.num_requests == 0:
            held.refused, held.refused_until = granted, now + min(granted.wait_s, ASK_AGAIN_S)
            return granted
        held.num_requests, held.refused = granted.num_requests, None
        return None
