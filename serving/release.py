"""Give the versions of a running application their shares of the traffic, and take them back.

    python -m serving.release plan | apply | status | rollback RELEASE [key=value ...]
    python -m serving.release promote VERSION RELEASE [key=value ...]

RELEASE is a YAML file such as `serving/release.yaml`. `apply` has every replica load what is new, replays golden rows
through HTTP, and only then gives it traffic; nothing restarts. `promote` makes a version the only one and the
champion; `rollback` gives the main version everything, or, where it has that and no shadow, the one before.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from pydantic import Field, model_validator

from cluster.command import run as run_command
from cluster.errors import ClusterError, ReleaseError
from cluster.registry import CHAMPION, Registry
from cluster.spec import Spec, load
from cluster.storage import Storage
from jobs.spec import RingSpec, load_ring
from serving.app import APPLICATIONS, address_of
from serving.ask import Question, answers_expected, ask
from serving.experiment import evaluate
from serving.keys import operator_headers
from serving.live_versions import VERSION, VERSIONS
from serving.outcomes import outcomes_since
from serving.parity import check_parity
from serving.shadow import line_of
from serving.shares import ExperimentSpec, Guardrails, ShareLog, Shares

TAKEN_WITHIN_S = 120.0
"""Time for all replicas to load what is new."""
ASKED_EVERY_S = 0.05
SURE_AFTER = 8
"""Where replicas come and go, they are all known once that many answers a replica brought no new one; one that gave
none of as many is gone."""
GONE = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
"""What Serve's proxy answers for a replica that has ended."""


class VersionSpec(Spec):
    """A version and its part of the traffic."""

    version: str
    """An alias, or its name."""
    share: float = Field(0.0, ge=0, le=1)
    shadow: bool = False
    """Whether it is asked what the others answered; nobody gets its answers."""


class ReleaseSpec(Spec):
    """Who answers what, of one application."""

    spec: str
    """The YAML file of the application's ring."""
    overrides: tuple[str, ...] = ()
    """Of that file: `storage=...`, `serving.port=8001`."""
    versions: tuple[VersionSpec, ...] = Field(min_length=1)
    """The main one first: it takes what a version that is rolled back had."""
    salt: str = ""
    """Of the hash that gives a unit (header X-Unit) its version; another one deals anew."""
    guardrails: Guardrails = Guardrails()
    experiment: ExperimentSpec = ExperimentSpec()
    """What `status` and the guardrail `max_loss` compare versions by."""

    @model_validator(mode="after")
    def _adds_up(self) -> "ReleaseSpec":
        names, total = [one.version for one in self.versions], sum(one.share for one in self.versions)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"shares add up to {total:g}; give such that make 1 together")
        both = [one.version for one in self.versions if one.shadow and one.share]
        if both:
            raise ValueError(f"{', '.join(both)}: a shadow has no share; leave out one of both")
        if len(set(names)) < len(names):
            raise ValueError(f"versions {names} name one twice; give each its share once")
        return self


@dataclass(frozen=True)
class Application:
    """The application that a release is of, as it runs."""

    ring: RingSpec
    storage: Storage
    headers: Mapping[str, str] = field(default_factory=dict)
    """That let its requests pass."""

    @property
    def registry(self) -> Registry:
        """Its versions."""
        return Registry(self.storage, self.ring.name)

    @property
    def log(self) -> ShareLog:
        """The states of its release."""
        return ShareLog(self.storage, self.ring.name)

    def replicas(self, until: Callable[[Mapping[str, Any]], bool] = lambda _: True) -> dict[str, Mapping[str, Any]]:
        """What each replica tells of itself, once `until` holds for all of them.

        Raises:
            ClusterError: nothing answers, or it does not hold within two minutes.
        """
        found: dict[str, Mapping[str, Any]] = {}
        heard_at: dict[str, int] = {}
        deadline, num_answers, num_known = time.monotonic() + TAKEN_WITHIN_S, 0, 0
        while time.monotonic() < deadline:
            with suppress(OSError):  # of a replica that ends just now
                told = self._heard()
                name = str(told["replica"])
                num_answers, num_known = num_answers + 1, num_known + 1 if name in found else 0
                found[name], heard_at[name] = told, num_answers
                sure = SURE_AFTER * len(found)
                found = {name: one for name, one in found.items() if num_answers - heard_at[name] < sure}
                if self._are_all(len(found), num_known) and all(map(until, found.values())):
                    return found
            time.sleep(ASKED_EVERY_S)
        raise ClusterError(
            f"{len(found)} replicas of '{self.ring.name}' were heard, and not all "
            f"have the release within {TAKEN_WITHIN_S:.0f} s; look at Serve's log, then: status, rollback"
        )

    def _are_all(self, num_found: int, num_known: int) -> bool:
        """Whether that many replicas are all, of which the last ones that answered were known."""
        autoscale = self.ring.serving.autoscale
        if autoscale is None:
            return num_found >= self.ring.serving.num_replicas
        return num_found >= autoscale.min_replicas and num_known >= SURE_AFTER * num_found

    def _told(self) -> Mapping[str, Any]:
        with answers_expected(address_of(self.ring)):
            return self._heard()

    def _heard(self) -> Mapping[str, Any]:
        """What the replica tells of itself that happens to answer; OSError where none does."""
        address = address_of(self.ring)
        status, told = ask(address, Question("versions", VERSIONS), headers=self.headers)
        if status in GONE:
            raise ConnectionError(f"{address}{VERSIONS} answers {status}")
        if status != HTTPStatus.OK:
            raise ClusterError(f"{address}{VERSIONS} answers {status}; is that another application, or older code?")
        return dict(told)

    def drift(self, version: str) -> list[str]:
        """For people: the columns of which the rows that one replica was asked clearly lie apart from training."""
        address, asked = address_of(self.ring), Question("drift", "/drift")
        with answers_expected(address):
            status, told = ask(address, asked, headers={**self.headers, VERSION: version})
        if status != HTTPStatus.OK:  # of an application that has no columns
            return []
        clear = [f"{one['column']} {one['index']:.2f}" for one in told["columns"] if one["is_clear"]]
        return [f"  {version}  drifts from its training: {', '.join(clear)} (from 0.25 on is clear)"] if clear else []

    def state(self) -> Shares:
        """What holds now."""
        return self.log.newest(str(self._told()["release"]["deployed"]))

    def change(self, state: Shares) -> None:
        """Make a state hold in every replica.

        Raises:
            ReleaseError: a replica cannot load a version; the state before holds again.
        """
        before = self.state()
        self.log.add(state)
        told = self.replicas(lambda one: one["release"]["number"] >= state.number or bool(_refused(one, state)))
        why = next((_refused(one, state) for one in told.values() if _refused(one, state)), "")
        if why:
            self.log.add(before.again(state, f"not taken: {why}"))
            raise ReleaseError(f"{why}. The traffic stays as it was")


