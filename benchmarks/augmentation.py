"""What augmentation costs a row on the CPU side of the stream, beside making tensors of the row.

    OMP_NUM_THREADS=1 python -m benchmarks.augmentation

One thread, as a worker's feed has; rows by the thousand, every case in turn. Writes augmentation.md.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from jobs.features.arrays import one_array
from jobs.workloads import WORKLOADS
from jobs.workloads.language import LanguageSpec
from jobs.workloads.tabular import TabularSpec
from jobs.workloads.vision import VisionSpec

NUM_ROWS, ROUNDS = 1024, 15


def images(side: int, channels: int) -> tuple[VisionSpec, pa.Table]:
    """Random pixels."""
    pixels = np.random.default_rng(0).normal(size=(NUM_ROWS, channels * side * side)).astype(np.float32)
    rows = pa.table({"pixels": pa.array(list(pixels)), "class": np.ones(NUM_ROWS, np.int32)})
    return VisionSpec(height=side, width=side, channels=channels), rows


def cells() -> tuple[TabularSpec, pa.Table]:
    """Nine numbers and four categories a row, as credit has."""
    draw = np.random.default_rng(0)
    numbers = {f"number:{n}": draw.normal(size=NUM_ROWS).astype(np.float32) for n in range(9)}
    categories = {f"category:{n}": draw.integers(0, 5, NUM_ROWS) for n in range(4)}
    return TabularSpec(label="x", numeric=("a",)), pa.table({**numbers, **categories, "class": np.ones(NUM_ROWS, int)})


def texts() -> tuple[LanguageSpec, pa.Table]:
    """Windows of 512 bytes."""
    tokens = np.random.default_rng(0).integers(0, 256, (NUM_ROWS, 513)).astype(np.int16)
    lists = pa.FixedSizeListArray.from_arrays(tokens.reshape(-1), 513)
    return LanguageSpec(context_length=512), pa.table({"tokens": lists, "num_tokens": np.full(NUM_ROWS, 512)})


MOVES = {"rotate_degrees": 15, "scale": 0.1, "crop_pixels": 2, "flip": True}
CASES: dict[str, tuple[tuple[Any, pa.Table], dict[str, Any]]] = {
    "image 8 x 8 x 1, moved": (images(8, 1), MOVES),
    "image 28 x 28 x 1, moved": (images(28, 1), MOVES),
    "image 28 x 28 x 1, moved and noise": (images(28, 1), {**MOVES, "noise": 0.1}),
    "image 32 x 32 x 3, moved": (images(32, 3), MOVES),
    "image 32 x 32 x 3, moved and noise": (images(32, 3), {**MOVES, "noise": 0.1}),
    "13 cells, noise and drop": (cells(), {"noise": 0.1, "drop": 0.1}),
    "13 cells, noise, swap and drop": (cells(), {"noise": 0.1, "swap": 0.1, "drop": 0.1}),
    "512 tokens, replace": (texts(), {"replace": 0.1}),
}


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(given: Any, rows: pa.Table, augment: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Microseconds a row of making tensors, and of augmentation beside it, of each round."""
    workload = WORKLOADS[given.kind]
    spec = type(given).model_validate(given.model_dump() | {"augment": augment})
    batch = {**workload.tensors(rows), "key": torch.arange(NUM_ROWS)}
    order = np.random.default_rng(0).permutation(NUM_ROWS)

    def other() -> dict[str, torch.Tensor]:
        return workload.tensors(rows.take(order))

    workload.augment(spec, batch, other)
    plain, added = [], []
    for _ in range(ROUNDS):
        plain.append(1e6 * seconds(lambda: workload.tensors(rows)) / NUM_ROWS)
        added.append(1e6 * seconds(lambda: workload.augment(spec, batch, other)) / NUM_ROWS)
    return plain, added


def shown(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Measure every case and write the table."""
    torch.set_num_threads(1)
    lines = [
        "# What augmentation costs",
        "",
        f"`OMP_NUM_THREADS=1 python -m benchmarks.augmentation`: {NUM_ROWS:,} rows, {ROUNDS} rounds, one thread of "
        f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}; median (lowest to highest). `moved` "
        "is rotated, scaled, cropped and mirrored in one pass.",
        "",
        "| a row | made a tensor, µs | augmented besides, µs | rows/s of one thread |",
        "|---|---:|---:|---:|",
    ]
    for name, ((given, rows), augment) in CASES.items():
        rows = pa.table({column: one_array(rows.column(column)) for column in rows.column_names})
        plain, added = measure(given, rows, augment)
        rate = 1e6 / (statistics.median(plain) + statistics.median(added))
        row = f"| {name} | {shown(plain)} | {shown(added)} | {rate:,.0f} |"
        print(row, flush=True)
        lines.append(row)
    Path(__file__).with_suffix(".md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
