"""How much of a step the workers of a pipeline stand idle, by schedule, against theory.

    python -m benchmarks.pipeline_bubble

Each link of the chain sleeps instead of computing, so that four workers on two cores overlap as on four devices:
a step's idle share is then the schedule's, plus what messages and Python cost. Writes pipeline_bubble.md.
"""

import json
import statistics
import time
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from cluster.layout import Layout, Schedule
from jobs.parallel.collectives import rank
from jobs.parallel.parted import part
from jobs.parallel.pipeline import SCHEDULES, num_stages
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.partition import Partition
from tests.jobs.parallel.workers import run_together

NUM_WORKERS = 4
MICRO_BATCHES = (4, 8, 16)
REPEATS = 5
FORWARD_S = 0.04
"""Of one micro-batch on one worker, likewise the gradient of the inputs and that of the weights."""


class Sleep(torch.autograd.Function):
    """Passes values on, after sleeping for a while in each direction."""

    @staticmethod
    def forward(context: Any, values: Tensor, forward_s: float, backward_s: float) -> Tensor:
        context.backward_s = backward_s
        time.sleep(forward_s)
        return values.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        time.sleep(context.backward_s)
        return gradients[0], None, None


class SleepingLink(nn.Module):
    """A layer whose forward pass, gradient of inputs and gradient of weights take the same time each."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.seconds = seconds

    def forward(self, hidden: Tensor | None, batch: Batch) -> Tensor:
        """[rows, 8], both ways."""
        # The first link's input has no gradient, which would spare the first worker some work.
        values = batch["x"] + 0 * self.weight if hidden is None else hidden
        weight = Sleep.apply(self.weight, 0.0, self.seconds)
        result: Tensor = Sleep.apply(values, self.seconds, self.seconds) * weight
        return result


def theory(schedule: Schedule, micro_batches: int) -> float | None:
    """The idle share of a step where all three kinds of work take as long; None where no closed form is published."""
    p, m = NUM_WORKERS, micro_batches
    match schedule:
        case "gpipe" | "1f1b":  # Narayanan et al., 2021, section 2.2
            return (p - 1) / (m + p - 1)
        case "interleaved_1f1b":  # the same section: each worker has two stages
            return (p - 1) / (2 * m + p - 1)
        case "zbv":  # Qi et al., 2023, section 6: none, given enough micro-batches
            return 0.0 if m >= 2 * p else None
        case _:
            return None


def measure(folder: Path, layout: Layout) -> None:
    """What each worker does: a step to warm up, then `REPEATS` that are timed."""
    stages = num_stages(layout)
    seconds = FORWARD_S * NUM_WORKERS / stages
    chain = Chain({f"link{number}": SleepingLink(seconds) for number in range(stages)})
    partition = Partition(units=("link*",), num_links=stages)
    model = part(chain, layout, partition, lambda outputs, batch: outputs.sum(-1), torch.device("cpu"))
    batch = {"x": torch.ones(layout.micro_batches, 8), "weight": torch.ones(layout.micro_batches)}
    times = []
    for _ in range(1 + REPEATS):
        torch.distributed.barrier()
        started = time.perf_counter()
        model.backward([batch])
        torch.distributed.barrier()
        times.append(time.perf_counter() - started)
    if rank() == 0:
        (folder / "times.json").write_text(json.dumps(times[1:]))


def main() -> None:
    """Measure every schedule and write the table."""
    lines = [
        "# Idle share of a pipeline's workers",
        "",
        f"`python -m benchmarks.pipeline_bubble`: {NUM_WORKERS} workers, forward pass, gradient of inputs and gradient "
        f"of weights {1000 * FORWARD_S:.0f} ms each of sleep a worker and micro-batch, {REPEATS} steps; "
        "2 cores. Idle share = 1 - work of one worker / time of the step.",
        "",
        "| schedule | micro-batches | theory | measured, median | lowest | highest |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for schedule, micro_batches in product(SCHEDULES, MICRO_BATCHES):
        layout = Layout(pipeline=NUM_WORKERS, schedule=schedule, micro_batches=micro_batches)
        with TemporaryDirectory() as folder:
            run_together(NUM_WORKERS, partial(measure, layout=layout), Path(folder))
            times = json.loads((Path(folder) / "times.json").read_text())
        idle = [1 - 3 * FORWARD_S * micro_batches / seconds for seconds in times]
        expected = theory(schedule, micro_batches)
        shown = "-" if expected is None else f"{expected:.3f}"
        measured = " | ".join(f"{value:.3f}" for value in (statistics.median(idle), min(idle), max(idle)))
        row = f"| {schedule} | {micro_batches} | {shown} | {measured} |"
        print(row, flush=True)
        lines.append(row)
    Path(__file__).with_suffix(".md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
