"""What it takes to plan Llama 3.1 70B on 64 H100 on this machine: every layout ranked, by the command itself.

    python -m benchmarks.plan_cost [--repeats 3]

No device and no data. Each run is a process of its own. Writes the .md beside it.
"""

import argparse
import os
import platform
import re
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.scale_simulation import CONTEXT, MODELS

DEVICES = "64xH100"
FIT = re.compile(r"\d+ layouts fit, \d+ do not, \d+ shapes are refused")


def command(storage: str) -> list[str]:
    """The line, with the vocabulary and heads that Llama 3.1 has."""
    sizes = {**MODELS["70B"], "num_kv_heads": 8, "vocabulary_size": 128256, "context_length": CONTEXT}
    given = [f"workload.{key}={size}" for key, size in sizes.items()]
    rest = [f"storage={storage}", "layout.precision=bf16", "train.batch_size=64"]
    return ["-m", "jobs.search", "plan", "jobs/specs/language.yaml", *rest, *given, "--devices", DEVICES]


def planned(arguments: list[str], shown: Path) -> tuple[float, float]:
    """Seconds and the peak of memory in GiB."""
    started = time.perf_counter()
    with shown.open("wb") as stream:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *arguments],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, stream.fileno(), 1)],
        )
        _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(shown.read_text())
    return time.perf_counter() - started, usage.ru_maxrss / 2**20


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with TemporaryDirectory() as folder:
        shown = Path(folder) / "shown.txt"
        runs = [planned(command(folder), shown) for _ in range(repeats)]
        table = shown.read_text()
    print(table)
    found = FIT.search(table)
    assert found, table
    lines = [
        "# What a plan costs",
        "",
        f"Llama 3.1 70B on {DEVICES}, {platform.machine()} with Python {platform.python_version()}, no device: "
        f"{found[0]}. From start to end of the command, by `python -m benchmarks.plan_cost --repeats {repeats}`.",
        "",
        "| run | seconds | GiB at most |",
        "|---:|---:|---:|",
        *(f"| {number} | {seconds:.1f} | {gib:.2f} |" for number, (seconds, gib) in enumerate(runs, 1)),
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
