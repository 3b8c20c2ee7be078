"""Exchange: a request with its answer, copied as it passes."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from starlette.types import Message, Receive, Scope, Send

NEVER_COPIED = ("/feedback",)
"""What would be a second event."""
NOT_ASKED = (404, 405, 408, 413)
"""Answered before a route of the application took the request."""
NOTHING_SENT = 0
"""The status of a request that is not answered yet; one that ends so has lost its client."""
MAX_COPIED_BYTES = 8 * 2**20
"""Of a body, and of an answer; of longer ones no copy is kept."""


@dataclass(frozen=True)
class Exchange:
    """What was asked, and how it was answered."""

    path: str
    query: bytes
    content_type: bytes
    body: bytes
    version: str
    status: int
    answer: bytes

    @property
    def num_bytes(self) -> int:
        """That it takes."""
        return len(self.body) + len(self.answer)


@dataclass
class Copy:
    """What is kept of a request while it is answered."""

    scope: Scope
    version: str
    prediction_id: str = field(default_factory=lambda: uuid4().hex)
    body: bytearray = field(default_factory=bytearray)
    answer: bytearray = field(default_factory=bytearray)
    status: int = 0
    is_json: bool = False
    is_whole: bool = True

    def receiving(self, receive: Receive) -> Receive:
        """`receive` that keeps what it gives."""

        async def kept() -> Message:
            message = await receive()
            self._keep(self.body, message.get("body", b""))
            return message

        return kept

    def note(self, message: Message) -> None:
        """Keep what is sent."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.is_json = any(
                name.lower() == b"content-type" and b"json" in value for name, value in message.get("headers", ())
            )
        elif self.is_json:
            self._keep(self.answer, message.get("body", b""))

    def _keep(self, kept: bytearray, piece: bytes) -> None:
        if len(kept) + len(piece) > MAX_COPIED_BYTES:
            self.is_whole = False
            self.body.clear()
            self.answer.clear()
        if self.is_whole:
            kept += piece

    def exchange(self) -> Exchange | None:
        """What was asked and answered; None where the answer is no JSON, such as a stream, or too long to be kept."""
        if not self.is_json or not self.is_whole or self.status in NOT_ASKED:
            return None
        content_type = dict(self.scope["headers"]).get(b"content-type", b"")
        path, query = route_of(self.scope), self.scope.get("query_string", b"")
        return Exchange(path, query, content_type, bytes(self.body), self.version, self.status, bytes(self.answer))


@dataclass
class Upload:
    """The body of a request while it arrives: as long as it is waited for its client takes the time, and no version."""

    given: Receive
    waited_s: float = 0.0
    is_awaited: bool = False
    is_there: bool = False

    async def receive(self) -> Message:
        """The next message."""
        if self.is_there:
            return await self.given()
        self.is_awaited, began = True, time.perf_counter()
        try:
            message = await self.given()
        finally:
            self.waited_s += time.perf_counter() - began
        if message["type"] == "http.request" and not message.get("more_body", False):
            self.is_awaited, self.is_there = False, True
        return message


def is_copied(scope: Scope) -> bool:
    """Whether a request asks for an answer, which may be kept and asked again."""
    return scope["method"] == "POST" and route_of(scope) not in NEVER_COPIED


def route_of(scope: Scope) -> str:
    """The path of a request below that of its application."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def before_shutdown(send: Send, flush: Callable[[], None]) -> Send:
    """`send` of a lifespan that flushes before it says that all is shut down."""

    async def flushing(message: Message) -> None:
        if message["type"] == "lifespan.shutdown.complete":
            await asyncio.to_thread(flush)
        await send(message)

    return flushing
