"""The fastest layout of eight workers: found by forecast and a few measured steps, at random, and by plain Optuna.

    OMP_NUM_THREADS=1 python -m benchmarks.layout_search FOLDER [--steps 5] [--seeds 5]

Every layout of the space is measured once with real processes, so that what each way of searching finds can be told
from the table: with at most 15 % of the layouts measured. The space is that of the credit data's MLP on eight workers,
without recomputation, one pass and one round. Writes the .md beside it. Needs the extras `demo` and `test`.
"""

import argparse
import json
import platform
import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

import optuna

from benchmarks.predicted_measured import TIMEOUT_S, device_of, write_measured
from cluster.layout import AXES, Layout
from cluster.spec import dump
from cluster.storage import Storage
from jobs import prepare
from jobs.examples import main as write_example
from jobs.layout_forecast import forecaster_of
from jobs.lineage import prepared_folder
from jobs.search.layouts import legal_layouts
from jobs.spec import RingSpec, load_ring
from tests.jobs.parallel.workers import run_together

WORLD, AT_ONCE = 8, 8
SHARE = 0.15
SIZES = ("workload.hidden_dim=256", "workload.feed_forward_dim=1024", "workload.num_layers=6", "train.batch_size=512")
Times = Mapping[Layout, float]
"""Seconds of a step, measured."""
Way = Callable[[Times, int, int], list[Layout]]
"""What was measured, how many may be looked at, and a seed -> those that are looked at, in order."""


def space_of(spec: RingSpec) -> list[Layout]:
    """The layouts that are searched."""
    legal, _ = legal_layouts(spec, WORLD, WORLD)
    return [
        layout
        for layout in legal
        if not layout.recompute and layout.accumulation == 1 and layout.micro_batches == layout.pipeline
    ]


def measured_times(spec: RingSpec, prepared: str, layouts: list[Layout], folder: Path, num_steps: int) -> Times:
    """Every layout, some in one group of workers; what is known already is not measured again."""
    kept = folder / "times.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    missing = [layout for layout in layouts if layout.line() not in known]
    for first in range(0, len(missing), AT_ONCE):
        part = missing[first : first + AT_ONCE]
        work = partial(write_measured, spec=dump(spec), layouts=part, prepared=prepared, num_steps=num_steps)
        run_together(WORLD, work, folder, TIMEOUT_S)
        found = json.loads((folder / "measured.json").read_text())
        known |= {layout.line(): seconds for layout, (seconds, _) in zip(part, found, strict=True)}
        kept.write_text(json.dumps(known))
        print(f"{min(first + AT_ONCE, len(missing))} of {len(missing)} layouts are measured", flush=True)
    return {layout: known[layout.line()] for layout in layouts}


def at_random(times: Times, num_looks: int, seed: int) -> list[Layout]:
    """Any."""
    return random.Random(seed).sample(list(times), num_looks)


def by_optuna(times: Times, num_looks: int, seed: int) -> list[Layout]:
    """By TPE over axes, schedule and rounds; what is no layout is told to it at no cost, and so is one seen before."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    by_parts = {tuple(parts_of(layout).values()): layout for layout in times}
    choices = {name: sorted({parts_of(layout)[name] for layout in times}, key=str) for name in parts_of(Layout())}
    looked: list[Layout] = []
    for _ in range(200 * num_looks):
        if len(looked) == num_looks:
            break
        trial = study.ask()
        drawn = tuple(trial.suggest_categorical(name, values) for name, values in choices.items())
        layout = by_parts.get(drawn)
        if layout is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        if layout not in looked:
            looked.append(layout)
        study.tell(trial, times[layout])
    return looked


def parts_of(layout: Layout) -> dict[str, int | str | bool]:
    """What tells the layouts of the space apart."""
    rounds = layout.micro_batches // layout.pipeline
    schedule = layout.schedule if layout.pipeline > 1 else ""
    axes = {axis: int(getattr(layout, axis)) for axis in AXES}
    return {**axes, "schedule": schedule, "rounds": rounds, "sequence_parallel": layout.sequence_parallel}


def main() -> None:
    """Measure the space and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    storage = Storage(str(given.folder / "storage"))
    write_example(["tabular", storage.uri])
    spec = load_ring("jobs/specs/tabular.yaml", [f"storage={storage.uri}", *SIZES, "layout.replicate=1"])
    prepare.run(spec, storage)
    prepared, layouts = prepared_folder(spec, storage), space_of(spec)
    device = device_of(WORLD, given.folder)
    forecasts, _ = forecaster_of(spec, storage, device).of(layouts)
    times = measured_times(spec, prepared, layouts, given.folder, given.steps)
    num_looks = int(SHARE * len(layouts))
    ways: dict[str, Way] = {
        "forecast, then the best few measured": lambda times, count, seed: [one.layout for one in forecasts[:count]],
        "random": at_random,
        "Optuna (TPE)": by_optuna,
    }
    best = min(times.values())
    rows = []
    for name, way in ways.items():
        found = [min(times[layout] for layout in way(times, num_looks, seed)) / best - 1 for seed in range(given.seeds)]
        within = sum(each <= 0.05 for each in found)
        rows.append(
            f"| {name} | {median(found):.1%} ({min(found):.1%} to {max(found):.1%}) | {within} of {given.seeds} |"
        )
    fastest = min(times, key=lambda layout: times[layout])
    place = [one.layout for one in forecasts].index(fastest) + 1
    lines = [
        "# The fastest layout of eight workers",
        "",
        f"{len(layouts)} layouts of an MLP on the credit data, each measured in {given.steps} steps of eight processes "
        f"on two cores, {platform.machine()}. Each way may measure {num_looks} of them ({SHARE:.0%}).",
        "Made by `python -m benchmarks.layout_search FOLDER`.",
        "",
        f"The fastest takes {best * 1e3:.0f} ms ({fastest.line()}), the slowest {max(times.values()) * 1e3:.0f} ms, "
        f"the median {median(times.values()) * 1e3:.0f} ms. The forecast has the fastest in place {place}.",
        "",
        f"| way | slower than the fastest, median of {given.seeds} seeds | within 5 % |",
        "|---|---:|---:|",
        *rows,
    ]
    page = "\n".join(lines) + "\n"
    Path(__file__).with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
