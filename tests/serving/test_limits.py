"""The ledger against the rule it states: never more than burst + rate x time, never more than the day's."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.limits import Granted, Ledger, Stock, TenantLimits

NOON = 1_800_000_000.0 // 86400 * 86400 + 43200


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def ledger(clock: Clock, **used: int) -> Ledger:
    return Ledger(lambda day: used, clock)


@given(
    rate=st.floats(0.1, 2000),
    burst=st.integers(1, 300),
    waits=st.lists(st.floats(0, 2), min_size=1, max_size=60),
)
def test_what_is_granted_never_exceeds_the_rate_and_the_burst(rate: float, burst: int, waits: list[float]) -> None:
    clock = Clock()
    limits = TenantLimits(requests_per_s=rate, burst=burst)
    found, granted = ledger(clock), 0
    for wait in waits:
        clock.now += wait
        granted += sum(found.take("a", limits).num_requests for _ in range(5))
        assert granted <= burst + rate * (clock.now - NOON) + 1e-3


def test_a_steady_tenant_gets_its_rate() -> None:
    clock, granted = Clock(), 0
    found, limits = ledger(clock), TenantLimits(requests_per_s=50)
    for _ in range(1000):
        clock.now += 0.01
        granted += found.take("a", limits).num_requests
    assert granted == pytest.approx(50 + 50 * 10, abs=2)


@given(limit=st.integers(1, 3000), used=st.integers(0, 4000), replicas=st.integers(1, 4))
def test_the_whole_day_is_granted_and_no_more(limit: int, used: int, replicas: int) -> None:
    found, limits = ledger(Clock(), a=used), TenantLimits(requests_per_day=limit)
    granted, refused = 0, 0
    while refused < replicas:
        got = found.take("a", limits)
        granted, refused = granted + got.num_requests, refused + (got.num_requests == 0)
    assert granted == max(0, limit - used)


def test_a_refusal_says_the_rule_and_when_to_come_back() -> None:
    clock = Clock()
    found, limits = ledger(clock), TenantLimits(requests_per_s=0.5, requests_per_day=2)
    assert found.take("a", limits) == Granted(1)
    refused = found.take("a", limits)
    assert (refused.num_requests, refused.wait_s, refused.rule) == (0, 2.0, "0.5 requests a second, 1 at once")
    clock.now += refused.wait_s
    assert found.take("a", limits) == Granted(1)
    refused = found.take("a", limits)
    assert refused.rule == "2 requests a day, which begins at 0:00 UTC"
    clock.now += refused.wait_s
    assert found.take("a", limits) == Granted(1)


def test_tenants_do_not_take_from_each_other() -> None:
    found, limits = ledger(Clock()), TenantLimits(requests_per_s=1)
    assert found.take("a", limits).num_requests == 1
    assert found.take("a", limits).num_requests == 0
    assert found.take("b", limits).num_requests == 1


def test_a_stock_is_spent_before_the_ledger_is_asked_again_and_never_overdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = Clock(), 0
    monkeypatch.setattr("serving.limits.time", SimpleNamespace(monotonic=clock))  # a refusal holds for 10 ms of it
    found, limits = ledger(clock), TenantLimits(requests_per_s=100, burst=100)

    async def take(tenant: str, wanted: TenantLimits) -> Granted:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return found.take(tenant, wanted)

    async def all_at_once() -> list[Granted]:
        stocks = [Stock(take), Stock(take)]
        return await asyncio.gather(*(stocks[number % 2].spend("a", limits) for number in range(300)))

    got = asyncio.run(all_at_once())
    assert sum(one.num_requests for one in got) == 100
    assert all(one.rule == "100 requests a second, 100 at once" for one in got if not one.num_requests)
    assert asked == 20 + 2, "five at a time, and one refusal a replica, which it remembers"


def test_new_limits_hold_at_once() -> None:
    found = ledger(Clock(), a=10)

    async def spend() -> list[int]:
        async def take(tenant: str, wanted: TenantLimits) -> Granted:
            return found.take(tenant, wanted)

        stock, got = Stock(take), []
        for day in (10, 11, 11, 12):
            got.append((await stock.spend("a", TenantLimits(requests_per_day=day))).num_requests)
        return got

    assert asyncio.run(spend()) == [0, 1, 0, 1]


@pytest.mark.parametrize("given_limits", [{"requests_per_s": 0}, {"burst": 0}, {"requests_per_day": 0}])
def test_limits_of_nothing_are_refused(given_limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="greater than"):
        TenantLimits(**given_limits)
