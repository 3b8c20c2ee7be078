"""A small training of each workload, as one worker of any layout runs it: what the equivalence tests compare."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from cluster.layout import Layout
from jobs.features.split import SPLIT, TrainRows
from jobs.features.transform import Transform
from jobs.parallel.collectives import rank
from jobs.parallel.feed import Feed, Source, in_order
from jobs.parallel.gradients import scale_gradients
from jobs.parallel.parted import Parted, part
from jobs.spec import EarlyStoppingSpec, OptimizerSpec, TrainSpec
from jobs.training_step import TrainingStep
from jobs.workloads import WORKLOADS
from jobs.workloads.chain import Batch
from jobs.workloads.gan import GanSpec
from jobs.workloads.language import LanguageSpec
from jobs.workloads.recommender import RecommenderSpec
from jobs.workloads.tabular import TabularSpec
from jobs.workloads.tagging import TaggingSpec
from jobs.workloads.text import TextSpec
from jobs.workloads.vision import VisionSpec

NUM_ROWS, BATCH_SIZE, NUM_STEPS = 72, 16, 10
"""Five steps an epoch; its last batch has 8 rows, so every layout meets rows of weight 0."""
SHUFFLE_ROWS = 32
"""A window is cut into by a batch and holds fewer rows than an epoch."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Sample:
    """Rows of a workload, fitted and prepared, and the model's spec."""

    kind: str
    spec: Any
    transform: Transform
    rows: pa.Table
    dtype: torch.dtype = torch.float32
    """Of weights and inputs."""


@dataclass(frozen=True)
class Curve:
    """What a training run came to at each step."""

    losses: list[float]
    norms: list[float]
    """Of the gradients, before clipping."""


def train_spec(optimizer: str) -> TrainSpec:
    rules: dict[str, Any] = {
        "sgd": {"optimizer": OptimizerSpec(name="sgd", learning_rate=0.05)},
        "adamw": {"optimizer": OptimizerSpec(name="adamw", learning_rate=1e-3), "max_gradient_norm": 0.1},
    }
    return TrainSpec(batch_size=BATCH_SIZE, early_stopping=EarlyStoppingSpec(metric="loss"), **rules[optimizer])


def language(**model: Any) -> Sample:
    heads = {"num_heads": 4, "num_kv_heads": 2, "feed_forward_dim": 64} if "architecture" not in model else {}
    spec = LanguageSpec(context_length=16, num_layers=6, hidden_dim=32, **heads, **model)
    generator = np.random.default_rng(0)
    text = "".join(generator.choice(list("abcdefgh ijklmnop."), NUM_ROWS * 16 - 5))
    windows = WORKLOADS["language"].unfold(spec, pa.table({"document": ["one"], "text": [text]}))
    assert windows.num_rows == NUM_ROWS
    return Sample("language", spec, Transform(()), windows)


def fitted(kind: str, spec: Any, events: dict[str, Any], items: pa.Table | None = None) -> Sample:
    """Rows as prepare makes them, all of them training rows."""
    workload = WORKLOADS[kind]
    train = TrainRows(pa.table({**events, SPLIT: ["train"] * NUM_ROWS}))
    transform = Transform(workload.steps(spec))
    transform = transform.fit([train])
    rows = transform.apply(train.table)
    lookups = workload.lookups(transform, items or pa.table({}), lambda: TrainRows(rows))
    return Sample(kind, spec, transform.with_lookups(lookups), rows)


def recommender() -> Sample:
    generator = np.random.default_rng(0)
    users, films = ([f"{kind}{n}" for n in generator.integers(0, 9, NUM_ROWS)] for kind in ("user", "film"))
    ratings = pa.array(generator.integers(1, 6, NUM_ROWS), pa.float64())
    names = sorted(set(films))
    items = pa.table({"item_id": names, "title": names, "genres": [[f"genre{n % 3}"] for n in range(len(names))]})
    events = {"user_id": users, "item_id": films, "rating": ratings, "timestamp": pa.array(range(NUM_ROWS))}
    spec = RecommenderSpec(embedding_dim=8, num_negatives=16, dropout=0.3)
    return fitted("recommender", spec, events, items)