def _refused(told: Mapping[str, Any], state: Shares) -> str:
    asked = {*state.shares, *state.shadows}
    return next((f"{name} is not taken: {why}" for name, why in told["refused"].items() if name in asked), "")


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def application_of(release: ReleaseSpec) -> Application:
    """The application that a release names."""
    ring = load_ring(release.spec, release.overrides)
    return Application(ring, Storage(ring.storage))


@contextmanager
def operated(release: ReleaseSpec) -> Iterator[Application]:
    """The application that a release names, which lets this process ask everything meanwhile."""
    application = application_of(release)
    with operator_headers(application.ring, application.storage) as headers:
        yield replace(application, headers=headers)


def wanted(release: ReleaseSpec, registry: Registry) -> tuple[dict[str, float], tuple[str, ...]]:
    """The share of each version, by its name, and the shadows.

    Raises:
        RegistryError: there is no such version.
        ReleaseError: two aliases stand for one version.
    """
    shares: dict[str, float] = {}
    for one in release.versions:
        name = registry.resolve(one.version)
        if name in shares:
            raise ReleaseError(f"'{one.version}' is version {name}, which has a share already; name another one")
        shares[name] = one.share
    shadows = tuple(registry.resolve(one.version) for one in release.versions if one.shadow)
    return {name: share for name, share in shares.items() if name not in shadows}, shadows


def plan(release: ReleaseSpec) -> str:
    """What `apply` would do."""
    with operated(release) as application:
        (shares, shadows), state = wanted(release, application.registry), application.state()
        lines = [f"release of {application.ring.name} at {address_of(application.ring)}"]
        for name in [*shares, *(name for name in state.shares if name not in shares)]:
            new = "  new: loaded and compared first" if not state.shares.get(name) else ""
            lines.append(f"  {name}  {state.shares.get(name, 0):.1%} -> {shares.get(name, 0):.1%}{new}")
        for name in sorted({*shadows, *state.shadows}):
            lines.append(f"  {name}  shadow: {_yes(name in state.shadows)} -> {_yes(name in shadows)}")
        return "\n".join(lines)


def apply(release: ReleaseSpec) -> str:
    """Give the versions their shares, new ones once they answered their golden rows through HTTP.

    Raises:
        RegistryError: a version is not what was published, or answers unlike it did in training.
        ClusterError: no answer comes; the traffic stays as it was.
        ReleaseError: a replica cannot load it, or answers otherwise; the traffic stays as it was. Or somebody else, or
            a guardrail, changed the release meanwhile; what they made of it stays.
    """
    with operated(release) as application:
        (shares, shadows), before = wanted(release, application.registry), application.state()
        state = before
        settings = {
            "salt": release.salt,
            "guardrails": release.guardrails,
            "experiment": release.experiment,
            "shadows": shadows,
        }
        untried = [name for name in shares if not state.shares.get(name)]
        loaded = {name: _loaded(application, name) for name in untried}
        for name in shadows:
            _loaded(application, name)  # a fault of it is told here
        if untried:
            state = state.next({**state.shares, **dict.fromkeys(untried, 0.0)}, f"try {', '.join(untried)}")
            application.change(state)
            try:
                address = address_of(application.ring)
                with answers_expected(address):
                    for name in untried:
                        check_parity(address, name, *loaded[name], headers=application.headers)
            except (ReleaseError, ClusterError) as error:
                with suppress(ReleaseError):  # what somebody else made of it meanwhile holds
                    application.log.add(before.again(state, f"refused: {error}"))
                raise
        told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        told += "".join(f", {name} as a shadow" for name in shadows)
        application.change(state.next(shares, told).model_copy(update=settings))
        return f"release: {told}"


