"""Watched: the outermost of an application's layers: a request's id, its span, its measures and its line in the log.

A line is JSON: {"at": ..., "request_id": ..., "application": ..., "tenant": ..., "version": ..., "method": ...,
"path": ..., "status": ..., "ms": ...}. It stands in the log of the replica's worker, in the session's folder of Ray.
"""

import asyncio
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.access import TENANT
from serving.exchange import NOT_ASKED, NOTHING_SENT, route_of
from serving.live_versions import CLIENT_WENT_AWAY, VERSION
from serving.measures import NO_VERSION, Measures
from serving.traces import request_span

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
"""The client's, or Serve's own where it has none; Serve puts it into the answer, too."""
MAX_ID_CHARACTERS = 128
GAUGES_S = 5.0
OTHER_PATH = "other"
"""Of what no application answered: clients make paths up, and each would be a series of its own."""
Lines = Literal["failures", "all", "none"]


class Watched:
    """Hands every request on, and notes what came of it."""

    def __init__(self, app: ASGIApp, application: str, measures: Measures, lines: Lines) -> None:
        """Args:
        lines: which requests get a line in the log; failures are those of status 500 and above.
        """
        self._app, self._application, self._measures, self._lines = app, application, measures, lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get(REQUEST_ID, "")[:MAX_ID_CHARACTERS] or uuid4().hex
        method, path = scope["method"], route_of(scope)
        status, version, began = NOTHING_SENT, NO_VERSION, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status, version
            if message["type"] == "http.response.start":
                status = message["status"]
                version = Headers(raw=message["headers"]).get(VERSION, NO_VERSION)
            await send(message)

        with request_span(method, path, headers) as span:
            try:
                await self._app(scope, receive, noted)
            except asyncio.CancelledError:
                status = CLIENT_WENT_AWAY
                raise
            except Exception:
                status = status or 500
                raise
            finally:
                status = status or CLIENT_WENT_AWAY
                ms = 1000 * (time.perf_counter() - began)
                span.set_attributes({"http.response.status_code": status, "rayline.version": version})
                was_reached = version != NO_VERSION and status not in NOT_ASKED
                self._measures.request(version, path if was_reached else OTHER_PATH, status, ms)
                if self._lines == "all" or (self._lines == "failures" and status >= 500):
                    self._write(request_id, scope.get(TENANT, ""), version, method, path, status, ms)

    def _write(
        self, request_id: str, tenant: str, version: str, method: str, path: str, status: int, ms: float
    ) -> None:
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "application": self._application,
            "tenant": tenant,
            "version": version,
            "method": method,
            "path": path,
            "status": status,
            "ms": round(ms, 3),
        }
        print(json.dumps(line), file=sys.stderr, flush=True)


def follow(told: Callable[[], Mapping[str, Any]], measures: Measures) -> None:
    """Measure every five seconds what a replica tells of itself, in a thread that lives as long as the process."""

    def measure() -> None:
        seen: set[str] = set()
        while True:
            try:
                found = told()
                shares = found["release"]["shares"]
                measures.shares({**dict.fromkeys(seen, 0.0), **shares})  # what has left is measured as such
                seen.update(shares)
                for version, shadow in found["shadows"].items():
                    measures.shadow(version, shadow)
            except Exception:  # a gauge that stands still must not end the thread
                log.exception("a replica cannot be measured")
            time.sleep(GAUGES_S)

    threading.Thread(target=measure, name="measures", daemon=True).start()
