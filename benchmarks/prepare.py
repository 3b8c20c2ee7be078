"""A preparation by Rayline beside Polars, DuckDB, pandas with scikit-learn and Ray's own preprocessors.

    OMP_NUM_THREADS=1 python -m benchmarks.prepare [--rows 1000000 5000000] [--rounds 5]     (pip install '.[bench]')

What is done is told in `benchmarks.preparers`. Each contestant runs in a process of its own, one after another, round
after round; a ratio is that of two runs of one round. Wall time is that of the work: imports, and the start of Ray, are
told apart. CPU time is what the whole machine spent in that time; memory is the sum of PSS over the process and all its
children, ten times a second. Ray's preprocessors run in the first round only. Results are compared once, at the first
size, with the same rows in the same splits. Writes prepare.md.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.preparers import CATEGORIES, CONTESTANTS, NUMBERS, SPLITS
from benchmarks.process_tree import tree
from jobs.fixed_lists import as_lists

ROWS_A_FILE = 250_000
LEVELS = (5, 12, 20, 40, 8)
"""Different values of each category."""
RAYLINE, SLOW = "rayline", ("ray preprocessors",)
TIMEOUT_S = 1800
MEDIAN_ERROR = 1e-5
"""What a scaled number may be off by where a gap was filled: Rayline's medians are of 131,072 cells, others' exact."""
TABLE = Path(__file__).with_suffix(".md")


def table_part(start: int, num_rows: int) -> pa.Table:
    """Rows of a table with 20 columns from a seed, 3 % of them repeated, with gaps and far values."""
    draw = np.random.default_rng([0, start])
    columns = {"id": pa.array(np.arange(start, start + num_rows))}
    score = draw.normal(0, 1, num_rows)
    for number in range(13):
        values = draw.normal(number, 1 + number, num_rows) if number % 2 else np.exp(draw.normal(0, 1, num_rows))
        values = np.round(values, 4)
        score += (values - values.mean()) / values.std() * draw.normal()
        values[draw.random(num_rows) < 0.002] *= 50
        columns[f"n{number}"] = pa.array(values, mask=draw.random(num_rows) < 0.05)
    for number, levels in enumerate(LEVELS):
        words = np.array([f"{'abcde'[number]}{level:02d}" for level in range(levels)])
        shares = 1 / np.arange(1, levels + 1)
        chosen = words[draw.choice(levels, num_rows, p=shares / shares.sum())]
        columns[f"c{number}"] = pa.array(chosen, mask=draw.random(num_rows) < 0.04)
    columns["label"] = pa.array(np.where(score > 0, "yes", "no"))
    table, num_repeated = pa.table(columns), num_rows * 3 // 100
    again = np.sort(draw.integers(0, num_rows - num_repeated, num_repeated))
    return pa.concat_tables([table.slice(0, num_rows - num_repeated), table.take(pa.array(again))])


def write_table(folder: Path, num_rows: int) -> None:
    folder.mkdir(parents=True)
    for start in range(0, num_rows, ROWS_A_FILE):
        part = table_part(start, min(ROWS_A_FILE, num_rows - start))
        pq.write_table(part, folder / f"part-{start // ROWS_A_FILE:04d}.parquet")


@dataclass(frozen=True)
class Run:
    """What one preparation cost."""

    start_s: float
    work_s: float
    cpu_s: float
    peak_bytes: int


def run(name: str, raw: Path, out: Path, splits: Path | None = None) -> Run:
    """One contestant in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "benchmarks.preparers",
        name,
        str(raw),
        str(out),
        *([str(splits)] if splits else []),
    ]
    log = out.parent / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        peak = [0]
        watch = threading.Thread(target=_watch_memory, args=(process, peak), daemon=True)
        busy = _busy_s()
        watch.start()
        printed, _ = process.communicate(timeout=TIMEOUT_S)
        busy = _busy_s() - busy
    watch.join()
    if process.returncode:
        raise RuntimeError(f"{name} failed:\n{log.read_text()[-3000:]}")
    told = json.loads(printed.splitlines()[-1])
    return Run(told["start_s"], told["work_s"], busy, peak[0])


