"""The ledger in its actor, shared by those who ask and back after its process was killed."""

import asyncio
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.storage import Storage
from serving.limiter import NAMESPACE, Limiter, LimitsError, end_limits
from serving.limits import TenantLimits
from serving.usage import UsageLog, Use

LIMITS = TenantLimits(requests_per_day=5)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor that starts on a busy machine takes longer than requests may wait."""
    monkeypatch.setattr("serving.limiter.WITHIN_S", 120.0)


@pytest.mark.ray
def test_all_who_ask_share_one_ledger_which_counts_on_after_a_kill(cluster: Any, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    limiters = [Limiter(storage, "films"), Limiter(storage, "films")]

    async def take(times: int) -> int:
        return sum([(await limiters[number % 2].take("acme", LIMITS)).num_requests for number in range(times)])

    try:
        assert asyncio.run(take(3)) == 3
        usage = UsageLog(storage, "films", lambda: datetime.now(UTC))
        usage.add(Use("acme", "0" * 12, num_requests=3))
        usage.flush()
        actor = ray.get_actor("films", namespace=NAMESPACE)
        os.kill(ray.get(actor.process_id.remote()), signal.SIGKILL)
        assert asyncio.run(take(5)) == 2
    finally:
        end_limits("films")


@pytest.mark.ray
def test_what_was_used_of_the_day_and_cannot_be_read_is_told_as_such(cluster: Any, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    path = f"usage/broken/{datetime.now(UTC):%Y-%m-%d}/one.jsonl"
    storage.write(path, b"no use")
    limiter = Limiter(storage, "broken")
    try:
        with pytest.raises(LimitsError, match=r"the ledger of 'broken' does not answer: .*one\.jsonl' is damaged"):
            asyncio.run(limiter.take("acme", LIMITS))
        storage.remove(path)
        assert asyncio.run(limiter.take("acme", LIMITS)).num_requests == 1
    finally:
        end_limits("broken")


@pytest.mark.ray
def test_ending_what_never_began_is_nothing(cluster: Any) -> None:
    end_limits("nobody")