def tabular() -> Sample:
    generator = np.random.default_rng(0)
    numbers, places = generator.normal(size=(2, NUM_ROWS)), generator.choice(["north", "south", "east"], NUM_ROWS)
    label = np.where(numbers.sum(0) + (places == "north") > 0.3, "yes", "no")
    spec = TabularSpec(
        label="label", numeric=("a", "b"), categorical=("place",), hidden_dim=16, feed_forward_dim=32, num_layers=6
    )
    events = {"id": [str(n) for n in range(NUM_ROWS)], "a": numbers[0], "b": numbers[1], "place": places}
    return fitted("tabular", spec, {**events, "label": label.tolist()})


def vision() -> Sample:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, NUM_ROWS)
    images = generator.normal(size=(NUM_ROWS, 64)) + labels[:, None]
    spec = VisionSpec(height=8, width=8, channels=1, block_channels=(8, 8, 8, 16, 16, 16))
    events = {"id": [str(n) for n in range(NUM_ROWS)], "image": pa.array(list(images)), "label": labels.astype(str)}
    return fitted("vision", spec, events)


def text() -> Sample:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, NUM_ROWS)
    words = [generator.choice(["ab", "cd ", "efg ", f"h{label}"], generator.integers(1, 7)) for label in labels]
    spec = TextSpec(
        context_length=12,
        num_positions=16,
        num_layers=6,
        hidden_dim=16,
        num_heads=4,
        feed_forward_dim=32,
        dropout=0.2,
        tokenizer="bytes",
    )
    texts = ["".join(each) for each in words]
    return fitted("text", spec, {"id": [str(n) for n in range(NUM_ROWS)], "text": texts, "label": labels.astype(str)})


def tagging() -> Sample:
    generator = np.random.default_rng(0)
    words = [generator.choice(["ab", "cd", "efg", "h1"], generator.integers(1, 9)).tolist() for _ in range(NUM_ROWS)]
    tags = [[f"{len(word)} letters" for word in row] for row in words]
    spec = TaggingSpec(
        **{"context_length": 12, "num_positions": 16, "vocabulary_size": 270, "dropout": 0.2},
        **{"num_layers": 6, "hidden_dim": 16, "num_heads": 4, "feed_forward_dim": 32},
    )
    events = {"id": [str(n) for n in range(NUM_ROWS)], "text": [" ".join(row) for row in words], "tags": tags}
    return fitted("tagging", spec, events)


def gan() -> Sample:
    images = np.random.default_rng(0).random((NUM_ROWS, 64))
    spec = GanSpec(height=8, width=8, noise_dim=4, block_channels=(8, 8), discriminator_rate=2)
    events = {"id": [str(n) for n in range(NUM_ROWS)], "image": pa.array(list(images))}
    return fitted("gan", spec, events)


def augmenting(given: Sample, **augment: Any) -> Sample:
    """The same with a spec that has training change rows by chance."""
    return replace(given, spec=type(given.spec).model_validate(given.spec.model_dump() | {"augment": augment}))


SAMPLES: dict[str, Callable[[], Sample]] = {
    "recommender": recommender,
    "tabular": tabular,
    "text": text,
    "tagging": tagging,
    "vision": vision,
    "vision_float64": lambda: replace(vision(), dtype=torch.float64),
    "gan_float64": lambda: replace(gan(), dtype=torch.float64),
    "language": language,
    "language_tied": lambda: language(tie_embeddings=True),
    "language_qwen": lambda: language(qkv_bias=True, qk_norm=True, head_dim=12),
    "language_lstm": lambda: language(architecture="lstm"),
    "language_gru": lambda: language(architecture="gru", tie_embeddings=True),
    "tabular_augmented": lambda: augmenting(tabular(), noise=0.2, swap=0.3, drop=0.2),
    "vision_float64_augmented": lambda: augmenting(
        replace(vision(), dtype=torch.float64), rotate_degrees=20, scale=0.1, crop_pixels=1, flip=True, noise=0.2
    ),
    "language_augmented": lambda: augmenting(language(), replace=0.3),
}


@cache
def sample(name: str) -> Sample:
    return SAMPLES[name]()


