"""Models without numbers for the tests of forecasts, and the same models trained for real."""

import json
from collections.abc import Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch

from cluster.layout import Layout
from jobs.measured_steps import peak_of
from jobs.parallel.collectives import rank
from jobs.parallel.feed import Feed
from jobs.search.footprint import Recorder
from jobs.search.memory import OptimizerMemory
from jobs.search.stretches import Example, Model
from jobs.training_step import TrainingStep
from jobs.workloads import WORKLOADS
from jobs.workloads.language import LanguageSpec
from tests.jobs.parallel.training import BATCH_SIZE, CPU, Sample, parted, sample, source, train_spec

WIDE = {"hidden_dim": 128, "feed_forward_dim": 384, "num_heads": 4, "num_kv_heads": 2, "num_layers": 4}


@cache
def wide() -> Sample:
    """A language model whose tensors are larger than what lies beside them."""
    given = sample("language")
    return Sample("language", LanguageSpec(context_length=16, **WIDE), given.transform, given.rows)


@cache
def wide_heads() -> Sample:
    """The same with two heads for each of eight tensor peers."""
    given = sample("language")
    spec = LanguageSpec(context_length=16, **{**WIDE, "num_heads": 16, "num_kv_heads": 16})
    return Sample("language", spec, given.transform, given.rows)


def sample_of(name: str) -> Sample:
    return {"wide": wide, "wide_heads": wide_heads}.get(name, lambda: sample(name))()


@cache
def model_of(name: str) -> Model:
    given = sample_of(name)
    workload = WORKLOADS[given.kind]
    drawn = workload.draw(given.spec, given.transform, torch.Generator())
    recorder = Recorder()
    with recorder:
        whole = workload.build(given.spec, given.transform).train()
    return Model(
        whole,
        workload.partition(given.spec),
        lambda outputs, batch: workload.loss(given.spec, outputs, batch),
        Example(workload.tensors(given.rows.slice(0, 2)), drawn),
        recorder,
    )


def adamw(shapes: Sequence[tuple[int, ...]]) -> OptimizerMemory:
    """Two moments a weight, and two of the largest weight's size while it is moved."""
    sizes = [4 * prod(shape) for shape in shapes]
    return OptimizerMemory(2 * sum(sizes), 2 * max(sizes, default=0))


def write_peaks(folder: Path, name: str, layouts: Sequence[dict[str, Any]]) -> None:
    """What each worker of a process group does: its peaks of two real steps of each layout, into a file of its own.

    Of two tries the less: gloo's threads hold memory of a message until they run again, on a busy machine for long.
    """
    given = sample_of(name)
    spec = train_spec("adamw").model_copy(update={"max_gradient_norm": None})
    peaks = []
    for layout in (Layout(**each) for each in layouts):

        def work(layout: Layout = layout) -> TrainingStep:
            step = TrainingStep(spec, parted(given, layout), 10, WORKLOADS[given.kind].partition(given.spec).turns)
            feed = Feed(source(given), layout, rank(), 0, BATCH_SIZE, CPU)
            for number, rows in zip(range(2), feed.epoch(0, 0), strict=False):
                step(rows, number, wants_norm=False)
            return step

        peaks.append(min(peak_of(work, CPU)[1] for _ in range(2)))
    (folder / f"{rank()}.json").write_text(json.dumps(peaks))
