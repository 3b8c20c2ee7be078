"""What a request must pass before an application sees it; pure ASGI, so it costs microseconds."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.problem import problem

MAX_DISCARDED_BYTES = 64 * 2**20


class BodyLimit:
    """Refuses a body above `max_bytes` with 413, by its Content-Length or by counting what arrives."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with its whole body at hand, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        size = 0
        more = True
        while more and size <= MAX_DISCARDED_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= self.max_bytes:
                body += chunk
            else:
                # Read on and discard: a client that is still sending does not look at the answer.
                body.clear()
            more = message.get("more_body", False)
        if size > self.max_bytes:
            detail = f"the body is larger than the {self.max_bytes} bytes that this service takes"
            await problem(413, detail)(scope, receive, send)
            return
        await self.app(scope, _replay(bytes(body), receive), send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the whole body first."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
