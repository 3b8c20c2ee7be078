"""Stop on one layout, go on with another at exactly the next sample: losses and samples of a run never disturbed."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from cluster.layout import Layout
from cluster.storage import Storage
from jobs.parallel.checkpoint import Checkpoints, Origin, Progress
from jobs.parallel.checkpoint_writer import CheckpointWriter
from jobs.parallel.collectives import rank
from jobs.parallel.feed import Feed, StepRows
from jobs.training_step import TrainingStep
from jobs.workloads import WORKLOADS
from jobs.workloads.chain import Batch
from tests.jobs.parallel.training import (
    BATCH_SIZE,
    CPU,
    NUM_ROWS,
    NUM_STEPS,
    curve,
    parted,
    sample,
    source,
    train_spec,
)
from tests.jobs.parallel.workers import run_together
from tests.s3 import S3Server

SAMPLE, OPTIMIZER = "language", "adamw"
STOPPED_AT = 3
"""Amid the first epoch of five steps."""
TOLERANCE = 1e-5
LAYOUTS = {
    "one process": Layout(),
    "replicate 4": Layout(replicate=4),
    "shard 4": Layout(shard=4),
    "tensor 2 x pipeline 2": Layout(tensor=2, pipeline=2, micro_batches=4),
    "shard 2 x tensor 2 x pipeline 2": Layout(shard=2, tensor=2, pipeline=2, micro_batches=2),
}


@dataclass(frozen=True)
class Stretch:
    """What one worker did of a run."""

    losses: list[float]
    rows: list[list[int]]
    """Of each step: the numbers of the rows that this worker trained on, those of weight 0 left out."""


class Run:
    """A training run that can be left after any step and taken up from a checkpoint."""

    def __init__(self, layout: Layout, checkpoints: Checkpoints) -> None:
        self._checkpoints, self._model = checkpoints, parted(sample(SAMPLE), layout)
        given = sample(SAMPLE)
        numbered = replace(given, rows=given.rows.append_column("number", pa.array(range(NUM_ROWS))))
        self._feed = Feed(replace(source(numbered), tensors=_with_number), layout, rank(), 0, BATCH_SIZE, CPU)
        self._step = TrainingStep(train_spec(OPTIMIZER), self._model, NUM_STEPS)

    def train(self, first: int, end: int) -> Stretch:
        done = Stretch([], [])
        for number in range(first, end):
            epoch, step = divmod(number, self._feed.steps_an_epoch)
            feed = self._feed.epoch(epoch, step)
            rows = next(feed)
            feed.close()
            result = self._step(rows, number, wants_norm=False)
            done.losses.append(float(self._model.summed(result.summed_loss)) / rows.num_rows)
            done.rows.append(_numbers(rows))
        return done

    def save(self, step: int) -> None:
        with CheckpointWriter(self._checkpoints, 1, Origin("", "")) as writer:
            writer.save(self._model.model, self._step.optimizer, Progress(step=step))

    def load(self) -> int:
        (step,) = self._checkpoints.steps()
        return self._checkpoints.load(step, self._model.model, self._step.optimizer).step


def _with_number(rows: pa.Table) -> Batch:
    return {**WORKLOADS[SAMPLE].tensors(rows), "number": torch.tensor(rows.column("number").to_pylist())}


def _numbers(rows: StepRows) -> list[int]:
    return [int(n) for batch in rows.passes for n, w in zip(batch["number"], batch["weight"], strict=True) if w > 0]


def begin(folder: Path, layout: Layout, checkpoints: Checkpoints) -> None:
    run = Run(layout, checkpoints)
    done = run.train(0, STOPPED_AT)
    run.save(STOPPED_AT)
    _write(folder, "begun", done)


def go_on(folder: Path, layout: Layout, saved: dict[str, Checkpoints]) -> None:
    for name, checkpoints in saved.items():
        run = Run(layout, checkpoints)
        _write(folder, f"resumed from {name}", run.train(run.load(), NUM_STEPS))


def _write(folder: Path, name: str, done: Stretch) -> None:
    (folder / f"{name}, {rank()}.json").write_text(json.dumps(vars(done)))


def read(folder: Path, name: str, layout: Layout) -> list[Stretch]:
    """What each worker wrote."""
    return [
        Stretch(**json.loads((folder / f"{name}, {worker}.json").read_text())) for worker in range(layout.num_workers)
    ]


def on_workers(layout: Layout, work: Callable[[Path], None], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if layout.num_workers > 1:
        run_together(layout.num_workers, work, folder)
    else:
        work(folder)


def begun(storage: Storage, folder: Path, names: list[str]) -> dict[str, Checkpoints]:
    saved = {name: Checkpoints(storage, f"checkpoints/{name.replace(' ', '-')}") for name in names}
    for name, checkpoints in saved.items():
        on_workers(LAYOUTS[name], partial(begin, layout=LAYOUTS[name], checkpoints=checkpoints), folder / name)
    return saved


def samples(stretches: list[Stretch], layout: Layout) -> list[Counter[int]]:
    """The rows of each step over all replicas; peers of one replica must have had the same."""
    steps = []
    for step in range(len(stretches[0].rows)):
        by_replica = [
            {tuple(s.rows[step]) for w, s in enumerate(stretches) if layout.replica(w) == r}
            for r in range(layout.num_replicas)
        ]
        assert all(len(rows) == 1 for rows in by_replica)
        steps.append(Counter(number for rows in by_replica for number in next(iter(rows))))
    return steps


def check_resumed(folder: Path, saved_on: str, loaded_on: str) -> None:
    before, after = LAYOUTS[saved_on], LAYOUTS[loaded_on]
    started = read(folder / saved_on, "begun", before)
    rest = read(folder / loaded_on, f"resumed from {saved_on}", after)
    wanted = curve(sample(SAMPLE), Layout(), OPTIMIZER).losses
    for stretch in rest:
        assert started[0].losses + stretch.losses == pytest.approx(wanted, rel=TOLERANCE)
    steps = samples(started, before) + samples(rest, after)
    for epoch in (steps[:5], steps[5:]):
        assert sum(epoch, Counter()) == Counter(range(NUM_ROWS))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Checkpoints]]:
    """A run begun on each layout, saved to a local path."""
    folder = tmp_path_factory.mktemp("resume")
    return folder, begun(Storage(str(folder / "storage")), folder, [*LAYOUTS])


@pytest.mark.equivalence
@pytest.mark.parametrize("loaded_on", LAYOUTS)
def test_what_any_layout_saved_goes_on_with_this_one(
    loaded_on: str, local: tuple[Path, dict[str, Checkpoints]]
) -> None:
    folder, saved = local
    layout = LAYOUTS[loaded_on]
    on_workers(layout, partial(go_on, layout=layout, saved=saved), folder / loaded_on)
    for saved_on in LAYOUTS:
        check_resumed(folder, saved_on, loaded_on)


@pytest.mark.equivalence
@pytest.mark.services
@pytest.mark.parametrize(
    ("saved_on", "loaded_on"),
    [
        ("one process", "shard 2 x tensor 2 x pipeline 2"),
        ("shard 2 x tensor 2 x pipeline 2", "shard 4"),
        ("tensor 2 x pipeline 2", "one process"),
    ],
)
def test_a_run_goes_on_from_and_to_an_s3_server(s3: S3Server, saved_on: str, loaded_on: str, tmp_path: Path) -> None:
    saved = begun(s3.storage(f"resume-{saved_on.replace(' ', '-')}"), tmp_path, [saved_on])
    layout = LAYOUTS[loaded_on]
    on_workers(layout, partial(go_on, layout=layout, saved=saved), tmp_path / loaded_on)
    check_resumed(tmp_path, saved_on, loaded_on)
