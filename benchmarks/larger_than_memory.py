"""A table larger than memory is prepared on Ray: how much memory that takes, of every process and of the object store.

    OMP_NUM_THREADS=1 python -m benchmarks.larger_than_memory [--gib 20] [--store-mib 2048] [--worker-mib 4096]

The table and the steps are those of `benchmarks.preparers`, without compression, so that a byte of input is a byte that
has to be worked on. Every process of Ray's may take `--worker-mib` of memory in all; one that took more would end the
run with an error. Writes larger_than_memory.md, but for a smaller table than the default.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.prepare import ROWS_A_FILE, table_part
from benchmarks.preparers import spec
from benchmarks.process_tree import tree
from cluster.environment import applied
from cluster.lifecycle import connected
from cluster.processes import command
from cluster.storage import Storage
from jobs.prepare import run
from jobs.spec import load_ring

TABLE = Path(__file__).with_suffix(".md")
GIB, MIB = 2**30, 2**20


def write_input(folder: Path, num_bytes: int) -> int:
    """Files of so many bytes; returns their rows. The columns repeat themselves, the ids do not."""
    folder.mkdir(parents=True)
    part, written, num_rows = table_part(0, ROWS_A_FILE), 0, 0
    while written < num_bytes:
        ids = pc.add(part.column("id"), num_rows)
        path = folder / f"part-{num_rows // ROWS_A_FILE:05d}.parquet"
        pq.write_table(part.set_column(0, "id", ids), path, compression="none", use_dictionary=False)
        written, num_rows = written + path.stat().st_size, num_rows + ROWS_A_FILE
    return num_rows


class Watch:
    """The most memory that was seen, of a process by what it does."""

    def __init__(self) -> None:
        self.peak: dict[str, int] = {}
        self.peak_total = 0
        self._ended = Event()
        self._thread = Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.2):
            own = _kinds(os.getpid())
            sizes = {pid: _unshared_bytes(pid) for pid in own}
            for pid, kind in own.items():
                self.peak[kind] = max(self.peak.get(kind, 0), sizes[pid])
            self.peak_total = max(self.peak_total, sum(sizes.values()))


def _kinds(root: int) -> dict[int, str]:
    """This process and what it has started, each with what it is for."""
    return {one.pid: "driver" if one.pid == root else _kind(command(one)) for one in tree(root)}


def _kind(words: Sequence[str]) -> str:
    return "worker" if "ray::" in " ".join(words) else "other"


def _unshared_bytes(pid: int) -> int:
    """What is a process's own: anonymous memory, without the object store that all share."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def measure(gib: float, store_mib: int, worker_mib: int) -> list[str]:
    """Prepare a table of so many GiB, and tell what it took.

    Raises:
        RuntimeError: rows are missing or doubled, or a worker took more than it may.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(f"writing {gib:g} GiB", flush=True)
        num_rows = write_input(folder / "raw", int(gib * GIB))
        (folder / "spec.yaml").write_text(spec(folder, in_process=False))
        with applied({"RAY_ADDRESS": "local"}), connected(object_store_bytes=store_mib * MIB), Watch() as watch:
            started = time.perf_counter()
            made = run(load_ring(folder / "spec.yaml"), Storage(str(folder)))
            seconds = time.perf_counter() - started
        manifest = Storage(str(folder)).manifest(made.folder)
        written = sum(manifest["num_rows"].values()) + manifest["num_left_out"] + manifest["num_repeated"]
        if written != num_rows:
            raise RuntimeError(f"{num_rows:,} rows were read, {written:,} are accounted for")
        if watch.peak["worker"] > worker_mib * MIB:
            raise RuntimeError(f"a worker took {watch.peak['worker'] / MIB:,.0f} MiB, {worker_mib:,} are allowed")
        out_bytes = sum(info.size for info in Storage(str(folder)).files(made.folder))
        return [
            f"| input | {gib:g} GiB, {num_rows:,} rows x 20 columns |",
            f"| object store | {store_mib:,} MiB |",
            f"| peak of a worker (limit {worker_mib:,}) | {watch.peak['worker'] / MIB:,.0f} MiB |",
            f"| peak of the driver | {watch.peak['driver'] / MIB:,.0f} MiB |",
            f"| peak of all processes together | {watch.peak_total / MIB:,.0f} MiB |",
            f"| time | {seconds:,.0f} s, {num_rows / seconds:,.0f} rows/s |",
            f"| rows written, left out as outliers, repeated | {sum(manifest['num_rows'].values()):,}, "
            f"{manifest['num_left_out']:,}, {manifest['num_repeated']:,} |",
            f"| output | {out_bytes / GIB:.1f} GiB |",
        ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gib", type=float, default=20)
    parser.add_argument("--store-mib", type=int, default=2048)
    parser.add_argument("--worker-mib", type=int, default=4096)
    given = parser.parse_args(arguments)
    lines = measure(given.gib, given.store_mib, given.worker_mib)
    text = "\n".join(
        [
            "# Larger than memory",
            "",
            f"`python -m benchmarks.larger_than_memory` on {os.cpu_count()} cores. Memory of a process is what it does "
            "not share (RssAnon), five times a second.",
            "",
            "| | |",
            "|---|---|",
            *lines,
            "",
        ]
    )
    if given.gib >= parser.get_default("gib"):
        TABLE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
