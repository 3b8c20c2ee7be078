"""What a training step costs on Rayline beside a torchrun loop written by hand: same model, batch and optimizer.

    OMP_NUM_THREADS=1 python -m benchmarks.train_overhead [--rounds 12]

Two workers, replicate=2. Both groups stay alive and train a few steps in turn: ours fed by Ray Data, the rival, ours
with its batches in memory, and again; a ratio is that of two turns of one round. Also the time from submitting to the
end of the first step. Writes train_overhead.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, count, cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from benchmarks.ddp_loop import BATCH_SIZE, BY_HAND, LENGTH, NUM_ROWS
from benchmarks.turns import end_turns, give_turn, my_turns, tell
from cluster.environment import applied
from cluster.layout import Layout
from cluster.lifecycle import connected
from cluster.storage import Storage
from jobs.parallel.collectives import rank
from jobs.parallel.feed import Feed, Source
from jobs.parallel.parted import part
from jobs.prepared import open_split
from jobs.row_stream import RowStream, open_stream
from jobs.spec import EarlyStoppingSpec, OptimizerSpec, TrainSpec
from jobs.training_step import TrainingStep
from jobs.worker_group import TRAIN_ENVIRONMENT
from jobs.workloads import language
from jobs.workloads.language import LanguageSpec

TRAIN = TrainSpec(
    num_epochs=10_000,
    batch_size=BATCH_SIZE,
    schedule="constant",
    optimizer=OptimizerSpec(name="adamw", learning_rate=1e-3, weight_decay=0.01),
    early_stopping=EarlyStoppingSpec(metric="bits_per_byte"),
)
FED, IN_MEMORY = "fed", "in memory"
NUM_WORKERS = 2
WARM_UP = 3
"""Rounds that do not count: Ray Train still starts processes of its own."""
START_S = 180
DDP_LOOP = Path(__file__).with_name("ddp_loop.py")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """A model, and how many steps of it make a turn of some seconds."""

    name: str
    hidden_dim: int
    num_layers: int
    num_steps: int

    @property
    def model(self) -> dict[str, Any]:
        return {
            "num_layers": self.num_layers,
            "hidden_dim": self.hidden_dim,
            "num_heads": 4,
            "num_kv_heads": 4,
            "feed_forward_dim": 4 * self.hidden_dim,
            "tie_embeddings": False,
        }


SIZES = (Size("small", 64, 4, 80), Size("medium", 256, 4, 12), Size("large", 512, 8, 3))


@dataclass(frozen=True)
class Round:
    """Seconds of one turn of each."""

    fed: float
    by_hand: float
    in_memory: float


def train_on_worker(settings: dict[str, Any]) -> None:
    """What Ray Train calls: the objects of jobs.fit and their loop, a few steps a turn."""
    torch.set_num_threads(1)
    spec, folder = LanguageSpec(context_length=LENGTH, **settings["model"]), Path(settings["folder"])
    layout = Layout(replicate=NUM_WORKERS)
    torch.manual_seed(0)
    model = part(
        language.build(spec, None),  # type: ignore[arg-type]  # bytes need no transform
        layout,
        language.partition(spec),
        lambda outputs, batch: language.loss(spec, outputs, batch),
        CPU,
    )
    stream: RowStream = settings["rows"]
    source = Source(NUM_ROWS, stream.rows, language.tensors, lambda generator: {})
    feed = Feed(source, layout, rank(), 0, BATCH_SIZE, CPU)
    batches = {FED: chain.from_iterable(feed.epoch(epoch, 0) for epoch in count()), IN_MEMORY: cycle(feed.epoch(0, 0))}
    step = TrainingStep(TRAIN, model, 1)
    for number, name in my_turns(folder, (FED, IN_MEMORY)):
        started = time.perf_counter()
        for batch in islice(batches[name], settings["num_steps"]):
            step(batch, 0, wants_norm=False)
        if rank() == 0:
            tell(folder, number, time.perf_counter() - started)


def rounds_of(size: Size, num_rounds: int, folder: Path) -> tuple[list[Round], float]:
    """What every round took, and the seconds from submitting ours to the end of its first turn, of one step."""
    folder.mkdir()
    submitted = time.monotonic()
    rows = open_stream(open_split(Storage(str(folder.parent)), "", "train"), 0, TRAIN, 0)
    settings = {"model": size.model, "num_steps": size.num_steps, "folder": str(folder), "rows": rows}
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=NUM_WORKERS, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name=size.name, storage_path=str(folder)),
    )
    with ThreadPoolExecutor() as threads:
        turns = threads.submit(_turns, size, num_rounds, folder, submitted)
        trainer.fit()
        return turns.result()


def _turns(size: Size, num_rounds: int, folder: Path, submitted: float) -> tuple[list[Round], float]:
    """Give the turns."""
    command = ["torch.distributed.run", "--standalone", f"--nproc-per-node={NUM_WORKERS}", str(DDP_LOOP)]
    command += [json.dumps(size.model), str(size.num_steps), str(folder)]
    first_turn_s = give_turn(folder, 0, FED, START_S)
    first_step_s = time.monotonic() - submitted - first_turn_s * (1 - 1 / size.num_steps)
    rival = subprocess.Popen([sys.executable, "-m", *command], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        number, found = 0, []
        for _ in range(WARM_UP + num_rounds):
            seconds = []
            for name in (FED, BY_HAND, IN_MEMORY):
                number += 1
                seconds.append(give_turn(folder, number, name, START_S))
            found.append(Round(*seconds))
        return found[WARM_UP:], first_step_s
    finally:
        end_turns(folder)
        rival.wait()


def write_rows(folder: Path) -> None:
    """The training rows, as prepare leaves them."""
    tokens = np.random.default_rng(0).integers(0, 256, (NUM_ROWS, LENGTH + 1)).astype(np.int16)
    rows = pa.table({"tokens": pa.FixedSizeListArray.from_arrays(tokens.reshape(-1), LENGTH + 1)})
    rows = rows.append_column("num_tokens", pa.array([LENGTH] * NUM_ROWS, pa.int16()))
    (folder / "train").mkdir()
    pq.write_table(rows, folder / "train" / "rows.parquet")


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    """Measure every size and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=12)
    num_rounds = parser.parse_args().rounds
    lines = [
        "# A training step beside a torchrun loop written by hand",
        "",
        f"`python -m benchmarks.train_overhead --rounds {num_rounds}`: decoder transformer, replicate=2 on 2 cores, "
        f"one thread each; global batch {BATCH_SIZE} x {LENGTH} tokens, fp32, AdamW. Both groups of processes stay "
        "alive and take turns of some seconds; ratios of one round, median (lowest to highest) over all rounds.",
        "",
        "| model | ms a step by hand | Rayline / by hand | with batches in memory / by hand | fed / in memory | "
        "submit to first step, s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    # Ray starts its workers at a lower priority than the rival's, which would be the machine's noise, not ours.
    environment = {**TRAIN_ENVIRONMENT, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as scratch, applied(environment), connected(4):
        write_rows(Path(scratch))
        for size in SIZES:
            rounds, first_step_s = rounds_of(size, num_rounds, Path(scratch) / size.name)
            cells = [
                size.name,
                spread([1000 * r.by_hand / size.num_steps for r in rounds], 1),
                spread([r.fed / r.by_hand for r in rounds], 3),
                spread([r.in_memory / r.by_hand for r in rounds], 3),
                spread([r.fed / r.in_memory for r in rounds], 3),
                f"{first_step_s:.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    Path(__file__).with_suffix(".md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
