"""What a request must pass before an application sees it; pure ASGI, so it costs microseconds."""

import asyncio
import logging
import math
import time
from base64 import b64decode

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.exchange import NOTHING_SENT, before_shutdown, route_of
from serving.key_ring import KeyRing
from serving.keys import Key
from serving.limiter import LimitsError
from serving.limits import Stock
from serving.live_versions import VERSION, VERSIONS
from serving.problem import problem
from serving.usage import UsageLog, Use

log = logging.getLogger(__name__)

BODY_WITHIN_S = 30.0
MAX_DISCARDED_BYTES = 64 * 2**20
"""Of a body that did not say how large it is, and is too large."""
OPEN_PATH = "/health"
"""What balancers ask without a key."""
PAGES = ("/docs", "/openapi.json", "/static-offline-docs/")
"""What any key may read."""
SCOPE_OF_PATH = {"/feedback": "feedback", VERSIONS: "operate", "/drift": "operate"}
TENANT = "rayline.tenant"
"""Of a request's scope: who shows the key."""
HOW = "show a key: Authorization: Bearer KEY, or X-API-Key: KEY"


class Guard:
    """Lets a request pass that shows a key with the scope it needs, and of whose tenant no limit is reached.

    `GET /health` passes without. A browser may show the key as the password of HTTP's Basic scheme.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, stock: Stock, usage: UsageLog) -> None:
        self._app, self._keys, self._stock, self._usage = app, keys, stock, usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, or answer it here; either way it is counted."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, before_shutdown(send, self._usage.flush))
            return
        path, headers = route_of(scope), Headers(scope=scope)
        is_open = scope["type"] != "http" or (path == OPEN_PATH and scope["method"] == "GET" and VERSION not in headers)
        if is_open:
            await self._app(scope, receive, send)
            return
        key = await self._keys.key(text) if (text := key_in(headers)) else None
        refusal = refused(key, bool(text), path, headers) or (await self._limited(key) if key else None)
        use = Use(key.tenant if key else "", key.key_id if key else "")
        scope[TENANT] = use.tenant
        if refusal:
            use.num_refused = 1
            self._usage.add(use)
            await refusal(scope, receive, send)
            return
        await self._counted(use, scope, receive, send)

    async def _limited(self, key: Key) -> Response | None:
        limits = self._keys.limits(key.tenant)
        if not limits.exist:
            return None
        try:
            granted = await self._stock.spend(key.tenant, limits)
        except LimitsError as error:
            log.error("%s", error)
            return problem(503, "the service cannot do this now; try again later", headers={"Retry-After": "1"})
        if granted.num_requests:
            return None
        retry = {"Retry-After": str(math.ceil(granted.wait_s))}
        return problem(429, f"'{key.tenant}' may ask {granted.rule}", headers=retry)

    async def _counted(self, use: Use, scope: Scope, receive: Receive, send: Send) -> None:
        use.num_requests, status, began = 1, NOTHING_SENT, time.perf_counter()

        async def counted_receive() -> Message:
            message = await receive()
            use.bytes_in += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            use.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        except Exception:
            status = status or 500
            raise
        finally:  # a request that ends without an answer has lost its client, which is no fault of the service
            use.num_failed = int(status >= 500)
            use.seconds = time.perf_counter() - began
            self._usage.add(use)


def key_in(headers: Headers) -> str:
    """The key that a request shows, empty where it shows none."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return given.strip()
    if kind.lower() == "basic":
        try:
            return b64decode(given, validate=True).decode().partition(":")[2]
        except ValueError:  # no base64, or no UTF-8 in it
            return ""
    return headers.get("x-api-key", "")


def refused(key: Key | None, was_shown: bool, path: str, headers: Headers) -> Response | None:
    """The answer to a request whose key does not do; None where it does."""
    challenge = {"WWW-Authenticate": 'Bearer, Basic realm="a key as the password"'}
    if key is None:
        detail = f"this key is unknown or revoked; {HOW}" if was_shown else HOW
        return problem(401, detail, headers=challenge)
    if key.has_expired():
        return problem(401, f"this key expired at {key.expires_at}; ask for another one", headers=challenge)
    if path.startswith(PAGES):
        return None
    needed = {SCOPE_OF_PATH.get(path, "predict")} | ({"operate"} if VERSION in headers else set())
    lacking = sorted(needed.difference(key.scopes))
    if lacking:
        return problem(403, f"this key has scopes {', '.join(key.scopes)}, and lacks {', '.join(lacking)}")
    return None


class BodyLimit:
    """Refuses a body above `max_bytes` with 413, by its Content-Length or by counting what arrives, and one that does
    not arrive in time with 408.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, within_s: float = BODY_WITHIN_S) -> None:
        self.app = app
        self.max_bytes, self.within_s = max_bytes, within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with its whole body at hand, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if declared_bytes(Headers(scope=scope)) > self.max_bytes:
            await self._too_large()(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.within_s):
                found = await self._whole(receive)
        except TimeoutError:
            await problem(408, f"the body did not arrive within {self.within_s:g} s")(scope, receive, send)
            return
        if found is None:
            return
        body, size = found
        if size > self.max_bytes:
            await self._too_large()(scope, receive, send)
            return
        await self.app(scope, _replay(body, receive), send)

    def _too_large(self) -> Response:
        return problem(413, f"the body is larger than the {self.max_bytes} bytes that this service takes")

    async def _whole(self, receive: Receive) -> tuple[bytes, int] | None:
        """The body, empty where it is too large, and its size; None where the client went away."""
        body, size, more = bytearray(), 0, True
        while more and size <= max(self.max_bytes, MAX_DISCARDED_BYTES):
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= self.max_bytes:
                body += chunk
            else:
                # Read on and discard: a client that is still sending does not look at the answer.
                body.clear()
            more = message.get("more_body", False)
        return bytes(body), size


def declared_bytes(headers: Headers) -> int:
    """The size that a request says its body has; 0 where it says none, or nothing that is a number."""
    try:
        return int(headers.get("content-length", "0"))
    except ValueError:
        return 0


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
