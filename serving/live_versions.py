"""LiveVersions: the versions that a replica answers with, each an application of its own, swapped while it runs.

A replica looks every second whether there is a newer state of the release. It loads what it lacks beside what answers,
and takes the state once all of it is there; requests that are under way end where they began. So a share changes, and a
version comes or goes, without a restart. A version that cannot be loaded leaves everything as it was.

GET  .../versions          what this replica has, and what it saw
X-Unit: TEXT               of a request: who asks, so that the same version answers as before
X-Version: NAME            of a request: this version is to answer; of an answer: this one did
X-Prediction: ID           of an answer: what feedback may name

What is only read, such as health and the pages of the interface, is the main version's.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import TypeVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.errors import ReleaseError, user_error_in
from serving.exchange import NOT_ASKED, NOTHING_SENT, Copy, Upload, before_shutdown, is_copied, route_of
from serving.experiment import evaluate, loss_of
from serving.measures import REPLICA
from serving.outcomes import Outcome
from serving.predictions import PredictionLog
from serving.problem import problem
from serving.repeating import repeat
from serving.shadow import Shadow
from serving.shares import ShareLog, Shares
from serving.tally import Tally

log = logging.getLogger(__name__)

POLL_S = 1.0
COMPARE_S = 10.0
TRY_AGAIN_S = 30.0
"""After a version could not be loaded: storage may have been away."""
GIVEN_UP_MS = 55_000
"""From here on it was Serve, after a minute, and not the client that ended a request."""
CLIENT_WENT_AWAY = 499
"""The status that nginx gives these; of no standard."""
L = TypeVar("L")
UNIT, VERSION, PREDICTION = "x-unit", "x-version", "x-prediction"
VERSIONS = "/versions"


@dataclass(frozen=True)
class _Refused:
    """Why a version was not taken, and when it may be tried again."""

    why: str
    until: float


@dataclass(frozen=True)
class _Live:
    """What answers now, swapped as a whole: a request must not meet a state and the versions of another one."""

    state: Shares
    apps: Mapping[str, ASGIApp]
    """Of each version of the state."""
    tallies: Mapping[str, Tally]
    shadows: Mapping[str, Shadow] = field(default_factory=dict)


class LiveVersions:
    """An ASGI application that hands each request to one of several."""

    def __init__(
        self,
        load: Callable[[str], ASGIApp],
        log: ShareLog,
        deployed: str,
        shadow: Callable[[str], Shadow],
        predictions: PredictionLog | None = None,
        outcomes: Callable[[Shares], Iterable[Outcome]] = lambda state: (),
    ) -> None:
        """Load what the newest state names; where that fails, the deployed version alone.

        Args:
            load: makes the application of a version; raises UserError where it cannot be served.
            shadow: starts a version that shadows.
            predictions: keeps the answers.
            outcomes: what came of answers since a state began; may take minutes. Asked where a guardrail wants it.
        """
        self._predictions, self._outcomes = predictions, outcomes
        self._load, self._log, self._deployed, self._shadow = load, log, deployed, shadow
        self._refused: dict[str, _Refused] = {}
        alone = Shares(deployed=deployed, shares={deployed: 1.0})
        self._live = _Live(alone, {deployed: load(deployed)}, {deployed: Tally()})
        self.refresh()

    def follow(self) -> None:
        """Look for newer states and what came of answers from now on, in threads that live as long as the process."""
        repeat(self.refresh, POLL_S, "reading the release")
        repeat(self.compare, COMPARE_S, "comparing what came of answers")

    def refresh(self) -> None:
        """Take the newest state, once all of its versions are loaded, and roll back what broke a guardrail."""
        newest, live = self._log.newest(self._deployed), self._live
        is_other = (newest.number, newest.shares, newest.shadows) != (
            live.state.number,
            live.state.shares,
            live.state.shadows,
        )
        if is_other or set(newest.shadows) - live.shadows.keys():
            self._take(newest)
        live = self._live
        if self._roll_back(live.state, lambda version: live.tallies[version].breach(live.state.guardrails)):
            self._take(self._log.newest(self._deployed))

    def _take(self, state: Shares) -> None:
        before = self._live
        apps = {version: before.apps.get(version) or self._tried(self._load, version) for version in state.shares}
        loaded = {version: app for version, app in apps.items() if app}
        if len(loaded) < len(apps):
            return
        kept = {version: before.shadows.get(version) or self._tried(self._shadow, version) for version in state.shadows}
        shadows = {version: shadow for version, shadow in kept.items() if shadow}
        tallies = {version: before.tallies.get(version, Tally()) for version in state.shares}
        self._live = _Live(state, loaded, tallies, shadows)
        self._refused = {version: self._refused[version] for version in kept if version not in shadows}
        for version in before.shadows.keys() - shadows.keys():
            before.shadows[version].end()

    def _tried(self, load: Callable[[str], L], version: str) -> L | None:
        """What loads of a version; None where it does not, or did not a moment ago."""
        refused = self._refused.get(version)
        if refused and time.monotonic() < refused.until:
            return None
        try:
            return load(version)
        except Exception as error:  # whatever is wrong with it, the others go on
            known = user_error_in(error)
            self._refused[version] = _Refused(str(known) if known else repr(error), time.monotonic() + TRY_AGAIN_S)
            log.exception("version %s is not taken", version)
            return None

    def compare(self) -> None:
        """Roll back a version whose answers turn out worse than a guardrail allows; `refresh` takes what is written.

        Apart from it, since on a busy storage reading them takes longer than a newer state may wait.
        """
        state = self._live.state
        max_loss = state.guardrails.max_loss
        if max_loss is not None and _on_trial(state):
            found = evaluate(self._outcomes(state), state, state.experiment)
            self._roll_back(state, lambda version: loss_of(found, version, max_loss))

    def _roll_back(self, state: Shares, breach: Callable[[str], str]) -> bool:
        """Write the state without the first version on trial that broke a guardrail; whether there was one."""
        for version in _on_trial(state):
            if why := breach(version):
                try:
                    self._log.add(state.without(version, f"rolled back {version}: {why}"))
                except ReleaseError:
                    log.warning("another replica, or somebody, changed the release first")
                return True
        return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to its version."""
        live = self._live
        if scope["type"] == "lifespan" and self._predictions:
            send = before_shutdown(send, self._predictions.flush)
        if scope["type"] != "http":
            await live.apps[live.state.main](scope, receive, send)
            return
        if route_of(scope) == VERSIONS and scope["method"] == "GET":
            await JSONResponse(self.told())(scope, receive, send)
            return
        version = version_for(live.state, scope["method"], Headers(scope=scope))
        if version not in live.apps:
            detail = f"version '{version[:80]}' does not answer here; {', '.join(live.apps)} do"
            await problem(404, detail)(scope, receive, send)
            return
        status, began, upload = NOTHING_SENT, time.perf_counter(), Upload(receive)
        receive = upload.receive
        copy = Copy(scope, version) if (live.shadows or self._predictions) and is_copied(scope) else None
        if copy and live.shadows:
            receive = copy.receiving(receive)

        async def told(message: Message) -> None:
            nonlocal status
            if copy:
                copy.note(message)
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[VERSION] = version
                if copy and copy.is_json and self._predictions:
                    headers[PREDICTION] = copy.prediction_id
            await send(message)

        def count(came_of_it: int) -> None:
            live.tallies[version].add(came_of_it, 1000 * (time.perf_counter() - began - upload.waited_s))

        try:
            await live.apps[version](scope, receive, told)
        except asyncio.CancelledError:  # its client went away, or waited as long as Serve lets it
            if not upload.is_awaited:
                was_given_up = 1000 * (time.perf_counter() - began) >= GIVEN_UP_MS
                count(504 if was_given_up else CLIENT_WENT_AWAY)
            raise
        except BaseException:
            count(500)
            raise
        if status in NOT_ASKED or (status == NOTHING_SENT and upload.is_awaited):  # by no version
            return
        count(status or CLIENT_WENT_AWAY)
        if copy and (exchange := copy.exchange()):
            for shadow in live.shadows.values():
                shadow.add(exchange)
            if self._predictions and status == HTTPStatus.OK:
                unit = Headers(scope=scope).get(UNIT, "")
                self._predictions.add(copy.prediction_id, version, unit, exchange.path, exchange.answer)

    def told(self) -> dict[str, object]:
        """What this replica has, and what it saw."""
        live = self._live
        seen = {version: asdict(tally.seen()) for version, tally in live.tallies.items()}
        return {
            "replica": REPLICA,
            "release": live.state.model_dump(mode="json"),
            "refused": {version: refused.why for version, refused in self._refused.items()},
            "seen": seen,
            "shadows": {version: shadow.told() for version, shadow in live.shadows.items()},
        }


def _on_trial(state: Shares) -> list[str]:
    return [version for version, share in list(state.shares.items())[1:] if share]


def version_for(state: Shares, method: str, headers: Mapping[str, str]) -> str:
    """The version that a request asks for, or is dealt."""
    if VERSION in headers:
        return headers[VERSION]
    if method == "GET" or len(state.shares) == 1:
        return state.main
    return state.version_of(headers[UNIT]) if UNIT in headers else state.version_at(random.random())
