"""A trained version of the loans of `jobs/specs/tabular.yaml`, served by a cluster of its own, and requests to it."""

import http.client
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig
from starlette.types import ASGIApp

from benchmarks.process_tree import tree
from benchmarks.trained import trained
from cluster.environment import free_ports
from cluster.lifecycle import connected
from cluster.processes import command
from cluster.registry import Registry
from cluster.spec import dump
from cluster.storage import MANIFEST, Storage
from jobs import examples, prepare
from jobs.spec import RingSpec, load_ring
from serving import predict
from serving.app import address_of, remove, stop_if_idle
from serving.endpoint import serving_version
from serving.release import ReleaseSpec

SPEC = Path(__file__).parents[1] / "jobs/specs/tabular.yaml"
TRIES, FIRST_PAUSE_S = 8, 0.1
Load = Callable[[RingSpec, Storage, str, str], ASGIApp]


@dataclass(frozen=True)
class Loans:
    folder: Path
    spec: RingSpec
    storage: Storage
    registry: Registry
    old: str
    """The version that is deployed."""
    body: bytes
    """Of a request for one row."""

    @property
    def address(self) -> str:
        return address_of(self.spec)

    def another(self, run: str) -> str:
        """A version with the same content."""
        with TemporaryDirectory() as scratch, self.registry.open(self.old) as folder:
            shutil.copytree(folder, Path(scratch) / "copy", ignore=shutil.ignore_patterns(MANIFEST))
            return self.registry.publish(Path(scratch) / "copy", {"run": run, "key": run})

    def release(self, *versions: dict[str, Any], **settings: Any) -> ReleaseSpec:
        return ReleaseSpec.model_validate(
            {"spec": str(self.folder / "ring.yaml"), "versions": tuple(versions), **settings}
        )


def prepared(folder: Path, **serving: Any) -> Loans:
    """What is to be served; nothing runs yet."""
    storage = Storage(str(folder / "storage"))
    examples.main(["tabular", storage.uri])
    (port,) = free_ports(0)
    spec = load_ring(SPEC, [f"storage={storage.uri}", "layout={}", "train.num_epochs=3", f"serving.port={port}"])
    spec = with_serving(spec, num_replicas=2, **serving)
    prepare.run(spec, storage)
    trained(spec, storage)
    registry = Registry(storage, spec.name)
    old = registry.versions()[-1]
    registry.promote(old)
    (folder / "ring.yaml").write_text(dump(spec))
    with registry.open(old) as version:
        golden = pq.read_table(version / "golden.parquet").to_pylist()[0]
    columns = (*spec.workload.numeric, *spec.workload.categorical)  # type: ignore[union-attr]
    body = json.dumps({"rows": [{name: golden[name] for name in columns}]}).encode()
    return Loans(folder, spec, storage, registry, old, body)


def with_serving(spec: RingSpec, **changed: Any) -> RingSpec:
    return spec.model_copy(update={"serving": spec.serving.model_copy(update=changed)})


@contextmanager
def served(loans: Loans, load: Load = predict.load) -> Iterator[None]:
    """Serve it in a cluster of its own, as `serving.app` does; `load` makes the application of a version."""
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    with connected():
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=loans.spec.serving.port), logging_config=quiet)
        name = loans.spec.name
        application = serving_version(loans.spec, loans.storage, load)
        serve.run(application, name=name, route_prefix=f"/{name}", logging_config=quiet)
        try:
            yield
        finally:
            remove(name)
            stop_if_idle()


def kill(words: str) -> None:
    """End one process of this run's cluster, by what its command line begins with or has in it."""
    found = [one.pid for one in tree(os.getpid()) if words in " ".join(command(one))]
    assert found, f"no process of '{words}'"
    os.kill(max(found), signal.SIGKILL)


@dataclass
class Clients:
    """Requests of several connections, until they are told to stop; one that fails is sent again."""

    address: str
    body: bytes
    num_connections: int
    pause_s: float
    """Between an answer and the next request of a connection."""
    seconds: list[float] = field(default_factory=list)
    """Of each request to its answer, tries included."""
    num_failed: int = 0
    """Whose first try got no answer, or another status than 200."""
    num_lost: int = 0
    """That no try answered."""
    tries: Counter[str] = field(default_factory=Counter)
    """By the version that answered; by the fault where none did."""
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Clients":
        self.threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.num_connections)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _ask(self) -> None:
        parts = urlsplit(self.address)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
        while not self.over.is_set():
            began = time.perf_counter()
            for number in range(TRIES):
                if self._try(connection, parts.path):
                    break
                self.num_failed += number == 0
                time.sleep(FIRST_PAUSE_S * 2**number)
            else:
                self.num_lost += 1
            self.seconds.append(time.perf_counter() - began)
            time.sleep(self.pause_s)

    def _try(self, connection: http.client.HTTPConnection, path: str) -> bool:
        try:
            connection.request("POST", f"{path}/predict", self.body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self.tries[type(error).__name__] += 1
            return False
        self.tries[answer.headers.get("x-version", "no version")] += 1
        return answer.status == 200
