"""Serve a version over HTTP until Ctrl-C.

    python -m serving.app SPEC [key=value ...] [--plan] [--once]

`--plan` prints what it would do; `--once` asks the running application three questions, prints the answers and ends.
"""

import json
import logging
import signal
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from types import FrameType
from typing import Any, Protocol

from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig
from starlette.types import ASGIApp

from cluster.command import run as run_command
from cluster.errors import ClusterError
from cluster.lifecycle import connected
from cluster.registry import Registry
from cluster.reservation import inventory
from cluster.storage import Storage
from jobs.spec import RingSpec, load_ring
from serving import images, language, predict, recommender, tagging
from serving.ask import REQUEST_TIMEOUT_S, Question, answers_expected, ask
from serving.edge import edge, why_taken
from serving.keys import operator_headers
from serving.limiter import end_limits
from serving.release_id import release_ids
from serving.replica_device import check_gpus
from serving.shares import ShareLog

REACHABLE_WITHIN_S = 120.0


class Application(Protocol):
    """What serving asks of an application; a module of this package answers it with functions."""

    def build(self, spec: RingSpec, storage: Storage, /) -> serve.Application:
        """The Serve application of `spec.serving.version`; raises RegistryError before anything is started."""

    def load(self, spec: RingSpec, storage: Storage, version: str, release: str, /) -> ASGIApp:
        """The application of a version, whose health names the release; raises RegistryError where it is damaged."""

    def questions(self, spec: RingSpec, storage: Storage, /) -> Sequence[Question]:
        """A few that show what it can do, the second one worth trying by hand."""

    def golden(self, spec: RingSpec, storage: Storage, /) -> Sequence[Question]:
        """What `spec.serving.version` is asked before it takes traffic; it has one answer."""


APPLICATIONS: dict[str, Application] = {
    "language": language,
    "recommender": recommender,
    "tabular": predict,
    "text": predict,
    "tagging": tagging,
    "vision": predict,
    "gan": images,
}
"""By the kind of workload, each of which has one."""


def deploy(spec: RingSpec, storage: Storage) -> str:
    """Start or replace the application `spec.name` in the connected cluster, and return its address once it answers.

    Raises:
        RegistryError: the version cannot be served; what was serving before goes on.
        ClusterError: the port is taken, no node has the GPUs, or the application does not come up.
    """
    check_gpus(spec.serving, inventory())
    application = APPLICATIONS[spec.workload.kind].build(spec, storage)
    before = serve.status()
    if before.proxies:
        check_answers(_origin(spec))
    else:
        check_free(spec.serving.host, spec.serving.port)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(http_options=_http_options(spec), logging_config=quiet)
    _end_release(spec, storage)
    try:
        serve.run(application, name=spec.name, route_prefix=f"/{spec.name}", logging_config=quiet)
        _wait_until_reachable(address_of(spec))
    except BaseException as error:  # Ctrl-C too
        reason = _last_words(spec.name) or str(error)
        if spec.name not in before.applications:  # else its earlier replicas may still answer
            remove(spec.name)
            stop_if_idle()
        if isinstance(error, RuntimeError):
            raise ClusterError(f"application '{spec.name}' did not start: {reason}") from error
        raise
    return address_of(spec)


def _end_release(spec: RingSpec, storage: Storage) -> None:
    """Let the version that is deployed answer everything, whatever a release of it gave to others before."""
    version, share_log = Registry(storage, spec.name).resolve(spec.serving.version), ShareLog(storage, spec.name)
    state = share_log.newest(version)
    if state.shares != {version: 1.0} or state.shadows:
        share_log.add(state.alone(version, f"deployed {version}"))


def remove(name: str) -> None:
    """Remove an application once it has answered what it was asked."""
    if name in serve.status().applications:
        serve.delete(name)
    end_limits(name)


def stop_if_idle() -> None:
    """Stop Serve itself where it has no application left; only then can it start on another port."""
    if not serve.status().applications:
        serve.shutdown()


def check_free(host: str, port: int) -> None:
    """Raise ClusterError if something listens on the port; Serve would share it, and lose half of the requests."""
    if why := why_taken(host, port):
        raise ClusterError(f"port {port} of {host} cannot be used: {why}. Give another one: serving.port={port + 1}")


def check_answers(origin: str) -> None:
    """Raise ClusterError unless the Serve that runs already is the one at `origin`."""
    try:
        ask(origin, Question("routes", "/-/routes"))
    except OSError as error:
        raise ClusterError(
            f"this cluster serves already, but not at {origin} ({error}), and Serve keeps the host and port it started "
            "with. Give those as serving.host and serving.port, or remove its applications first: serve shutdown"
        ) from None


@dataclass(frozen=True)
class Served:
    """What the stage leaves behind: an application that answers."""

    address: str
    version: str
    is_new: bool
    """Whether this call deployed it; else the same release answered already."""


