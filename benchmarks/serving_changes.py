"""What a change or a kill costs an application under constant requests: how many fail, and how long the slowest takes.

    OMP_NUM_THREADS=1 python -m benchmarks.serving_changes FOLDER

A tabular version with two replicas in a cluster of its own, asked over the loopback by a few connections all the while;
writes the .md beside it. Needs the extra `demo`. A failed request is sent again, up to `TRIES` times with growing
pauses, as a client of an idempotent endpoint would.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.served_loans import FIRST_PAUSE_S, TRIES, Clients, kill, prepared, with_serving
from cluster.lifecycle import connected
from serving.app import deploy, remove, stop_if_idle
from serving.release import ReleaseSpec, apply, promote

NUM_CONNECTIONS = 4
PAUSE_S = 0.02
"""Between an answer and the next request of a connection."""
BEFORE_S, AFTER_S = 2.0, 15.0
"""Of requests around a change."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    loans = prepared(parser.parse_args().folder)
    spec, storage, old, new = loans.spec, loans.storage, loans.old, loans.another("copied")

    def shares(share: float) -> ReleaseSpec:
        return loans.release({"version": old, "share": 1 - share}, {"version": new, "share": share})

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
                with Clients(address, loans.body, NUM_CONNECTIONS, PAUSE_S) as load:
                    time.sleep(BEFORE_S)
                    began = time.monotonic()
                    change()
                    took = time.monotonic() - began
                    time.sleep(AFTER_S)
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
