"""Versions that are bad in their own ways, given a tenth of the traffic under constant requests: what they cost.

    OMP_NUM_THREADS=1 python -m benchmarks.bad_versions FOLDER

The versions are the loans' own, copied; what is wrong with each is planted where a replica loads it: its weights are
damaged, it raises, its answers differ, each takes ten times as long, or half of them fail once the gate is passed.
Writes the .md beside it. Needs the extra `demo`.
"""

import argparse
import asyncio
import os
import platform
import time
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.served_loans import Clients, Loans, prepared, served
from cluster.errors import UserError
from cluster.registry import Registry
from cluster.storage import Storage
from jobs.spec import RingSpec
from serving import predict
from serving.release import application_of, apply, rollback

NUM_CONNECTIONS, PAUSE_S = 4, 0.02
SHARE = 0.1
RAILS = {"max_error_rate": 0.05, "max_p95_ms": 40, "min_requests": 50}
SLOWNESS_S = 0.05
"""Beside some 5 ms."""
PASSES = 30
"""Requests to the golden rows that a version which fails later answers well."""
WATCHED_S = 40.0
FAULTS = ("damaged", "raises as it loads", "answers otherwise", "ten times slower", "half of its answers fail")


def planted(spec: RingSpec, storage: Storage, version: str, release: str) -> ASGIApp:
    """The application of a version, with what its manifest says is wrong."""
    fault = Registry(storage, spec.name).manifest(version)["run"]
    if fault == "raises as it loads":
        raise ValueError("a shape does not fit")
    application = predict.load(spec, storage, version, release)
    num_asked = 0

    async def bad(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal num_asked
        if scope["type"] == "http" and scope["method"] == "POST":
            num_asked += 1
            if fault == "ten times slower":
                await asyncio.sleep(SLOWNESS_S)
            if fault == "answers otherwise":
                await JSONResponse({"version": version, "predictions": []})(scope, receive, send)
                return
            if fault == "half of its answers fail" and num_asked > PASSES and num_asked % 2:
                raise RuntimeError("broken inside")
        await application(scope, receive, send)

    return bad if fault in FAULTS else application


def tried(loans: Loans, fault: str) -> str:
    """A line of the table."""
    version = loans.another(fault)
    if fault == "damaged":
        path = Path(loans.storage.path(f"models/{loans.spec.name}/{version}/weights.safetensors"))
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    release = loans.release(
        {"version": loans.old, "share": 1 - SHARE}, {"version": version, "share": SHARE}, guardrails=RAILS
    )
    application, why, gone_s = application_of(release), "", float("nan")
    with Clients(loans.address, loans.body, NUM_CONNECTIONS, PAUSE_S) as clients:
        time.sleep(2)
        began = time.monotonic()
        try:
            apply(release)
            began = time.monotonic()
            while time.monotonic() - began < WATCHED_S and application.state().shares != {loans.old: 1.0}:
                time.sleep(0.1)
        except UserError as error:
            why = str(error)
        gone_s = time.monotonic() - began
        time.sleep(3)
    state = application.state()
    why = why or state.why
    num_given = clients.tries[version]
    if state.shares != {loans.old: 1.0}:
        rollback(release)
    told = " ".join(why.split()).replace("|", "/").replace(version, "VERSION")
    part = num_given / sum(clients.tries.values())
    return (
        f"| {fault} | {len(clients.seconds):,} | {part:.1%} | {clients.num_failed} | {clients.num_lost} | "
        f"{gone_s:.1f} | {told[:160]} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    loans = prepared(parser.parse_args().folder)
    rows: list[Any] = []
    with served(loans, planted):
        for fault in FAULTS:
            rows.append(tried(loans, fault))
            print(rows[-1], flush=True)
    Path(__file__).with_suffix(".md").write_text(
        f"""# Bad versions under constant requests

{NUM_CONNECTIONS} connections, a request {1000 * PAUSE_S:.0f} ms after the answer before; each version is to get
{SHARE:.0%}, with guardrails {RAILS}. `failed` got no answer or another status than 200 at the first try, `lost` at no
try; `seconds` from `apply` to its refusal, or from its share to the state without it. Two replicas on
{os.cpu_count()} cores, {platform.machine()}. Made by `python -m benchmarks.bad_versions FOLDER`.

| the version | requests | it answered | failed | lost | seconds | why it went |
|---|---:|---:|---:|---:|---:|---|
{chr(10).join(rows)}
"""
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
