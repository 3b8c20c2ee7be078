"""What users say about an answer, kept durably: one JSON line an event.

    feedback/<name>/<day>/...jsonl     what a user thought of an item; collect makes raw events of it
    labels/<name>/<day>/...jsonl       what the right answer to a row of a prediction was

Group commit: while a file is being written further events wait, and all that wait are the next file. A lone event
is written at once, a busy replica writes few files, and no event is acknowledged before its file is durable. An event
that a client sent again, since it got no answer, may be there twice; whoever reads takes the first of an id.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TypeVar

from cluster.errors import StorageError
from cluster.storage import Storage
from serving.line_files import LineFiles, lines_in, now

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """One rating that a user gave."""

    event_id: str
    """Two events of one id are the same event, sent twice."""
    user_id: str
    item_id: str
    rating: float
    timestamp: int
    """When the user gave it, in seconds since 1970."""
    received_at: str
    """When this service got it, ISO 8601 in UTC."""
    version: str
    """The version that was serving."""
    prediction_id: str = ""
    """Of the answer that it speaks of, where the client said so."""


@dataclass(frozen=True)
class Label:
    """The right answer to one row of a prediction, which became known later."""

    event_id: str
    prediction_id: str
    row: int
    """Which one of the request, from 0."""
    label: str
    received_at: str
    """When this service got it, ISO 8601 in UTC."""


E = TypeVar("E", Event, Label)


def events_of(storage: Storage, name: str, since: str = "") -> Iterator[Event]:
    """All events of an application from a day on, of all its replicas, in the order they were written, each once.

    Raises:
        StorageError: a line is no event.
    """
    return _once(lines_in(storage, f"feedback/{name}", lambda line: Event(**line), since))


def labels_of(storage: Storage, name: str, since: str = "") -> Iterator[Label]:
    """All labels of an application from a day on, in the order they were written, each once.

    Raises:
        StorageError: a line is no label.
    """
    return _once(lines_in(storage, f"labels/{name}", lambda line: Label(**line), since))


def _once(events: Iterable[E]) -> Iterator[E]:
    seen = set[str]()
    for event in events:
        if event.event_id not in seen:
            seen.add(event.event_id)
            yield event


class FeedbackLog:
    """The events of one kind of one replica."""

    def __init__(
        self, storage: Storage, name: str, clock: Callable[[], datetime] = now, folder: str = "feedback"
    ) -> None:
        self._uri = storage.uri
        self._files = LineFiles(storage, f"{folder}/{name}", clock)
        self._waiting: list[tuple[Event | Label, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "feedback")

    async def append(self, event: Event | Label) -> None:
        """Return once the event is durable.

        Raises:
            StorageError: it could not be written; the client is to send it again with the same id.
        """
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, durable))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        await durable

    async def _write_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            failure = await self._write([event for event, _ in batch])
            for _, durable in batch:
                if durable.done():  # its client went away
                    continue
                if failure:
                    durable.set_exception(failure)
                else:
                    durable.set_result(None)

    async def _write(self, events: list[Event | Label]) -> StorageError | None:
        rows: list[Any] = [asdict(event) for event in events]
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._files.write, rows)
        except Exception as error:  # of any kind: an event must never be left waiting
            log.exception("%d feedback events were refused: they cannot be written", len(events))
            return StorageError(f"feedback cannot be written to '{self._uri}': {error}")
        return None
