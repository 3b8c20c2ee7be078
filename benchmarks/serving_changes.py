"""What a change or a kill costs an application under constant requests: how many fail, and how long the slowest takes.

    OMP_NUM_THREADS=1 python -m benchmarks.serving_changes FOLDER

A tabular version with two replicas in a cluster of its own, asked over the loopback by a few connections all the while;
writes the .md beside it. Needs the extra `demo`. A failed request is sent again, up to `TRIES` times with growing
pauses, as a client of an idempotent endpoint would.
"""

import argparse
import http.client
import json
import os
import platform
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq

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
from serving.app import deploy, remove, stop_if_idle
from serving.release import ReleaseSpec, apply, promote

SPEC = Path(__file__).parents[1] / "jobs/specs/tabular.yaml"
NUM_CONNECTIONS = 4
PAUSE_S = 0.02
"""Between an answer and the next request of a connection."""
TRIES, FIRST_PAUSE_S = 8, 0.1
BEFORE_S, AFTER_S = 2.0, 15.0
"""Of requests around a change."""


@dataclass
class Load:
    """Requests of several connections, until it is told to stop."""

    address: str
    body: bytes
    seconds: list[float] = field(default_factory=list)
    """Of each request to its answer, tries included."""
    num_failed: int = 0
    """Whose first try got no answer, or another status than 200."""
    num_lost: int = 0
    """That no try answered."""
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Load":
        self.threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(NUM_CONNECTIONS)]
        for thread in self.threads:
            thread.start()
        time.sleep(BEFORE_S)
        return self

    def __exit__(self, *error: object) -> None:
        time.sleep(AFTER_S)
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
            time.sleep(PAUSE_S)

    def _try(self, connection: http.client.HTTPConnection, path: str) -> bool:
        try:
            connection.request("POST", f"{path}/predict", self.body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return False
        return answer.status == 200


def kill(words: str) -> None:
    """End one process of this run's cluster, by what its command line begins with or has in it."""
    found = [one.pid for one in tree(os.getpid()) if words in " ".join(command(one))]
    assert found, f"no process of '{words}'"
    os.kill(max(found), signal.SIGKILL)


def another(registry: Registry, version: str) -> str:
    """A version with the same content."""
    with TemporaryDirectory() as scratch, registry.open(version) as folder:
        shutil.copytree(folder, Path(scratch) / "copy", ignore=shutil.ignore_patterns(MANIFEST))
        return registry.publish(Path(scratch) / "copy", {"run": "copied", "key": "copy"})


def with_serving(spec: RingSpec, **changed: Any) -> RingSpec:
    return spec.model_copy(update={"serving": spec.serving.model_copy(update=changed)})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    storage = Storage(str(given.folder / "storage"))
    examples.main(["tabular", storage.uri])
    (port,) = free_ports(0)
    spec = load_ring(SPEC, [f"storage={storage.uri}", "layout={}", "train.num_epochs=3", f"serving.port={port}"])
    spec = with_serving(spec, num_replicas=2)
    prepare.run(spec, storage)
    trained(spec, storage)
    registry = Registry(storage, spec.name)
    old = registry.versions()[-1]
    registry.promote(old)
    new = another(registry, old)
    (given.folder / "ring.yaml").write_text(dump(spec))
    with registry.open(old) as folder:
        golden = pq.read_table(folder / "golden.parquet").to_pylist()[0]
    columns = (*spec.workload.numeric, *spec.workload.categorical)  # type: ignore[union-attr]
    body = json.dumps({"rows": [{name: golden[name] for name in columns}]}).encode()

    def shares(share: float) -> ReleaseSpec:
        versions = ({"version": old, "share": 1 - share}, {"version": new, "share": share})
        return ReleaseSpec.model_validate({"spec": str(given.folder / "ring.yaml"), "versions": versions})

    changes: list[tuple[str, Callable[[], object]]] = [
        ("nothing", lambda: None),
        ("another version is loaded, compared and gets 10 %", lambda: apply(shares(0.1))),
        ("its share grows to 60 %", lambda: apply(shares(0.6))),
        ("it gets everything (hot swap)", lambda: promote(shares(0.6), new)),
        (
            "deployed anew with another setting (rolling)",
            lambda: deploy(with_serving(spec, max_body_bytes=9999), storage),
        ),
        ("2 -> 3 replicas", lambda: deploy(with_serving(spec, num_replicas=3), storage)),
        ("3 -> 1 replicas", lambda: deploy(with_serving(spec, num_replicas=1), storage)),
        ("1 -> 2 replicas", lambda: deploy(spec, storage)),
        ("kill -9 of a replica", lambda: kill("ray::ServeReplica")),
        ("kill -9 of the controller", lambda: kill("ray::ServeController")),
        ("kill -9 of the proxy", lambda: kill("haproxy -")),
    ]
    rows = []
    with connected():
        address = deploy(spec, storage)
        try:
            for what, change in changes:
                with Load(address, body) as load:
                    began = time.monotonic()
                    change()
                    took = time.monotonic() - began
                slowest = sorted(load.seconds)[-1]
                rows.append(
                    f"| {what} | {took:.1f} | {len(load.seconds):,} | {load.num_failed} | {load.num_lost} | "
                    f"{1000 * slowest:,.0f} |"
                )
                print(rows[-1], flush=True)
        finally:
            remove(spec.name)
            stop_if_idle()
    Path(__file__).with_suffix(".md").write_text(
        f"""# Changes and kills under constant requests

{NUM_CONNECTIONS} connections, each with a request {1000 * PAUSE_S:.0f} ms after the answer before, from
{BEFORE_S:.0f} s before a change to {AFTER_S:.0f} s after it. `failed` got no answer or another status than 200;
`lost` did so {TRIES} times, with pauses from {FIRST_PAUSE_S} s on that double. The loans of `jobs/specs/tabular.yaml`,
HAProxy before two replicas, in one cluster with all else on {os.cpu_count()} cores, {platform.machine()}.
Made by `python -m benchmarks.serving_changes FOLDER`.

| change | seconds | requests | failed | lost | slowest, ms |
|---|---:|---:|---:|---:|---:|
{chr(10).join(rows)}
"""
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