def source(given: Sample) -> Source:
    workload = WORKLOADS[given.kind]

    def tensors(rows: pa.Table) -> Batch:
        values = workload.tensors(rows)
        return {name: value.to(given.dtype) if value.is_floating_point() else value for name, value in values.items()}

    return Source(
        given.rows.num_rows,
        in_order(given.rows, 0, SHUFFLE_ROWS),
        tensors,
        lambda generator: workload.draw(given.spec, given.transform, generator),
        workload.partition(given.spec).sequence,
        lambda batch, other: workload.augment(given.spec, batch, other),
    )


def parted(given: Sample, layout: Layout, device: torch.device = CPU) -> Parted:
    workload = WORKLOADS[given.kind]
    torch.manual_seed(0)
    model = workload.build(given.spec, given.transform).to(given.dtype).train()
    partition = workload.partition(given.spec)
    return part(model, layout, partition, lambda outputs, batch: workload.loss(given.spec, outputs, batch), device)


def curve(given: Sample, layout: Layout, optimizer: str, feed: Feed | None = None, device: torch.device = CPU) -> Curve:
    """Train for `NUM_STEPS` as one worker of the layout."""
    model = parted(given, layout, device)
    turns = WORKLOADS[given.kind].partition(given.spec).turns
    step = TrainingStep(train_spec(optimizer), model, NUM_STEPS, turns)
    feed = feed or Feed(source(given), layout, rank(), 0, BATCH_SIZE, device)
    found = Curve([], [])
    for epoch in range(NUM_STEPS // feed.steps_an_epoch):
        for rows in feed.epoch(epoch, 0):
            result = step(rows, len(found.losses), wants_norm=True)
            assert result.gradient_norm is not None
            found.losses.append(float(model.summed(result.summed_loss)) / rows.num_rows)
            found.norms.append(float(result.gradient_norm))
    return found


def write_curves(
    folder: Path, name: str, layout: Layout, optimizers: tuple[str, ...], fault: str | None = None
) -> None:
    """What each worker of a process group does: its curves, with a fault planted or not, into a file of its own."""
    curves = {
        optimizer: vars(
            FAULTS[fault](sample(name), layout, optimizer) if fault else curve(sample(name), layout, optimizer)
        )
        for optimizer in optimizers
    }
    (folder / f"{rank()}.json").write_text(json.dumps(curves))


def write_all_curves(folder: Path, name: str, layouts: Sequence[Layout], optimizers: tuple[str, ...]) -> None:
    """The same for one layout after another, each into a folder of its own."""
    for number, layout in enumerate(layouts):
        place = folder / str(number)
        place.mkdir(exist_ok=True)
        write_curves(place, name, layout, optimizers)


def with_gradients_times_micro_batches(given: Sample, layout: Layout, optimizer: str) -> Curve:
    """Each gradient the sum of the micro-batches' means, as if nobody had divided it."""
    backward = Parted.backward

    def too_large(model: Parted, passes: Sequence[Batch]) -> Tensor:
        loss = backward(model, passes)
        scale_gradients(model.model.parameters(), layout.micro_batches)
        return loss

    Parted.backward = too_large  # type: ignore[method-assign]  # this process is gone after the test
    return curve(given, layout, optimizer)


def with_other_rows_for_tensor_peers(given: Sample, layout: Layout, optimizer: str) -> Curve:
    """Each peer trains on the rows after those of the peer before it."""
    return curve(replace(given, rows=given.rows.take((np.arange(NUM_ROWS) + rank()) % NUM_ROWS)), layout, optimizer)


def with_a_repeated_row(given: Sample, layout: Layout, optimizer: str) -> Curve:
    """One row comes a second time, in the place of another."""
    return curve(replace(given, rows=given.rows.take([0, 0, *range(2, NUM_ROWS)])), layout, optimizer)


FAULTS: dict[str, Callable[[Sample, Layout, str], Curve]] = {
    "gradients times micro-batches": with_gradients_times_micro_batches,
    "other rows for tensor peers": with_other_rows_for_tensor_peers,
    "a repeated row": with_a_repeated_row,
}
