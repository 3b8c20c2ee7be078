"""What users say about an answer, kept durably: one JSON line an event, below feedback/<name>/<day>/.

Group commit: while a file is being written further events wait, and all that wait are the next file. A lone event
is written at once, a busy replica writes few files, and no event is acknowledged before its file is durable.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from secrets import token_hex

from cluster.errors import StorageError
from cluster.storage import Storage

log = logging.getLogger(__name__)


def now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)


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


def events_of(storage: Storage, name: str) -> Iterator[Event]:
    """All events of an application, of all its replicas, in the order they were written; one sent twice comes twice.

    Raises:
        StorageError: a line is no event.
    """
    if not storage.exists(f"feedback/{name}"):
        return
    for info in storage.files(f"feedback/{name}"):
        with storage.open(str(info.path)) as file:
            for line in file.read().splitlines():
                try:
                    yield Event(**json.loads(line))
                except (TypeError, ValueError) as error:
                    raise StorageError(f"feedback file '{info.path}' is damaged: {error}; mend or remove it") from None


class FeedbackLog:
    """The events of one replica; each file is new and appears whole."""

    def __init__(self, storage: Storage, name: str, clock: Callable[[], datetime] = now) -> None:
        self._storage = storage
        self._folder = f"feedback/{name}"
        self._clock = clock
        self._token = token_hex(4)
        self._num_files = 0
        self._waiting: list[tuple[Event, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "feedback")

    async def append(self, event: Event) -> None:
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

    async def _write(self, events: list[Event]) -> StorageError | None:
        path = self._next_path()
        lines = "".join(json.dumps(asdict(event)) + "\n" for event in events)
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._thread, self._storage.write, path, lines.encode("ascii")
            )
        except Exception as error:  # of any kind: an event must never be left waiting
            log.exception("%d feedback events were refused: %s cannot be written", len(events), path)
            return StorageError(f"feedback cannot be written to '{self._storage.uri}': {error}")
        return None

    def _next_path(self) -> str:
        self._num_files += 1
        return f"{self._folder}/{self._clock():%Y-%m-%d/%H%M%S-%f}-{self._token}-{self._num_files}.jsonl"
