"""Latency of the answered traffic with a shadow of all of it, and without, window by window.

    OMP_NUM_THREADS=1 python -m benchmarks.shadow_cost FOLDER [--turns 8]

The loans with two replicas; requests begin at a steady pace, whatever became of those before, and each is timed from
when it was to begin. Windows with and without the shadow alternate. Writes the .md beside it. Needs the extra `demo`.
"""

import argparse
import http.client
import os
import platform
import threading
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from benchmarks.served_loans import Loans, prepared, served
from serving.release import apply, status

PACE_S, NUM_CONNECTIONS = 0.02, 8
WINDOW_S, SETTLE_S = 10.0, 3.0


def window(loans: Loans) -> list[float]:
    """Milliseconds of each request."""
    parts, found = urlsplit(loans.address), list[float]()
    began, lock, number = time.perf_counter() + 0.1, threading.Lock(), 0

    def ask() -> None:
        nonlocal number
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
        while True:
            with lock:
                due, number = began + number * PACE_S, number + 1
            if due - began > WINDOW_S:
                return
            time.sleep(max(0.0, due - time.perf_counter()))
            connection.request("POST", f"{parts.path}/predict", loans.body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            found.append(1000 * (time.perf_counter() - due))

    threads = [threading.Thread(target=ask) for _ in range(NUM_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found)


def slowest(window: list[float]) -> float:
    """Its 99th percentile."""
    return window[int(0.99 * (len(window) - 1))]


def told(windows: list[list[float]], share: float) -> str:
    """The median over the windows of a quantile, with the least and the greatest."""
    values = sorted(one[int(share * (len(one) - 1))] for one in windows)
    return f"{median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--turns", type=int, default=8)
    given = parser.parse_args()
    loans = prepared(given.folder)
    alone = loans.release({"version": loans.old, "share": 1.0})
    shadowed = loans.release({"version": loans.old, "share": 1.0}, {"version": loans.another("shadow"), "shadow": True})
    off, on = list[list[float]](), list[list[float]]()
    with served(loans):
        window(loans)
        for _ in range(given.turns):
            for release, windows in ((alone, off), (shadowed, on)):
                apply(release)
                time.sleep(SETTLE_S)
                windows.append(window(loans))
        line = next(line for line in status(shadowed).splitlines() if " shadow " in line)
    ratios = sorted(slowest(later) / slowest(earlier) for earlier, later in zip(off, on, strict=True))
    noise = sorted(slowest(later) / slowest(earlier) for earlier, later in pairwise(off))
    rows = "\n".join(
        f"| {name} | {told(windows, 0.5)} | {told(windows, 0.95)} | {told(windows, 0.99)} |"
        for name, windows in (("off", off), ("on", on))
    )
    text = f"""# What a shadow costs those who are answered

{1 / PACE_S:.0f} requests a second for {WINDOW_S:.0f} s a window, {given.turns} windows each in turn; two replicas, each
with a shadow in a process of its own that runs where the CPU is idle, on {os.cpu_count()} cores that the client shares,
{platform.machine()}. Milliseconds, the median over windows with the least and the greatest.
Made by `python -m benchmarks.shadow_cost FOLDER`.

| shadow | p50 | p95 | p99 |
|---|---:|---:|---:|
{rows}

p99 with the shadow to p99 without in the window before: **{median(ratios):.2f}**
({ratios[0]:.2f} to {ratios[-1]:.2f}). p99 of windows without to those without before them, which is noise:
{median(noise):.2f} ({noise[0]:.2f} to {noise[-1]:.2f}).
In the last window: `{line.strip()}`.
"""
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
