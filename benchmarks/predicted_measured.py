"""Memory and time of a step as the plan foresees them, beside what real workers take: layouts of three workloads.

    OMP_NUM_THREADS=1 python -m benchmarks.predicted_measured FOLDER [--steps 9] [--repeats 2]

The device is measured by microbenchmarks of as many workers as a layout has (`jobs.search.microbenchmarks`); nothing is
fitted to the layouts that are reported. Workers are real processes on gloo; memory is what torch's allocator gives out.
Writes the .md and a picture beside it. Needs the extras `demo` and `test`.
"""

import argparse
import json
import math
import os
import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from scipy import stats

from cluster.layout import Layout
from cluster.spec import dump, parse
from cluster.storage import Storage
from jobs import prepare
from jobs.examples import main as write_example
from jobs.layout_forecast import forecaster_of
from jobs.lineage import prepared_folder
from jobs.measured_steps import measure
from jobs.parallel.collectives import rank, world_size
from jobs.search.device import Device
from jobs.search.forecast import Forecast
from jobs.search.microbenchmarks import measured_device
from jobs.spec import RingSpec, load_ring
from tests.jobs.parallel.workers import run_alone, run_together

WORLD = 4
MEMORY_GIB = 8
TIMEOUT_S = 600.0
HERE = Path(__file__).with_suffix("")
SIZES: dict[str, list[str]] = {
    "language": [
        "workload.hidden_dim=256",
        "workload.num_layers=4",
        "workload.feed_forward_dim=768",
        "train.batch_size=16",
    ],
    "tabular": [
        "workload.hidden_dim=256",
        "workload.feed_forward_dim=1024",
        "workload.num_layers=6",
        "train.batch_size=512",
    ],
    "vision": ["workload.block_channels=[32,64,64,64,64]", "train.batch_size=128"],
}
PIPELINES: list[dict[str, Any]] = [
    {"pipeline": 2, "micro_batches": 4},
    {"pipeline": 2, "micro_batches": 2, "replicate": 2},
    {"pipeline": 4, "micro_batches": 8, "schedule": "gpipe"},
]
LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "language": [
        {},
        {"recompute": True},
        {"replicate": 2},
        {"shard": 2},
        {"tensor": 2},
        {"tensor": 2, "sequence_parallel": True},
        {"context": 2},
        {"shard": 4},
        {"replicate": 2, "tensor": 2},
        {"shard": 2, "tensor": 2},
        {"shard": 2, "pipeline": 2, "micro_batches": 4},
        *PIPELINES,
    ],
    "tabular": [
        {},
        {"replicate": 2},
        {"shard": 2},
        {"tensor": 2},
        {"replicate": 4},
        {"shard": 4},
        {"replicate": 2, "tensor": 2},
        *PIPELINES,
    ],
    "vision": [{}, {"recompute": True}, {"replicate": 2}, {"shard": 2}, {"replicate": 4}, {"shard": 4}, *PIPELINES],
}


def write_device(folder: Path) -> None:
    """What each worker does to measure the device."""
    found = measured_device(torch.device("cpu"), world_size(), MEMORY_GIB)
    if rank() == 0:
        (folder / "device.yaml").write_text(dump(found))


def write_measured(folder: Path, spec: str, layouts: list[Layout], prepared: str, num_steps: int) -> None:
    """What each worker does for the layouts of one number of workers."""
    whole = parse(RingSpec, spec, "the spec")
    found = []
    for layout in layouts:
        given = whole.model_copy(update={"layout": layout})
        measured = measure(given, Storage(given.storage), prepared, num_steps, torch.device("cpu"))
        found.append((measured.median_s, max(measured.peak_bytes)))
    if rank() == 0:
        (folder / "measured.json").write_text(json.dumps(found))


