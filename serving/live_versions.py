"""LiveVersions: the versions that a replica answers with, each an application of its own, swapped while it runs.

A replica looks every second whether there is a newer state of the release. It loads what it lacks beside what answers,
and takes the state once all of it is there; requests that are under way end where they began. So a share changes, and a
version comes or goes, without a restart. A version that cannot be loaded leaves everything as it was.

GET  .../versions          what this replica has, and what it saw
X-Unit: TEXT               of a request: who asks, so that the same version answers as before
X-Version: NAME            of a request: this version is to answer; of an answer: this one did

What is only read, such as health and the pages of the interface, is the main version's.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.errors import ReleaseError, UserError
from serving.problem import problem
from serving.shares import ShareLog, Shares
from serving.tally import Tally

log = logging.getLogger(__name__)

POLL_S = 1.0
UNIT, VERSION = "x-unit", "x-version"
VERSIONS = "/versions"


class LiveVersions:
    """An ASGI application that hands each request to one of several."""

    def __init__(self, load: Callable[[str], ASGIApp], log: ShareLog, deployed: str) -> None:
        """Load what the newest state names; where that fails, the deployed version alone.

        Args:
            load: makes the application of a version; raises UserError where it cannot be served.
        """
        self._load, self._log, self._deployed = load, log, deployed
        self._replica = uuid4().hex[:8]
        self._refused: dict[str, str] = {}
        self._state = Shares(deployed=deployed, shares={deployed: 1.0})
        self._apps = {deployed: load(deployed)}
        self._tallies = {deployed: Tally()}
        self.refresh()

    def follow(self) -> None:
        """Look for newer states from now on, in a thread that lives as long as the process."""
        threading.Thread(target=self._follow, name="release", daemon=True).start()

    def _follow(self) -> None:
        while True:
            time.sleep(POLL_S)
            try:
                self.refresh()
            except Exception:  # storage may be away for a while: what is loaded goes on
                log.exception("the state of the release cannot be read")

    def refresh(self) -> None:
        """Take the newest state, once all of its versions are loaded, and roll back what broke a guardrail."""
        newest = self._log.newest(self._deployed)
        if newest.number != self._state.number or newest.shares != self._state.shares:
            self._take(newest)
        self._guard()

    def _take(self, state: Shares) -> None:
        apps = dict(self._apps)
        for version in state.shares.keys() - apps.keys():
            if version in self._refused:
                return
            try:
                apps[version] = self._load(version)
            except UserError as error:
                self._refused[version] = str(error)
                log.error("version %s is not taken: %s", version, error)
                return
        self._apps = {version: apps[version] for version in state.shares}
        self._tallies = {version: self._tallies.get(version, Tally()) for version in state.shares}
        self._refused = {}
        self._state = state

    def _guard(self) -> None:
        state = self._state
        for version in list(state.shares)[1:]:
            breach = self._tallies[version].breach(state.guardrails) if state.shares[version] else ""
            if breach:
                try:
                    self._log.add(state.without(version, f"rolled back {version}: {breach}"))
                except ReleaseError:
                    log.warning("another replica, or somebody, changed the release first")
                self._take(self._log.newest(self._deployed))
                return

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to its version."""
        if scope["type"] != "http":
            await self._apps[self._state.main](scope, receive, send)
            return
        if scope["path"].removeprefix(scope.get("root_path", "")) == VERSIONS and scope["method"] == "GET":
            await JSONResponse(self.told())(scope, receive, send)
            return
        state, apps, tallies = self._state, self._apps, self._tallies
        headers = Headers(scope=scope)
        version = headers.get(VERSION)
        if version is None:
            version = state.main if scope["method"] == "GET" else self._version_for(state, headers.get(UNIT))
        if version not in apps:
            detail = f"version '{version[:80]}' does not answer here; {', '.join(apps)} do"
            await problem(404, detail)(scope, receive, send)
            return
        await self._answer(apps[version], version, tallies[version], scope, receive, send)

    def _version_for(self, state: Shares, unit: str | None) -> str:
        if len(state.shares) == 1:
            return state.main
        return state.version_at(random.random()) if unit is None else state.version_of(unit)

    async def _answer(
        self, app: ASGIApp, version: str, tally: Tally, scope: Scope, receive: Receive, send: Send
    ) -> None:
        status, began = 500, time.perf_counter()

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[VERSION] = version
            await send(message)

        try:
            await app(scope, receive, told)
        finally:
            tally.add(status, 1000 * (time.perf_counter() - began))

    def told(self) -> dict[str, object]:
        """What this replica has, and what it saw."""
        state = self._state
        seen = {version: asdict(tally.seen()) for version, tally in dict(self._tallies).items()}
        return {
            "replica": self._replica,
            "release": state.model_dump(mode="json"),
            "refused": dict(self._refused),
            "seen": seen,
        }