def run(spec: RingSpec, storage: Storage) -> Served:
    """The stage: serve the version, unless it is answered by the same settings and code already.

    Raises:
        RegistryError: the version cannot be served; what was serving before goes on.
        ClusterError: the port is taken, or the application does not come up.
    """
    version = Registry(storage, spec.name).resolve(spec.serving.version)
    if _answering_release(spec) == release_ids(spec)(version):
        return Served(address_of(spec), version, is_new=False)
    return Served(deploy(spec, storage), version, is_new=True)


def _answering_release(spec: RingSpec) -> str | None:
    """The release of the application that runs in the connected cluster, if it does."""
    if spec.name not in serve.status().applications:
        return None
    try:
        status, health = ask(address_of(spec), Question("health", "/health"))
    except OSError:
        return None
    return str(health["release"]) if status == HTTPStatus.OK else None


def main(arguments: Sequence[str]) -> int:
    """Serve what the command line names."""
    options = _parse(arguments)
    spec = load_ring(options.spec, options.overrides)
    storage = Storage(spec.storage)
    application = APPLICATIONS[spec.workload.kind]
    if options.plan:
        print(_plan(spec, storage))
        return 0
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    questions = application.questions(spec, storage)  # also finds a bad version, at once
    storage.check_shared()
    with connected() as cluster, _stop_signals(), ExitStack() as stack:
        served = run(spec, storage)
        try:
            if spec.serving.tls:
                stack.enter_context(edge(spec.serving.tls, spec.serving.port))
                print(f"HTTPS is spoken at port {spec.serving.tls.port}, from there on HTTP", flush=True)
            _show(spec, served.address, questions[1])
            if options.once:
                with operator_headers(spec, storage) as headers:
                    _ask_all(served.address, questions, headers)
            else:
                _wait_for_stop()
        finally:
            if served.is_new:
                remove(spec.name)
                if not cluster.is_embedded:
                    stop_if_idle()
    return 0


def _parse(arguments: Sequence[str]) -> Any:
    parser = ArgumentParser("python -m serving.app", description="Serve a version over HTTP until Ctrl-C.")
    parser.add_argument("spec", metavar="SPEC", help="the ring's YAML file, for example jobs/specs/recommender.yaml")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="for example serving.port=8001")
    parser.add_argument("--plan", action="store_true", help="print what would be done, and take nothing")
    parser.add_argument("--once", action="store_true", help="ask three questions, print the answers and end")
    return parser.parse_intermixed_args(arguments)


def _plan(spec: RingSpec, storage: Storage) -> str:
    version = Registry(storage, spec.name).resolve(spec.serving.version)
    scale = spec.serving.autoscale
    many = f"{scale.min_replicas} to {scale.max_replicas}" if scale else str(spec.serving.num_replicas)
    replicas = f"{many} replica{'' if many == '1' else 's'}"
    return f"would serve {spec.name} {spec.serving.version} = {version} with {replicas} at {address_of(spec)}"


def _http_options(spec: RingSpec) -> HTTPOptions:
    return HTTPOptions(host=spec.serving.host, port=spec.serving.port, request_timeout_s=REQUEST_TIMEOUT_S)


def _origin(spec: RingSpec) -> str:
    host = "127.0.0.1" if spec.serving.host == "0.0.0.0" else spec.serving.host
    return f"http://{host}:{spec.serving.port}"


def address_of(spec: RingSpec) -> str:
    """Where the application of a spec answers."""
    return f"{_origin(spec)}/{spec.name}"


def _last_words(name: str) -> str:
    """The last line that Serve has on why replicas of the application do not start; the others are a traceback."""
    application = serve.status().applications.get(name)
    messages = [deployment.message.strip() for deployment in application.deployments.values()] if application else []
    return "; ".join(message.splitlines()[-1] for message in messages if message)


def _wait_until_reachable(address: str) -> None:
    """The proxy learns of a new route a moment after its replicas are ready."""
    deadline = time.monotonic() + REACHABLE_WITHIN_S
    while time.monotonic() < deadline:
        try:
            if ask(address, Question("health", "/health"))[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise ClusterError(f"'{address}' does not answer within {REACHABLE_WITHIN_S:g} s though the application runs")


def _show(spec: RingSpec, address: str, example: Question) -> None:
    line = example.curl(address)
    if spec.serving.access == "keys":
        line += " -H 'X-API-Key: KEY'"
        print(f"who has a key may ask; make one: python -m serving.keys {spec.storage} {spec.name} create TENANT")
    print(f"{spec.name} answers at {address}\n  try   {line}\n  docs  {address}/docs", flush=True)


def _ask_all(address: str, questions: Sequence[Question], headers: Mapping[str, str]) -> None:
    for question in questions:
        with answers_expected(address):
            status, answer = ask(address, question, headers=headers)
        print(f"\n{question.title}: {status}\n{json.dumps(answer, indent=2, ensure_ascii=False)}", flush=True)
        if status != 200:
            raise ClusterError(f"the application answered '{question.title}' with {status}; Serve's log says why")


@contextmanager
def _stop_signals() -> Iterator[None]:
    """SIGTERM ends like Ctrl-C, so that what was deployed is removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _wait_for_stop() -> None:
    print("Ctrl-C stops it.", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("stopping", flush=True)


if __name__ == "__main__":
    run_command(main)