def _loaded(application: Application, version: str) -> tuple[Any, Sequence[Question]]:
    """The application of a version in this process, and what to ask both."""
    ring = application.ring
    serving = ring.serving.model_copy(update={"version": version})
    one = ring.model_copy(update={"serving": serving})
    kind = APPLICATIONS[ring.workload.kind]
    return kind.load(one, application.storage, version, ""), kind.golden(one, application.storage)


def status(release: ReleaseSpec) -> str:
    """Shares, what was seen of each version, and how it came to that."""
    with operated(release) as application:
        state, told = application.state(), application.replicas()  # in this order, so that a wrong port is told at once
        lines = [f"release {state.number} of {application.ring.name}: {state.why or 'as it was deployed'}"]
        for name, share in state.shares.items():
            seen = [one["seen"][name] for one in told.values() if name in one["seen"]]
            num = sum(each["num_requests"] for each in seen)
            errors = sum(each["error_rate"] * each["num_requests"] for each in seen) / max(num, 1)
            slowest = max((each["p95_ms"] for each in seen), default=0.0)
            lines.append(f"  {name}  {share:.1%}  {num:,} requests, {errors:.1%} failed, p95 {slowest:.1f} ms")
        lines += [line for name, share in state.shares.items() if share for line in application.drift(name)]
        for replica, one in told.items():
            lines += [f"  replica {replica} did not take {name}: {why}" for name, why in one["refused"].items()]
        for name in state.shadows:
            lines.append(line_of(name, [one["shadows"][name] for one in told.values() if name in one["shadows"]]))
        found = evaluate(outcomes_since(application.storage, application.ring.name, state), state, release.experiment)
        if found:
            lines += ["what came of their answers since then:", *found.lines(release.experiment.level)]
        lines += ["how it came to that:"]
        lines += [f"  {old.made_at}  {old.number}: {old.why}" for old in application.log.history()[-10:]]
        return "\n".join(lines)


def promote(release: ReleaseSpec, version: str) -> str:
    """Give a version everything, and make it the champion."""
    with operated(release) as application:
        name, state = application.registry.resolve(version), application.state()
        if not state.shares.get(name):
            have = ", ".join(version for version, share in state.shares.items() if share)
            raise ReleaseError(f"'{version}' has no traffic yet, {have} have; give it a share first: apply")
        application.change(state.alone(name, f"promoted {name}"))
        application.registry.promote(name)
        return f"release: {name} answers everything, and is the champion"


def rollback(release: ReleaseSpec) -> str:
    """Give the main version everything; where it has that already, the main one before it.

    Raises:
        ReleaseError: there is no other one to go back to.
    """
    with operated(release) as application:
        state, registry = application.state(), application.registry
        target = state.main if len(state.shares) > 1 or state.shadows else _main_before(application, state)
        application.change(state.alone(target, f"rolled back to {target} by hand"))
        if registry.aliases().get(CHAMPION, [""])[0] == state.main != target:
            registry.promote(target)
        return f"release: {target} answers everything"


def _main_before(application: Application, state: Shares) -> str:
    mains = main_versions(state, application.log.history())
    if len(mains) == 1:
        raise ReleaseError(
            f"{state.main} was deployed, and nothing answered before it; go back by the registry: python -m "
            "cluster.registry STORAGE NAME rollback, then python -m serving.app SPEC"
        )
    return mains[-2]


def main_versions(state: Shares, history: Sequence[Shares]) -> list[str]:
    """The main version of a state last, before it those that the way back goes through, from the deployed one on.

    One that came back stands where it stood: what followed it was left, and is no way back.
    """
    mains = [state.deployed]
    for name in (old.main for old in history if old.deployed == state.deployed):
        mains = [*mains[: mains.index(name)], name] if name in mains else [*mains, name]
    return mains


COMMANDS: dict[str, Callable[[ReleaseSpec], str]] = {
    "plan": plan,
    "apply": apply,
    "status": status,
    "rollback": rollback,
}


def main(arguments: Sequence[str]) -> int:
    """Run a command from the command line."""
    parser = ArgumentParser("python -m serving.release", description="Give versions their shares of the traffic.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in (*COMMANDS, "promote"):
        command = commands.add_parser(name)
        if name == "promote":
            command.add_argument("version", metavar="VERSION", help="an alias, or its name")
        command.add_argument("release", metavar="RELEASE", help="a YAML file, for example serving/release.yaml")
        command.add_argument("overrides", metavar="key=value", nargs="*", help="replaces one value of RELEASE")
    given = parser.parse_args(arguments)
    release = load(ReleaseSpec, given.release, given.overrides)
    print(promote(release, given.version) if given.command == "promote" else COMMANDS[given.command](release))
    return 0


if __name__ == "__main__":
    run_command(main)