def measured_of(
    spec: RingSpec, prepared: str, layouts: list[Layout], folder: Path, num_steps: int
) -> list[list[float]]:
    """Seconds and bytes of each layout, all of which have as many workers."""
    work = partial(write_measured, spec=dump(spec), layouts=layouts, prepared=prepared, num_steps=num_steps)
    num_workers = layouts[0].num_workers
    if num_workers == 1:
        assert run_alone(work, folder) == 0
    else:
        run_together(num_workers, work, folder, TIMEOUT_S)
    found: list[list[float]] = json.loads((folder / "measured.json").read_text())
    return found


def device_of(num_workers: int, folder: Path) -> Device:
    """As so many workers find it that are at work at once."""
    run_together(num_workers, write_device, folder, TIMEOUT_S)
    return parse(Device, (folder / "device.yaml").read_text(), "the measured device")


def rows_of(
    kind: str, folder: Path, devices: Mapping[int, Device], num_steps: int, repeats: int
) -> list[dict[str, Any]]:
    """Every layout of a workload, foreseen and measured."""
    storage = folder / "storage"
    write_example([kind, str(storage)])
    spec = load_ring(Path("jobs/specs") / f"{kind}.yaml", [f"storage={storage}", *SIZES[kind], "layout.replicate=1"])
    prepare.run(spec, Storage(spec.storage))
    prepared = prepared_folder(spec, Storage(spec.storage))
    forecasters = {number: forecaster_of(spec, Storage(spec.storage), device) for number, device in devices.items()}
    found = []
    for num_workers in (1, 2, WORLD):
        layouts = [
            layout for layout in (Layout(**given) for given in LAYOUTS[kind]) if layout.num_workers == num_workers
        ]
        taken = [measured_of(spec, prepared, layouts, folder, num_steps) for _ in range(repeats)]
        for place, layout in enumerate(layouts):
            forecast = forecasters[num_workers].forecast(layout)
            assert isinstance(forecast, Forecast)
            times = [each[place][0] for each in taken]
            row = {"kind": kind, "layout": layout.line(), "foreseen_s": forecast.step_s, "times": times}
            row |= {"foreseen_bytes": forecast.memory_bytes, "bytes": max(each[place][1] for each in taken)}
            print(row, flush=True)
            found.append(row)
    return found


def rank_correlation(rows: list[dict[str, Any]]) -> float:
    """Spearman's, of the time of a step."""
    found = stats.spearmanr([row["foreseen_s"] for row in rows], [median(row["times"]) for row in rows])
    return float(found.statistic)


def page(rows: list[dict[str, Any]], device: Device, num_steps: int, repeats: int) -> str:
    """The table."""
    kinds = list(LAYOUTS)
    errors = [row["foreseen_bytes"] / row["bytes"] - 1 for row in rows]
    within = sum(abs(error) <= 0.1 for error in errors)
    of_kinds = ", ".join(f"{kind} {rank_correlation([r for r in rows if r['kind'] == kind]):.2f}" for kind in kinds)
    ratios = [row["foreseen_s"] / median(row["times"]) for row in rows]
    lines = [
        "# Foreseen and measured",
        "",
        f"{len(rows)} layouts of {len(kinds)} workloads, {num_steps} steps each, {repeats} times; processes on "
        f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}. Nothing is fitted to these layouts:",
        f"the device is what 2 and {WORLD} workers measured of it in small work "
        f"({device.tflops['fp32'] * 1e3:.0f} GFLOP/s, {device.cores:.1f} cores, {device.overheads.op_us:.1f} us a "
        "kernel).",
        "Made by `python -m benchmarks.predicted_measured FOLDER`.",
        "",
        f"- **Memory** of the fullest worker: {within} of {len(rows)} within 10 %; the error is "
        f"{min(errors):+.1%} to {max(errors):+.1%}, its absolute value {median(map(abs, errors)):.1%} in the median.",
        f"- **Time of a step**: Spearman's rank correlation **{rank_correlation(rows):.2f}** over all, {of_kinds}.",
        f"  Foreseen to measured: {median(ratios):.2f} in the median ({min(ratios):.2f} to {max(ratios):.2f}).",
        "",
        "Which memory gloo's threads still hold when the next message begins is chance: the same layout has been",
        "seen to take up to a sixth more in one run than in another, and the largest of all ranks and repeats is told.",
        "",
        f"![foreseen and measured]({HERE.name}.svg)",
        "",
        "| workload | layout | MB | foreseen | error | ms (each time) | foreseen | to measured |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row, error, ratio in zip(rows, errors, ratios, strict=True):
        times = ", ".join(f"{1e3 * each:.0f}" for each in row["times"])
        lines.append(
            f"| {row['kind']} | {row['layout']} | {row['bytes'] / 1e6:.1f} | {row['foreseen_bytes'] / 1e6:.1f} | "
            f"{error:+.1%} | {times} | {1e3 * row['foreseen_s']:.0f} | {ratio:.2f} |"
        )
    return "\n".join(lines) + "\n"


