"""How fast prepared rows reach a training step, beside PyTorch DataLoaders over the same Parquet files.

    OMP_NUM_THREADS=1 python -m benchmarks.training_feed [--rounds 4]

A turn is one shuffled epoch in this process, once into an empty step and once into that of a small MLP; all feeds take
turns within a round, and a ratio is that of two turns of one round. What our reader reads ahead for the next epoch is
paid for in the turn it began in. Writes training_feed.md.
"""

import argparse
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, get_worker_info

from cluster.environment import applied
from cluster.layout import Layout
from cluster.lifecycle import connected
from cluster.spec import check
from cluster.storage import Storage
from jobs import prepare
from jobs.fixed_lists import as_lists
from jobs.parallel.feed import Feed, Source
from jobs.prepared import open_split, read_transform
from jobs.row_stream import RowStream, open_stream
from jobs.spec import RingSpec
from jobs.worker_group import TRAIN_ENVIRONMENT
from jobs.workloads import tabular
from jobs.workloads.chain import Batch
from jobs.workloads.tabular import TabularSpec

NUM_ROWS, NUM_NUMBERS, NUM_FILES = 1_000_000, 13, 8
BATCH_SIZE = 1024
WINDOW_ROWS = 131_072
"""The default of train.shuffle_rows; the DataLoader's shuffle buffer is as long."""
NAIVE_BATCHES = 60
"""Row by row an epoch takes too long, and its rate is the same from the first batch on."""
CPU = torch.device("cpu")
OURS, OURS_WINDOWED = "Rayline, one window", "Rayline, windows"
RIVALS = ("iterable, 0 workers", "iterable, 2 workers", "map, whole batches", "map, row by row")
EMPTY, MLP = "empty", "MLP"


class Epochs(Protocol):
    """One way to feed."""

    def epoch(self, number: int) -> Iterator[Batch]:
        """Its shuffled batches."""

    def settle(self, number: int) -> None:
        """Wait for what an epoch began and did not use."""


@dataclass
class Ours:
    """The stream and feed that train uses."""

    stream: RowStream
    feed: Feed

    def epoch(self, number: int) -> Iterator[Batch]:
        """The one pass of each step."""
        return (rows.passes[0] for rows in self.feed.epoch(number, 0))

    def settle(self, number: int) -> None:
        """Wait for the beginning of the next epoch."""
        if self.stream.shuffle_rows < self.stream.num_rows:
            ray.get(ray.get(self.stream.reader.stretch.remote(number + 1, 0)))


@dataclass
class Loaded:
    """A DataLoader."""

    loader: "DataLoader[Batch]"
    num_batches: int | None = None

    def epoch(self, number: int) -> Iterator[Batch]:
        """As the loader gives them."""
        return islice(iter(self.loader), self.num_batches)

    def settle(self, number: int) -> None:
        """It begins nothing else."""


class RowGroups(IterableDataset[Batch]):
    """Row groups in random order, through a shuffle buffer; each worker reads its share of them."""

    def __init__(self, paths: list[str], columns: list[str]) -> None:
        self._paths, self._columns = paths, columns
        self._groups = [(p, g) for p, path in enumerate(paths) for g in range(pq.read_metadata(path).num_row_groups)]
        self._epoch = 0

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        share, shares = (worker.id, worker.num_workers) if worker else (0, 1)
        order = torch.randperm(len(self._groups), generator=torch.Generator().manual_seed(self._epoch)).tolist()
        self._epoch += 1
        files = [pq.ParquetFile(path, pre_buffer=True) for path in self._paths]
        held: list[Batch] = []
        for place in order[share::shares]:
            path, group = self._groups[place]
            held.append(tabular.tensors(as_lists(files[path].read_row_group(group, columns=self._columns))))
            if sum(len(rows["class"]) for rows in held) >= WINDOW_ROWS // shares:
                held = [(yield from self._shuffled(held))]
        rest = yield from self._shuffled(held)
        if len(rest["class"]):
            yield rest

    @staticmethod
    def _shuffled(held: list[Batch]) -> "Iterator[Batch]":
        """Whole batches of what is held; returns what is left."""
        rows = {name: torch.cat([part[name] for part in held]) for name in held[0]}
        order = torch.randperm(len(rows["class"]))
        whole = len(order) - len(order) % BATCH_SIZE
        for places in order[:whole].split(BATCH_SIZE) if whole else ():
            yield {name: values[places] for name, values in rows.items()}
        return {name: values[order[whole:]] for name, values in rows.items()}


