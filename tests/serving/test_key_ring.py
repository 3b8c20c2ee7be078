import asyncio
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.errors import AccessError
from cluster.storage import Storage
from serving.key_ring import LOOK_WITHIN_S, KeyRing
from serving.keys import READ_AGAIN_S, AccessLog, Limited, key_id_of
from serving.limits import TenantLimits

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look may take as long as it does: how long it is waited for is a test of its own."""
    monkeypatch.setattr("serving.key_ring.LOOK_WITHIN_S", 60)


@pytest.fixture
def log(tmp_path: Path) -> AccessLog:
    return AccessLog(Storage(str(tmp_path)), "films")


def known(ring: KeyRing, text: str) -> bool:
    return asyncio.run(ring.key(text)) is not None


def test_a_key_is_known_by_all_of_it(log: AccessLog) -> None:
    text = log.create("acme", ["predict"], DAY)
    ring = KeyRing(log)
    assert known(ring, text)
    assert not known(ring, text[:-1])
    assert not known(ring, text + "0")
    assert not known(ring, "")
    assert not known(ring, "rl_0123456789ab_" + "0" * 48)


def test_a_new_key_is_looked_for_when_it_is_shown_but_not_at_every_request(
    log: AccessLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [READ_AGAIN_S]
    monkeypatch.setattr("serving.key_ring.time", SimpleNamespace(monotonic=lambda: clock[-1]))
    ring = KeyRing(log)
    assert not known(ring, "rl_0123456789ab_" + "0" * 48)
    text = log.create("acme", ["predict"], DAY)
    assert not known(ring, text), "it has looked a moment ago"
    clock.append(1.9 * READ_AGAIN_S)
    assert not known(ring, text)
    clock.append(2 * READ_AGAIN_S)
    assert known(ring, text)


def test_a_revoked_key_is_known_no_longer_once_it_looks(log: AccessLog) -> None:
    text = log.create("acme", ["predict"], DAY)
    ring = KeyRing(log)
    log.revoke(key_id_of(text))
    assert known(ring, text)
    ring.refresh()
    assert not known(ring, text)


def test_it_looks_by_itself(log: AccessLog) -> None:
    ring = KeyRing(log)
    ring.follow()
    log.add(Limited(tenant="acme", limits=TenantLimits(requests_per_s=1)))
    deadline = time.monotonic() + 60
    while not ring.limits("acme").exist:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not ring.limits("bolt").exist


def test_a_log_that_was_tampered_with_changes_nothing_and_starts_nothing(log: AccessLog) -> None:
    text = log.create("acme", ["predict"], DAY)
    ring = KeyRing(log)
    path = Path(log.storage.path("access/films/log/00000002.json"))
    path.write_text(Path(log.storage.path("access/films/log/00000001.json")).read_text())
    with pytest.raises(AccessError, match="does not follow"):
        ring.refresh()
    assert known(ring, text)
    with pytest.raises(AccessError, match="does not follow"):
        KeyRing(log)


def test_all_who_show_a_new_key_at_once_are_let_in_by_one_look(log: AccessLog, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing(log)
    text = log.create("acme", ["predict"], DAY)
    looks, refresh, all_have_shown = 0, ring.refresh, threading.Event()

    def counted() -> None:
        nonlocal looks
        looks += 1
        assert all_have_shown.wait(60)
        refresh()

    monkeypatch.setattr(ring, "refresh", counted)

    async def show() -> list[object]:
        shown = [asyncio.create_task(ring.key(text)) for _ in range(20)]
        await asyncio.sleep(0)
        all_have_shown.set()
        return await asyncio.gather(*shown)

    assert None not in asyncio.run(show())
    assert looks == 1


def test_a_key_that_was_made_during_a_look_is_found_by_the_next(
    log: AccessLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look has read storage before, and is slow to end: longer than the pause between two."""
    monkeypatch.setattr("serving.key_ring.READ_AGAIN_S", 0)
    ring = KeyRing(log)
    refresh, was_read, go_on = ring.refresh, threading.Event(), threading.Event()

    def slow() -> None:
        refresh()
        was_read.set()
        assert go_on.wait(60)

    monkeypatch.setattr(ring, "refresh", slow)

    async def show() -> object:
        before = asyncio.create_task(ring.key("rl_0123456789ab_"))
        assert await asyncio.to_thread(was_read.wait, 60)
        shown = asyncio.create_task(ring.key(log.create("acme", ["predict"], DAY)))
        await asyncio.sleep(0)
        go_on.set()
        assert await before is None
        return await shown

    assert asyncio.run(show())


def test_a_storage_that_is_away_holds_nobody_up_for_long(log: AccessLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.key_ring.LOOK_WITHIN_S", LOOK_WITHIN_S)
    text = log.create("acme", ["predict"], DAY)
    ring = KeyRing(log)
    leave_off, is_back = threading.Event(), threading.Event()

    def away() -> None:
        leave_off.wait(60)
        is_back.set()

    monkeypatch.setattr(ring, "refresh", away)

    async def show() -> None:
        try:
            unknown = [ring.key(f"rl_{number:012x}_") for number in range(100)]
            assert await asyncio.gather(*unknown) == [None] * 100
            assert await ring.key(text)
            assert not is_back.is_set(), "one after another they wait 100 s"
        finally:
            leave_off.set()

    asyncio.run(show())