def picture(rows: list[dict[str, Any]]) -> str:
    """Both figures of every layout, each on the diagonal where they agree, in the logarithm."""
    colours = dict(zip(LAYOUTS, ("#3b6ea5", "#c8553d", "#4b8f5a"), strict=True))
    side, gap = 320, 60
    parts = []
    for panel, (title, here, there) in enumerate(
        (
            ("MB", "foreseen_bytes", lambda row: row["bytes"]),
            ("s a step", "foreseen_s", lambda row: median(row["times"])),
        )
    ):
        scale = 1e-6 if title == "MB" else 1.0
        pairs = [(row["kind"], scale * there(row), scale * row[here], row["layout"]) for row in rows]
        low = min(min(pair[1:3]) for pair in pairs) / 1.3
        high = max(max(pair[1:3]) for pair in pairs) * 1.3
        left = 50 + panel * (side + gap)

        def at(value: float, low: float = low, high: float = high) -> float:
            return side * math.log(value / low) / math.log(high / low)

        parts.append(f'<rect x="{left}" y="20" width="{side}" height="{side}" fill="none" stroke="#999"/>')
        parts.append(f'<path d="M{left} {20 + side}L{left + side} 20" stroke="#bbb" stroke-dasharray="4"/>')
        parts.append(f'<text x="{left + side / 2}" y="{side + 55}" text-anchor="middle">measured, {title}</text>')
        parts.append(f'<text x="{left}" y="12">foreseen, {title}</text>')
        for value in (10**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)):
            parts.append(f'<text x="{left + at(value)}" y="{side + 36}" text-anchor="middle">{value:g}</text>')
            parts.append(f'<text x="{left - 4}" y="{24 + side - at(value)}" text-anchor="end">{value:g}</text>')
        for kind, measured, foreseen, layout in pairs:
            parts.append(
                f'<circle cx="{left + at(measured):.1f}" cy="{20 + side - at(foreseen):.1f}" r="4" '
                f'fill="{colours[kind]}" fill-opacity="0.7"><title>{kind}, {layout}</title></circle>'
            )
    for place, (kind, colour) in enumerate(colours.items()):
        parts.append(f'<text x="{60 + 90 * place}" y="{side + 75}" fill="{colour}">{kind}</text>')
    width, height = 2 * side + gap + 70, side + 85
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="#333">{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    pair, device = device_of(2, given.folder), device_of(WORLD, given.folder)
    print(dump(pair), dump(device), sep="\n", flush=True)
    devices = {1: pair, 2: pair, WORLD: device}
    rows = [row for kind in LAYOUTS for row in rows_of(kind, given.folder, devices, given.steps, given.repeats)]
    HERE.with_suffix(".md").write_text(page(rows, device, given.steps, given.repeats))
    HERE.with_suffix(".svg").write_text(picture(rows))
    print(page(rows, device, given.steps, given.repeats))


if __name__ == "__main__":
    main()
