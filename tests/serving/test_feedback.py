import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.errors import StorageError
from cluster.storage import Storage
from serving.feedback import Event, FeedbackLog, events_of
from serving.recommendation import Recommendations
from serving.recommender import web

NOON = datetime(2026, 5, 4, 12, 0, 0, 250, UTC)


@dataclass(frozen=True)
class SlowStorage(Storage):
    """A storage whose writes wait until the test lets them go."""

    opened: threading.Event = field(default_factory=threading.Event)
    at_work: threading.Event = field(default_factory=threading.Event)

    def write(self, relative: str, content: bytes) -> None:
        self.at_work.set()
        assert self.opened.wait(60)
        super().write(relative, content)


def event(number: int) -> Event:
    return Event(f"e{number}", "1", "m2", 4.0, 1_700_000_000, "2026-05-04T12:00:00.000250+00:00", "v1")


def lines(storage: Storage) -> list[list[dict[str, Any]]]:
    """The events of each file."""
    files = [Path(str(info.path)) for info in storage.files("feedback")]
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def test_a_lone_event_is_one_file_named_by_day_and_time(storage: Storage) -> None:
    asyncio.run(FeedbackLog(storage, "recommender", lambda: NOON).append(event(1)))
    [info] = storage.files("feedback")
    folder, name = str(info.path).split("/feedback/")[1].rsplit("/", 1)
    assert folder == "recommender/2026-05-04"
    assert name.startswith("120000-000250-")
    assert name.endswith("-1.jsonl")
    [[kept]] = lines(storage)
    assert kept == {
        "event_id": "e1",
        "user_id": "1",
        "item_id": "m2",
        "rating": 4.0,
        "timestamp": 1_700_000_000,
        "received_at": "2026-05-04T12:00:00.000250+00:00",
        "version": "v1",
        "prediction_id": "",
    }


def test_append_returns_only_once_the_event_is_on_disk(tmp_path: Path) -> None:
    storage = SlowStorage(str(tmp_path))

    async def scenario() -> None:
        log = FeedbackLog(storage, "recommender")
        appended = asyncio.create_task(log.append(event(1)))
        assert await asyncio.to_thread(storage.at_work.wait, 60)
        assert not appended.done()
        assert not storage.files("feedback")
        storage.opened.set()
        await appended
        assert [[each["event_id"] for each in file] for file in lines(storage)] == [["e1"]]

    asyncio.run(scenario())


def test_events_that_wait_for_a_write_share_the_next_file(tmp_path: Path) -> None:
    storage = SlowStorage(str(tmp_path))

    async def scenario() -> None:
        log = FeedbackLog(storage, "recommender")
        appended = [asyncio.create_task(log.append(event(0)))]
        assert await asyncio.to_thread(storage.at_work.wait, 60)
        appended += [asyncio.create_task(log.append(event(number))) for number in range(1, 51)]
        await asyncio.sleep(0)
        storage.opened.set()
        await asyncio.gather(*appended)

    asyncio.run(scenario())
    assert [[each["event_id"] for each in file] for file in lines(storage)] == [
        ["e0"],
        [f"e{number}" for number in range(1, 51)],
    ]


def test_two_replicas_of_the_same_moment_never_share_a_file(storage: Storage) -> None:
    async def scenario() -> None:
        logs = [FeedbackLog(storage, "recommender", lambda: NOON) for _ in range(2)]
        for number in range(6):
            await logs[number % 2].append(event(number))

    asyncio.run(scenario())
    assert len(storage.files("feedback")) == 6


def test_a_failing_write_fails_every_event_of_its_file_and_no_later_one(tmp_path: Path) -> None:
    (tmp_path / "feedback").write_text("a file where the folder should be")
    storage = Storage(str(tmp_path))

    async def scenario() -> None:
        log = FeedbackLog(storage, "recommender")
        results = await asyncio.gather(*(log.append(event(number)) for number in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [StorageError] * 3
        (tmp_path / "feedback").unlink()
        await log.append(event(3))

    asyncio.run(scenario())
    assert [each["event_id"] for file in lines(storage) for each in file] == ["e3"]


def test_a_client_that_gives_up_disturbs_no_other(tmp_path: Path) -> None:
    storage = SlowStorage(str(tmp_path))

    async def scenario() -> None:
        log = FeedbackLog(storage, "recommender")
        given_up, patient = (asyncio.create_task(log.append(event(number))) for number in range(2))
        assert await asyncio.to_thread(storage.at_work.wait, 60)
        given_up.cancel()
        storage.opened.set()
        await patient

    asyncio.run(scenario())
    assert [each["event_id"] for file in lines(storage) for each in file] == ["e0", "e1"]


def test_over_http_a_failing_write_is_503(
    recommendations: Recommendations, to: Callable[..., httpx.Response], problem_in: Any, tmp_path: Path
) -> None:
    (tmp_path / "feedback").write_text("a file where the folder should be")
    application = web(recommendations, FeedbackLog(Storage(str(tmp_path)), "recommender"), 10_000, "release")
    response = to(application, "POST", "/feedback", json={"user_id": 1, "item_id": "m2", "rating": 4})
    problem_in(response, 503)
    assert str(tmp_path) not in response.text


def test_events_are_read_back_in_order_and_damage_is_named(storage: Storage) -> None:
    async def say() -> None:
        log = FeedbackLog(storage, "recommender", lambda: NOON)
        for number in range(3):
            await log.append(event(number))

    assert list(events_of(storage, "recommender")) == []
    asyncio.run(say())
    assert list(events_of(storage, "recommender")) == [event(number) for number in range(3)]
    storage.write("feedback/recommender/2026-05-05/one.jsonl", b'{"event_id": "e"}\n')
    with pytest.raises(StorageError, match=r"one\.jsonl' is damaged: .*missing.*; mend or remove it"):
        list(events_of(storage, "recommender"))