class InMemory(Dataset[Batch]):
    """All rows as tensors, which an index or a list of them picks from."""

    def __init__(self, rows: Batch) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows["class"])

    def __getitem__(self, places: int | list[int]) -> Batch:
        return {name: values[places] for name, values in self._rows.items()}


@dataclass(frozen=True)
class Turn:
    """What one epoch came to."""

    num_batches: int
    seconds: float
    waited_s: float
    """For batches."""

    @property
    def rate(self) -> float:
        """Batches a second."""
        return self.num_batches / self.seconds

    @property
    def stall(self) -> float:
        """The share of the time that the step stood still."""
        return self.waited_s / self.seconds


def ring(folder: Path) -> RingSpec:
    """The table, its model, and training in one window."""
    settings = {
        "name": "feed",
        "storage": str(folder),
        "raw": {"events": {"path": "raw/rows"}},
        "prepare": {"split": {"by": "hash", "valid": 0.1, "test": 0.1}, "in_process_bytes": 2**31},
        "workload": {
            "kind": "tabular",
            "label": "label",
            "numeric": [f"n{number}" for number in range(NUM_NUMBERS)],
            "dropout": 0.0,
        },
        "train": {
            "num_epochs": 10_000,
            "batch_size": BATCH_SIZE,
            "shuffle_rows": NUM_ROWS,
            "early_stopping": {"metric": "log_loss", "mode": "min"},
        },
    }
    return check(RingSpec, settings, "the benchmark")


def write_raw(folder: Path) -> None:
    """Numbers, and which of them add up to more than nothing."""
    generator = np.random.default_rng(0)
    (folder / "raw" / "rows").mkdir(parents=True)
    for number, ids in enumerate(np.array_split(np.arange(NUM_ROWS), NUM_FILES)):
        values = generator.normal(size=(NUM_NUMBERS, len(ids)))
        rows = {"id": pa.array(ids).cast(pa.string()), **{f"n{place}": row for place, row in enumerate(values)}}
        labels = np.where(values.sum(0) > 0, "more", "less")
        pq.write_table(pa.table({**rows, "label": labels}), folder / "raw" / "rows" / f"{number}.parquet")


def feeds_of(spec: RingSpec, storage: Storage, folder: str) -> dict[str, Epochs]:
    """Every feed by its name."""
    split = open_split(storage, folder, "train", tabular.ties)

    def ours(shuffle_rows: int) -> Ours:
        stream = open_stream(split, 0, spec.train.model_copy(update={"shuffle_rows": shuffle_rows}), 0)
        source = Source(split.num_rows, stream.rows, tabular.tensors, lambda generator: {})
        return Ours(stream, Feed(source, Layout(), 0, 0, BATCH_SIZE, CPU))

    paths = sorted({group.path for group in split.groups})
    columns = [name for name in pq.read_schema(paths[0]).names if name != tabular.ID]
    whole = pa.concat_tables([as_lists(pq.read_table(path, columns=columns)) for path in paths])
    rows = InMemory(tabular.tensors(whole))
    batched = BatchSampler(RandomSampler(rows), BATCH_SIZE, drop_last=False)
    rivals = (
        Loaded(DataLoader(RowGroups(paths, columns), batch_size=None)),
        Loaded(DataLoader(RowGroups(paths, columns), batch_size=None, num_workers=2, persistent_workers=True)),
        Loaded(DataLoader(rows, batch_size=None, sampler=batched)),
        Loaded(DataLoader(rows, batch_size=BATCH_SIZE, shuffle=True), NAIVE_BATCHES),
    )
    return {OURS: ours(NUM_ROWS), OURS_WINDOWED: ours(WINDOW_ROWS), **dict(zip(RIVALS, rivals, strict=True))}