def _busy_s() -> float:
    """Seconds that all CPUs of the machine have worked."""
    fields = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def _watch_memory(process: "subprocess.Popen[str]", peak: list[int]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(_pss_bytes(one.pid) for one in tree(process.pid)))
        time.sleep(0.1)


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def splits_of(made: Path, target: Path) -> None:
    """Write which split Rayline gave each row; training rows that it left out are training rows too."""
    parts = [
        ds.dataset(made / name).to_table(columns=["id"]).append_column("split", pa.array([name] * count))
        for name in SPLITS
        if (count := ds.dataset(made / name).count_rows())
    ]
    pq.write_table(pa.concat_tables(parts), target)


def all_splits(raw: Path, made: Path, target: Path) -> None:
    """The same for every id of the raw rows: those that are nowhere in what was made were training rows."""
    splits_of(made, target)
    known = pq.read_table(target)
    known = known.set_column(0, "id", known.column("id").cast(pa.int64()))
    ids = pc.unique(ds.dataset(raw).to_table(columns=["id"]).column("id"))
    left_out = ids.filter(pc.invert(pc.is_in(ids, known.column("id").combine_chunks())))
    more = pa.table({"id": left_out, "split": pa.array(["train"] * len(left_out), pa.string())})
    pq.write_table(pa.concat_tables([known, more]), target)


def differences(ours: Path, theirs: Path) -> str:
    """What is not the same in two results."""
    told, furthest = [], 0.0
    for name in SPLITS:
        one, other = _ordered(_of_rayline(ours / name)), _ordered(_of_others(theirs / name))
        if not one.column("id").equals(other.column("id")):
            ids, others = set(one.column("id").to_pylist()), set(other.column("id").to_pylist())
            told.append(f"{name}: {len(ids ^ others):,} of {len(ids):,} rows are in one result only")
            shared = pa.array(sorted(ids & others))
            one, other = (t.filter(pc.is_in(t.column("id"), shared)) for t in (one, other))
        apart = [_apart(one.column(c), other.column(c)) for c in NUMBERS]
        hot = [c for c in other.column_names if "=" in c]
        unlike = sum(pc.sum(pc.not_equal(one.column(c), other.column(c))).as_py() or 0 for c in hot)
        furthest = max(furthest, *apart)
        if furthest > MEDIAN_ERROR or unlike:
            told.append(f"{name}: scaled numbers differ by up to {furthest:.1g}, one-hot entries in {unlike:,} places")
    return "; ".join(told) or (
        f"equal: all rows and one-hot entries, and scaled numbers to {furthest:.0e}, within the error of a median of "
        "131,072 cells"
    )


def _apart(one: pa.ChunkedArray, other: pa.ChunkedArray) -> float:
    """The largest difference of two columns, beyond 1 relative to the number's size."""
    ours, theirs = (column.to_numpy().astype(float) for column in (one, other))
    return float((np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1)).max())


def _ordered(rows: pa.Table) -> pa.Table:
    return rows.take(pc.sort_indices(rows.column("id")))


def _of_rayline(folder: Path) -> pa.Table:
    """With the names and columns of the others."""
    rows = as_lists(ds.dataset(folder).to_table())
    columns = {"id": rows.column("id").cast(pa.int64())}
    columns |= {name: rows.column(f"number:{name}") for name in NUMBERS}
    for name, levels in zip(CATEGORIES, LEVELS, strict=True):
        entries = pc.list_flatten(rows.column(f"vector:hot_{name}")).to_numpy().reshape(rows.num_rows, -1)
        prefix = "abcde"[int(name[1])]
        columns |= {f"{name}={prefix}{at:02d}": pa.array(entries[:, at].astype(np.uint8)) for at in range(levels)}
    return pa.table(columns)


