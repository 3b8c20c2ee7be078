"""What a training step costs on Rayline beside a torchrun loop written by hand: same model, batch and optimizer.

    OMP_NUM_THREADS=1 python -m benchmarks.train_overhead [--rounds 5]

Two workers, replicate=2. In each round ours runs twice, fed by Ray Data and with its rows in memory, and the rival
once, in turn; a ratio is that of two medians of the same round. Also the time from submitting to the end of the first
step. Writes train_overhead.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from benchmarks.ddp_loop import BATCH_SIZE, LENGTH, NUM_ROWS
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
from jobs.workloads import language
from jobs.workloads.language import LanguageSpec

TRAIN = TrainSpec(
    num_epochs=10,
    batch_size=BATCH_SIZE,
    schedule="constant",
    optimizer=OptimizerSpec(name="adamw", learning_rate=1e-3, weight_decay=0.01),
    early_stopping=EarlyStoppingSpec(metric="bits_per_byte"),
)
NUM_WORKERS = 2
WARM_UP = 5
DDP_LOOP = Path(__file__).with_name("ddp_loop.py")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """A model, and how many steps of it are timed in a round."""

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


SIZES = (Size("small", 64, 4, 80), Size("medium", 256, 4, 40), Size("large", 512, 8, 12))


def train_on_worker(settings: dict[str, Any]) -> None:
    """What Ray Train calls: the objects and the loop of jobs.fit, timed."""
    torch.set_num_threads(1)
    spec = LanguageSpec(context_length=LENGTH, **settings["model"])
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
    step = TrainingStep(TRAIN, model, settings["num_steps"])
    times: list[float] = []
    first_step_at = 0.0
    while len(times) < settings["num_steps"]:
        epoch = feed.epoch(len(times) // feed.steps_an_epoch, 0)
        batches = list(epoch) if settings["in_memory"] else epoch
        started = time.perf_counter()
        for batch in batches:
            step(batch, len(times), wants_norm=False)
            now = time.perf_counter()
            times.append(now - started)
            started = now
            first_step_at = first_step_at or time.time()
    if rank() == 0:
        Path(settings["file"]).write_text(json.dumps({"times": times, "first_step_at": first_step_at}))


def ours(size: Size, in_memory: bool, folder: Path) -> tuple[float, float]:
    """The median seconds of a step, and the seconds from submitting to the end of the first step."""
    file = folder / "ours.json"
    submitted = time.time()
    rows = open_stream(open_split(Storage(str(folder)), "", "train"), 0, TRAIN, 0)
    settings = {"num_steps": size.num_steps, "model": size.model, "in_memory": in_memory}
    TorchTrainer(
        train_on_worker,
        train_loop_config={**settings, "rows": rows, "file": str(file)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=NUM_WORKERS, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="overhead", storage_path=str(folder)),
    ).fit()
    found = json.loads(file.read_text())
    return statistics.median(found["times"][WARM_UP:]), found["first_step_at"] - submitted


def write_rows(folder: Path) -> None:
    """The training rows, as prepare leaves them."""
    tokens = np.random.default_rng(0).integers(0, 256, (NUM_ROWS, LENGTH + 1)).astype(np.int16)
    rows = pa.table({"tokens": pa.FixedSizeListArray.from_arrays(tokens.reshape(-1), LENGTH + 1)})
    rows = rows.append_column("num_tokens", pa.array([LENGTH] * NUM_ROWS, pa.int16()))
    (folder / "train").mkdir()
    pq.write_table(rows, folder / "train" / "rows.parquet")


def by_hand(size: Size, folder: Path) -> float:
    """The median seconds of a step of the rival."""
    file = folder / "by_hand.json"
    command = ["torch.distributed.run", "--standalone", f"--nproc-per-node={NUM_WORKERS}", str(DDP_LOOP)]
    command += [json.dumps(size.model), str(size.num_steps), str(file)]
    subprocess.run([sys.executable, "-m", *command], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return statistics.median(json.loads(file.read_text())[WARM_UP:])


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    """Measure every size and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    lines = [
        "# A training step beside a torchrun loop written by hand",
        "",
        f"`python -m benchmarks.train_overhead --rounds {rounds}`: decoder transformer, replicate=2 on 2 cores with a "
        f"thread each; global batch {BATCH_SIZE} x {LENGTH} tokens, fp32, AdamW. Medians of a round's steps after "
        f"{WARM_UP}; ratios of one round, median (lowest to highest) over {rounds} rounds.",
        "",
        "| model | ms a step by hand | Rayline / by hand | with rows in memory / by hand | feed / in memory | "
        "submit to first step, s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    # Ray starts its workers at a lower priority than the rival's, which would be the machine's noise, not ours.
    with TemporaryDirectory() as scratch, applied({"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}), connected(4):
        folder = Path(scratch)
        write_rows(folder)
        for size in SIZES:
            found = [
                (ours(size, False, folder), by_hand(size, folder), ours(size, True, folder)) for _ in range(rounds)
            ]
            fed = [ours_fed[0] / hand for ours_fed, hand, _ in found]
            kept = [in_memory[0] / hand for _, hand, in_memory in found]
            feed = [ours_fed[0] / in_memory[0] for ours_fed, _, in_memory in found]
            first = [ours_fed[1] for ours_fed, _, _ in found]
            by_hand_ms = spread([1000 * hand for _, hand, _ in found], 1)
            cells = [size.name, by_hand_ms, spread(fed, 3), spread(kept, 3), spread(feed, 3), spread(first, 1)]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    ray.shutdown()
    Path(__file__).with_suffix(".md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