def mlp_step(spec: TabularSpec, model: nn.Module) -> Callable[[Batch], None]:
    """Forward, backward and optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        losses = tabular.loss(spec, model({"key": batch["class"], **batch}), batch)
        losses.mean().backward()
        optimizer.step()

    return step


def turn(feed: Epochs, number: int, step: Callable[[Batch], Any]) -> Turn:
    """One epoch."""
    gc.collect()
    num_batches, waited_s, started = 0, 0.0, time.perf_counter()
    batches, asked = feed.epoch(number), started
    for batch in batches:
        waited_s += time.perf_counter() - asked
        step(batch)
        num_batches += 1
        asked = time.perf_counter()
    waited_s += time.perf_counter() - asked
    feed.settle(number)
    return Turn(num_batches, time.perf_counter() - started, waited_s)


def spread(values: list[float], digits: int) -> str:
    """The median, and the lowest and highest."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def measured(feeds: dict[str, Epochs], steps: dict[str, Callable[[Batch], Any]], num_rounds: int) -> dict[Any, Any]:
    """Every turn by step and feed; the first round does not count."""
    turns: dict[tuple[str, str], list[Turn]] = {}
    number = 0
    for count in range(num_rounds + 1):
        for step in steps:
            for name, feed in feeds.items():
                found = turn(feed, number, steps[step])
                print(f"round {count}, {step}, {name}: {found.rate:,.0f}/s, stall {found.stall:.1%}", flush=True)
                if count:
                    turns.setdefault((step, name), []).append(found)
            number += 1
    return turns


def table(turns: dict[Any, Any], names: list[str]) -> list[str]:
    """A line a feed."""
    lines = [
        "| feed | batches/s, empty step | one window / this | windows / this | batches/s, MLP step | "
        "one window / this, MLP | windows / this, MLP | stall share, MLP |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        cells = [name]
        for step, digits in ((EMPTY, 0), (MLP, 1)):
            rates = [found.rate for found in turns[step, name]]
            cells.append(spread(rates, digits))
            for our_name in (OURS, OURS_WINDOWED):
                ours = turns[step, our_name]
                cells.append(spread([our.rate / rate for our, rate in zip(ours, rates, strict=True)], 2))
        cells.append(spread([100 * found.stall for found in turns[MLP, name]], 1) + " %")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Prepare, measure, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=4)
    num_rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    environment = {**TRAIN_ENVIRONMENT, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as scratch, applied(environment), connected():
        write_raw(Path(scratch))
        spec, storage = ring(Path(scratch)), Storage(scratch)
        folder = prepare.run(spec, storage).folder
        assert isinstance(spec.workload, TabularSpec)
        model = tabular.build(spec.workload, read_transform(storage, folder))
        feeds = feeds_of(spec, storage, folder)
        turns = measured(feeds, {EMPTY: lambda batch: None, MLP: mlp_step(spec.workload, model)}, num_rounds)
        num_train = open_split(storage, folder, "train").num_rows
    lines = [
        "# The feed of training beside PyTorch's DataLoader",
        "",
        f"`OMP_NUM_THREADS=1 python -m benchmarks.training_feed --rounds {num_rounds}`: {num_train:,} prepared rows of "
        f"{NUM_NUMBERS} numbers, shuffled, in batches of {BATCH_SIZE:,}; {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, Ray {ray.__version__}, "
        f"pyarrow {pa.__version__}. A turn is an epoch (row by row: {NAIVE_BATCHES} batches), all feeds in turn; "
        "median (lowest to highest) over all rounds, ratios within a round, above 1 where Rayline is faster. Windows "
        f"and the shuffle buffer of `iterable` hold {WINDOW_ROWS:,} rows; `one window` and `map` hold all rows in "
        "memory, `map` as tensors that were made before the clock ran.",
        "",
        *table(turns, list(feeds)),
        "",
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
