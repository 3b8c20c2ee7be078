"""One model and one echo behind Rayline and behind other servers: rate, latency and CPU a request, window by window.

    OMP_NUM_THREADS=1 python -m benchmarks.serve_throughput FOLDER RIVALS_PYTHON [--repeats 5] [--seconds 3]

RIVALS_PYTHON is the interpreter of an environment of its own with litserve and bentoml (which hold back packages of
ours). All servers run all the time; `wrk` asks one after the other, each window of a server followed by one of the
next, so that ratios are of neighbours. CPU is of the server's processes, whatever they are. Writes the .md beside it.
"""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from argparse import ArgumentParser
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.process_tree import tree
from benchmarks.serve_rivals import MAX_ROWS, WIDTH
from cluster.environment import free_ports

ROOT = Path(__file__).parents[1]
LEVELS = (1, 8, 32)
KINDS = ("model", "echo")
OURS, PLAIN, BATCHER, LIT, BENTO = "Rayline", "uvicorn", "uvicorn + our batcher", "LitServe", "BentoML"
UP_WITHIN_S = 180
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[BODY]==]
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("FOUND %d %d %d %f %f %f\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000))
end
"""


@dataclass(frozen=True)
class Server:
    name: str
    kind: str
    port: int
    root: int
    """The pid of its first process."""
    body: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.kind}/predict"


@dataclass(frozen=True)
class Window:
    rate: float
    """Requests a second."""
    p50: float
    """In ms, as the next two."""
    p95: float
    p99: float
    cpu: float
    """ms a request."""


def started(folder: Path, rivals: str) -> tuple[list[subprocess.Popen[bytes]], list[Server]]:
    """All servers, once they answer."""
    row = [round(0.01 * number, 2) for number in range(WIDTH)]
    one, many = json.dumps({"row": row}), json.dumps({"row": [row]})
    ports = iter(free_ports(*[0] * 7))
    ours, plain, batcher, lit_model, lit_echo, bento_model, bento_echo = ports
    here = sys.executable
    commands = {
        (OURS, "", ours): [here, "-m", "benchmarks.serve_rayline", str(folder / "rayline"), str(ours)],
        (PLAIN, "", plain): [here, "-m", "benchmarks.serve_rivals", "uvicorn", str(plain)],
        (BATCHER, "", batcher): [here, "-m", "benchmarks.serve_rivals", "uvicorn-batcher", str(batcher)],
        (LIT, "model", lit_model): [rivals, "-m", "benchmarks.serve_litserve", "model", str(lit_model)],
        (LIT, "echo", lit_echo): [rivals, "-m", "benchmarks.serve_litserve", "echo", str(lit_echo)],
        (BENTO, "model", bento_model): bento(rivals, "Model", bento_model),
        (BENTO, "echo", bento_echo): bento(rivals, "Echo", bento_echo),
    }
    processes, servers = [], []
    for number, ((name, only, port), command) in enumerate(commands.items()):
        with (folder / f"{number}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        processes.append(process)
        body = many if name == BENTO else one
        servers += [Server(name, kind, port, process.pid, body) for kind in KINDS if only in ("", kind)]
    for server in servers:
        wait_for(server)
    return processes, servers


def bento(python: str, name: str, port: int) -> list[str]:
    served = ["serve", f"benchmarks.serve_bentoml:{name}", "--host", "127.0.0.1", "--port", str(port)]
    return [python, "-m", "bentoml", *served, "--working-dir", str(ROOT)]


def wait_for(server: Server) -> None:
    deadline = time.monotonic() + UP_WITHIN_S
    while True:
        try:
            asked = urllib.request.Request(server.url, server.body.encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked, timeout=10):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def cpu_s(root: int) -> float:
    """That the processes of a tree have used."""
    found = 0.0
    for process in tree(root):
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += (int(fields[11]) + int(fields[12])) * TICK_S
    return found


def window(server: Server, connections: int, seconds: float, script: Path) -> Window:
    script.write_text(LUA.replace("BODY", server.body))
    before = cpu_s(server.root)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(script), server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    used = cpu_s(server.root) - before
    found = re.search(r"FOUND (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+) ([\d.]+)", done.stdout)
    if not found or int(found[3]):
        raise SystemExit(f"{server.name} {server.kind} failed: {done.stdout}")
    requests = int(found[1])
    return Window(requests / int(found[2]) * 1e6, *(float(found[n]) for n in (4, 5, 6)), 1000 * used / requests)


Found = dict[tuple[str, int, str], list[Window]]


def measured(servers: list[Server], repeats: int, seconds: float, folder: Path) -> Found:
    found: Found = defaultdict(list)
    for server in servers:  # warm
        window(server, 8, 1, folder / "wrk.lua")
    for number in range(repeats):
        for kind in KINDS:
            for level in LEVELS:
                for server in [one for one in servers if one.kind == kind]:
                    found[kind, level, server.name].append(window(server, level, seconds, folder / "wrk.lua"))
        print(f"round {number + 1} of {repeats}", flush=True)
    return found


def middle(windows: list[Window], name: str) -> float:
    return median(getattr(one, name) for one in windows)


def ratio(found: Found, kind: str, level: int, rival: str) -> str:
    """Ours to a rival's rate, window by window: the median, the least and the greatest."""
    pairs = zip(found[kind, level, OURS], found[kind, level, rival], strict=True)
    values = sorted(ours.rate / other.rate for ours, other in pairs)
    return f"{median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})"


def table(found: Found) -> str:
    lines = []
    for kind in KINDS:
        lines += [
            f"## {kind}",
            "",
            "| connections | server | requests/s | p50 ms | p95 ms | p99 ms | CPU ms a request | Rayline / it |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for level in LEVELS:
            for name in (OURS, PLAIN, BATCHER, LIT, BENTO):
                windows = found[kind, level, name]
                values: list[Any] = [middle(windows, field) for field in ("rate", "p50", "p95", "p99", "cpu")]
                against = "" if name == OURS else ratio(found, kind, level, name)
                told = " | ".join([f"{values[0]:,.0f}", *(f"{value:.2f}" for value in values[1:])])
                lines.append(f"| {level} | {name} | {told} | {against} |")
        lines.append("")
    return "\n".join(lines)


def versions(rivals: str) -> str:
    names = ("litserve", "bentoml", "uvicorn", "fastapi", "torch")
    code = f"from importlib.metadata import version\nfor n in {names!r}: print(n, version(n), end=', ')"
    return subprocess.run([rivals, "-c", code], capture_output=True, text=True, check=True).stdout.rstrip(", ")


def main() -> None:
    parser = ArgumentParser("python -m benchmarks.serve_throughput")
    parser.add_argument("folder", type=Path)
    parser.add_argument("rivals_python")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    processes, servers = started(folder, given.rivals_python)
    try:
        found = measured(servers, given.repeats, given.seconds, folder)
    finally:
        for process in processes:
            for each in tree(process.pid) if process is not processes[0] else []:
                os.kill(each.pid, signal.SIGTERM)
            process.terminate()
        for process in processes:
            process.wait(60)
    text = f"""# Requests a second, beside other servers

`python -m benchmarks.serve_throughput FOLDER RIVALS_PYTHON --repeats {given.repeats} --seconds {given.seconds:g}`,
{platform.machine()}, {os.cpu_count()} cores that the client shares, Python {platform.python_version()}; the rivals'
environment: {versions(given.rivals_python)}.

Medians over {given.repeats} windows; the ratio is of the rates of neighbouring windows, with the least and greatest.
Rayline runs with all that a release has (versions, measures, answers kept, request ids), one replica behind HAProxy.
LitServe, BentoML and both batchers form batches of {MAX_ROWS} at most; plain uvicorn answers each request in a thread.

{table(found)}"""
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