def _of_others(folder: Path) -> pa.Table:
    """Ray keeps one-hot entries in a list a category."""
    rows = ds.dataset(folder).to_table()
    for name, levels in zip(CATEGORIES, LEVELS, strict=True):
        if name in rows.column_names:
            entries = np.array(rows.column(name).to_pylist(), np.uint8).reshape(rows.num_rows, levels)
            for at in range(levels):
                rows = rows.append_column(f"{name}={'abcde'[int(name[1])]}{at:02d}", pa.array(entries[:, at]))
    return rows


def measured(num_rows: int, rounds: int, scratch: Path) -> dict[str, list[Run]]:
    """All contestants, in turn."""
    raw = scratch / f"raw-{num_rows}"
    print(f"writing {num_rows:,} rows", flush=True)
    write_table(raw, num_rows)
    runs: dict[str, list[Run]] = {name: [] for name in CONTESTANTS}
    for number in range(rounds):
        for name in CONTESTANTS:
            if name in SLOW and number:
                continue
            runs[name].append(run(name, raw, scratch / "out"))
            print(f"{num_rows:,} rows, round {number + 1}: {name} {runs[name][-1].work_s:.2f} s", flush=True)
    return runs


def compared(num_rows: int, scratch: Path) -> dict[str, str]:
    """How each result differs from Rayline's, of the same splits."""
    raw, ours = scratch / f"raw-{num_rows}", scratch / "ours"
    run(RAYLINE, raw, scratch / "out")
    (scratch / "out").rename(ours)
    all_splits(raw, ours / "made", scratch / "splits.parquet")
    told = {}
    for name in CONTESTANTS:
        if name != RAYLINE:
            run(name, raw, scratch / "out", scratch / "splits.parquet")
            theirs = scratch / "out" / "made" if name.startswith(RAYLINE) else scratch / "out"
            told[name] = (
                _same_files(ours / "made", theirs) if name.startswith(RAYLINE) else differences(ours / "made", theirs)
            )
            print(f"{name}: {told[name]}", flush=True)
    return told


def _same_files(ours: Path, theirs: Path) -> str:
    one, other = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.parquet")} for folder in (ours, theirs)
    )
    return f"equal (all {len(one)} files, byte for byte)" if one == other else "DIFFERENT FILES"


def rows_of_table(runs: dict[str, list[Run]], num_rows: int) -> list[str]:
    lines = []
    for name, of_name in runs.items():
        ratios = [theirs.work_s / ours.work_s for theirs, ours in zip(of_name, runs[RAYLINE], strict=False)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if name != RAYLINE else "1"
        middle = [
            statistics.median(getattr(one, field) for one in of_name)
            for field in ("work_s", "cpu_s", "start_s", "peak_bytes")
        ]
        lines.append(
            f"| {num_rows:,} | {name} | {middle[0]:.1f} | {spread} | {middle[1]:.1f} | {middle[3] / 2**30:.2f} | "
            f"{middle[2]:.1f} | {len(of_name)} |"
        )
    return lines


def report(all_runs: dict[int, dict[str, list[Run]]], told: dict[str, str]) -> str:
    lines = [line for num_rows, runs in all_runs.items() for line in rows_of_table(runs, num_rows)]
    return "\n".join(
        [
            "# Preparing a table",
            "",
            f"`python -m benchmarks.prepare` on {os.cpu_count()} cores, Python {platform.python_version()}. Time of "
            "the work in seconds (median), its ratio to Rayline's in the same round (median, least and most; above 1 "
            "is slower than Rayline), CPU seconds of the machine from start to end, peak memory in GiB, start in "
            "seconds (imports, and Ray where it is used).",
            "",
            "| rows | by | work s | / Rayline | CPU s | peak GiB | start s | runs |",
            "|---:|---|---:|---:|---:|---:|---:|---:|",
            *lines,
            "",
            "Compared with Rayline's result of the same rows in the same splits:",
            "",
            *(f"- {name}: {difference}" for name, difference in told.items()),
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        all_runs = {num_rows: measured(num_rows, given.rounds, scratch) for num_rows in given.rows}
        told = compared(given.rows[0], scratch)
    text = report(all_runs, told)
    TABLE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
