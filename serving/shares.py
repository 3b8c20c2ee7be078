"""Shares: which versions of an application answer which part of its requests, and the log that replicas follow.

releases/<name>/<number>.json    one state each, never changed; the newest holds

A state stands on top of the version that was deployed: after another one is deployed it holds no longer.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import Field

from cluster.errors import ReleaseError
from cluster.spec import Spec
from cluster.storage import Storage

WINDOW = 500
"""Requests to a version that guardrails are measured over, the last ones."""


class Guardrails(Spec):
    """What a version on trial must keep to, measured by each replica over its last requests; None asks nothing."""

    max_error_rate: float | None = Field(None, ge=0, le=1)
    """Share of requests that fail by the service's fault (status 500 and above)."""
    max_p95_ms: float | None = Field(None, gt=0)
    """Of the time to the end of an answer, less what was waited for the body, the 95th percentile."""
    min_requests: int = Field(50, ge=1, le=WINDOW)
    """Fewer say nothing."""
    max_loss: float | None = Field(None, ge=0)
    """Of a user's mean outcome against the main version's: more, once it is clear as `experiment` asks, is too much."""


class ExperimentSpec(Spec):
    """What is asked of a comparison."""

    expected_effect: float = Field(0.1, gt=0)
    """Of a user's mean outcome (a rating; 1 for right, 0 for wrong): the size of effect that is to be found soonest."""
    level: float = Field(0.05, gt=0, lt=1)
    """Of false alarms, however often one looks."""
    min_users: int = Field(100, ge=2)
    """Of each version; fewer say nothing."""


class Shares(Spec):
    """One state."""

    deployed: str
    """The version that Serve was given."""
    shares: dict[str, float]
    """Of each version, adding up to 1; the first, the main one, takes what a version that is rolled back had."""
    shadows: tuple[str, ...] = ()
    """Versions that are asked what was answered; nobody gets their answers."""
    number: int = 0
    salt: str = ""
    """Of the hash that gives a unit its version; another one deals anew."""
    guardrails: Guardrails = Guardrails()
    experiment: ExperimentSpec = ExperimentSpec()
    why: str = ""
    made_at: str = ""

    @property
    def main(self) -> str:
        """The version that the others are compared with."""
        return next(iter(self.shares))

    def version_at(self, place: float) -> str:
        """The version of a place from 0 to 1: the main one has the upper end, so that growing moves nobody back."""
        end = 0.0
        for version, share in reversed(self.shares.items()):
            end += share
            if place < end and share:
                return version
        return self.main

    def version_of(self, unit: str) -> str:
        """The version of a user, a session or whatever else is to meet one version only; by a salted hash."""
        digest = hashlib.sha256(f"{self.salt}\0{unit}".encode()).digest()
        return self.version_at(int.from_bytes(digest[:8], "big") / 2**64)

    def without(self, version: str, why: str) -> "Shares":
        """The next state, in which the main version has what another one had."""
        shares = {name: share for name, share in self.shares.items() if name != version}
        shares[self.main] += self.shares[version]
        return self.next(shares, why)

    def again(self, after: "Shares", why: str) -> "Shares":
        """The next state after another one, with all that this one says."""
        return self.model_copy(update={"number": after.number + 1, "why": why, "made_at": now()})

    def alone(self, version: str, why: str) -> "Shares":
        """The state after this one, with one version and no shadow."""
        return self.next({version: 1.0}, why).model_copy(update={"shadows": ()})

    def next(self, shares: dict[str, float], why: str) -> "Shares":
        """The state after this one; a version that gets a share is a shadow no longer."""
        shadows = tuple(name for name in self.shadows if name not in shares)
        made = {"shares": shares, "shadows": shadows, "number": self.number + 1, "why": why, "made_at": now()}
        return self.model_copy(update=made)


def now() -> str:
    """The moment, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class ShareLog:
    """All states of one application in one storage."""

    storage: Storage
    name: str

    @property
    def _folder(self) -> str:
        return f"releases/{self.name}"

    def newest(self, deployed: str) -> Shares:
        """The state that holds for an application with this version deployed: all for it, where nothing was said."""
        paths = self._paths()
        newest = self._read(paths[-1]) if paths else None  # every replica asks each second: no other one is read
        if newest and newest.deployed == deployed:
            return newest
        return Shares(deployed=deployed, shares={deployed: 1.0}, number=newest.number if newest else 0)

    def history(self) -> list[Shares]:
        """Every state, oldest first."""
        return [self._read(path) for path in self._paths()]

    def _paths(self) -> list[str]:
        if not self.storage.exists(self._folder):
            return []
        return [str(info.path) for info in self.storage.files(self._folder)]

    def add(self, state: Shares) -> None:
        """Make a state the newest.

        Raises:
            ReleaseError: another one of its number is there: somebody else was first.
        """
        try:
            self.storage.create(f"{self._folder}/{state.number:08d}.json", state.model_dump_json(indent=1).encode())
        except FileExistsError:
            raise ReleaseError(
                f"release {state.number} of '{self.name}' was made meanwhile by somebody else, or by a guardrail; look "
                "at it first: python -m serving.release status RELEASE"
            ) from None

    def _read(self, path: str) -> Shares:
        with self.storage.open(path) as file:
            return Shares.model_validate_json(file.read())
