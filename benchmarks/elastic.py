"""8, 6, 4 and 8 devices while a language model trains with tensor=2: is it the run that nothing happened to?

    OMP_NUM_THREADS=1 python -m benchmarks.elastic

The shipped `language` spec, smaller, on nodes that are processes of this machine. Writes elastic.md.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.layout import Layout
from cluster.storage import Storage
from jobs import examples, prepare
from jobs.fit import EpochReport, fit
from jobs.lineage import prepared_folder, train_inputs
from jobs.run_log import RunLog
from jobs.spec import RingSpec, load_ring
from tests.jobs.noted_steps import NotedStart, Step, last_of_each, noted_starts, written_down

ROOT = Path(__file__).parents[1]
SPEC = "jobs/specs/language.yaml"
OVERRIDES = (
    "workload.hidden_dim=64",
    "workload.num_layers=2",
    "workload.context_length=64",
    "layout={replicate: 4, tensor: 2}",
    "train.batch_size=96",
    "train.num_epochs=2",
    "train.device=cpu",
    "train.checkpoint_every_steps=5",
    "train.max_failures=0",
    "train.elastic={min_workers: 2, max_workers: 8, look_every_s: 2}",
)
HAPPENED = ("the start", "a node was killed", "a node was drained", "two nodes came")


def undisturbed(spec: RingSpec, storage: Storage, folder: Path) -> tuple[list[EpochReport], dict[int, Step]]:
    """In one process."""
    folder.mkdir()
    reports: list[EpochReport] = []
    alone = spec.model_copy(update={"layout": Layout()})
    with written_down(folder):
        fit(alone, storage, prepared_folder(spec, storage), None, reports.append)
    return reports, last_of_each(noted_starts(folder))


def disturbed(spec: RingSpec, storage: Storage, folder: Path) -> tuple[RunLog, list[NotedStart]]:
    """On nodes that come and go."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.jobs.elastic_nodes", "long", str(folder), SPEC, f"storage={storage.uri}"]
    without = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in without}
    subprocess.run([*command, *OVERRIDES], cwd=ROOT, env=environment, check=True)
    log = RunLog(storage, f"checkpoints/{spec.name}/{train_inputs(spec, storage).key}")
    return log, noted_starts(folder)


def rows_of(start: NotedStart, layout: Layout, what: str, before: NotedStart | None) -> str:
    """A line of the table."""
    first, last = start.steps[0].number, start.steps[-1].number
    again = before.steps[-1].number + 1 - first if before else 0
    still_s = f"{start.begun_s - before.ended_s:.0f}" if before else ""
    return f"| {what} | {start.workers} | `{layout.line()}` | {first + 1} to {last + 1} | {again} | {still_s} |"


def largest_difference(found: Sequence[float], wanted: Sequence[float]) -> float:
    return max(abs(one / other - 1) for one, other in zip(found, wanted, strict=True))


def main() -> None:
    """Run once in one process and once on nodes that come and go, and write what was found."""
    with TemporaryDirectory() as scratch:
        storage = Storage(f"{scratch}/storage")
        spec = load_ring(SPEC, [f"storage={storage.uri}", *OVERRIDES])
        examples.main(["language", storage.uri])
        prepare.run(spec, storage)
        reports, wanted = undisturbed(spec, storage, Path(scratch) / "alone")
        log, starts = disturbed(spec, storage, Path(scratch) / "nodes")
        epochs, layouts = [epoch.report for epoch in log.epochs()], [start.layout for start in log.starts()]
    found = last_of_each(starts)
    made = [(step.loss, wanted[step.number].loss) for start in starts for step in start.steps]
    other_rows = [
        number
        for number, step in found.items()
        if step.rows[0::2] != step.rows[1::2]
        or sorted(row for replica in step.rows[0::2] for row in replica) != sorted(wanted[number].rows[0])
    ]
    befores = [None, *starts]
    table = [rows_of(*line) for line in zip(starts, layouts, HAPPENED, befores, strict=False)]
    lines = [
        "# Devices that come and go",
        "",
        f"`python -m benchmarks.elastic`: `{SPEC}` with {' '.join(OVERRIDES)}; four nodes of two devices, all of them "
        "processes of one machine with 2 cores, beside the same run in one process.",
        "",
        "| what happened | workers | layout | steps | of them made again | seconds without a step before |",
        "|---|---:|---|---|---:|---:|",
        *table,
        "",
        f"- {len(found)} steps of {len(wanted)}, in {len(epochs)} epochs. Largest relative difference of a step's "
        f"loss, of all {len(made)} that were made: {largest_difference(*zip(*made, strict=True)):.1e}; of an epoch's "
        f"loss: {largest_difference([e.loss for e in epochs], [e.loss for e in reports]):.1e}.",
        "- Steps whose rows, over all replicas, are not those of the undisturbed run, each once, or whose tensor "
        f"peers had different rows: {len(other_rows)}.",
        "- The seconds are those of eight processes that start on two cores; after the kill, Ray's health checks "
        "(here one a second, by default one every three) are among them.",
    ]
    print("\n".join(lines))
    Path(__file__).with_suffix(".md").write_text("\n".join([*lines, ""]))
    if other_rows or len(starts) != len(HAPPENED) or found.keys() != wanted.keys():
        sys.exit(f"steps {other_rows} have other rows, {len(starts)} starts")


if __name__ == "__main__":
    main()
