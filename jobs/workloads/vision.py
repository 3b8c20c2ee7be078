"""vision: names what small images show, with a convolutional network of residual blocks (He et al., 2016).

GroupNorm (Wu and He, 2018) stands where He et al. have batch normalisation: statistics of a batch would depend on how
its rows are dealt out to workers.
"""

from collections.abc import Callable
from itertools import pairwise
from math import gcd
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from cluster.spec import Spec
from jobs.features.arrays import one_array
from jobs.features.columns import Column
from jobs.features.scaling import Scaling
from jobs.features.split import TrainRows
from jobs.features.step import Step
from jobs.features.transform import Transform
from jobs.features.vocabulary import Vocabulary
from jobs.workloads import classification
from jobs.workloads.activation import ACTIVATIONS, Activation
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.image_augment import ImageAugmentSpec, augmented
from jobs.workloads.partition import Partition

NUM_GROUPS = 8
"""Of the channels of a block that are normalised together, or as many as divide them."""
NUM_GOLDEN_ROWS = 16

metrics = classification.METRICS
lower_is_better = classification.LOWER_IS_BETTER
apart = classification.apart
time: str | None = None
ties: tuple[str, ...] = ("id",)
unfolds_by: tuple[str, ...] = ()


class VisionSpec(Spec):
    """The images and the size of the model."""

    kind: Literal["vision"] = "vision"
    height: int = Field(ge=1)
    """In pixels; all images are of one size."""
    width: int = Field(ge=1)
    channels: int = Field(1, ge=1)
    """Numbers a pixel: 1 is grey, 3 are colours."""
    block_channels: tuple[Annotated[int, Field(ge=1)], ...] = Field((16, 16, 32, 32), min_length=1)
    """The output channels of each block; one that has more than the block before halves height and width."""
    activation: Activation = "relu"
    label_smoothing: float = Field(0, ge=0, lt=1)
    """In training, the share of each row that is wanted of all classes alike."""
    class_weights: Literal["alike", "balanced"] = "alike"
    """Whether every row counts alike in training, or every class."""
    augment: ImageAugmentSpec = ImageAugmentSpec()

    @model_validator(mode="after")
    def _stays_in_sight(self) -> "VisionSpec":
        most = min(self.height, self.width) - 1
        if self.augment.crop_pixels > most:
            raise ValueError(
                f"augment.crop_pixels={self.augment.crop_pixels} could move all of an image of {self.height} x "
                f"{self.width} pixels out of sight; give at most {most}"
            )
        return self


def event_columns(spec: VisionSpec) -> tuple[Column, ...]:
    """An image: which one, its numbers channel by channel and in each row by row, what it shows."""
    return (
        Column("id", "id"),
        Column("image", "numbers", length=spec.channels * spec.height * spec.width),
        Column("label", "id"),
    )


def item_columns(spec: VisionSpec) -> tuple[Column, ...]:
    """There are no items."""
    return ()


def unfold(spec: VisionSpec, events: pa.Table) -> pa.Table:
    """An image is a training row."""
    return events


def steps(spec: VisionSpec) -> tuple[Step, ...]:
    """Each channel is scaled; the labels of the training rows get an index each."""
    return (
        Scaling(column="image", output="pixels", groups=spec.channels, of_lists=True),
        Vocabulary(column="label", output=classification.CLASS),
        *classification.weighing(spec.class_weights, "label"),
    )


def lookups(transform: Transform, items: pa.Table, train: Callable[[], TrainRows]) -> dict[str, pa.Table]:
    """None."""
    return {}


class Stem(nn.Module):
    """Pixels as images, and a first convolution."""

    def __init__(self, spec: VisionSpec, num_channels: int) -> None:
        super().__init__()
        self.shape = (spec.channels, spec.height, spec.width)
        self.convolution = _convolution(spec.channels, num_channels, size=3, stride=1)
        self.norm = _norm(num_channels)
        self.activation = ACTIVATIONS[spec.activation]

    def forward(self, hidden: None, batch: Batch) -> Tensor:
        """`pixels` [rows, channels * height * width] float32 -> [rows, num_channels, height, width]."""
        return self.activation(self.norm(self.convolution(batch["pixels"].unflatten(1, self.shape))))


class Block(nn.Module):
    """Two convolutions beside a shortcut: the basic block of He et al. (2016)."""

    def __init__(self, num_inputs: int, num_outputs: int, activation: Activation) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        stride = 2 if num_outputs > num_inputs else 1
        self.convolution1 = _convolution(num_inputs, num_outputs, size=3, stride=stride)
        self.norm1 = _norm(num_outputs)
        self.convolution2 = _convolution(num_outputs, num_outputs, size=3, stride=1)
        self.norm2 = _norm(num_outputs)
        is_same = num_inputs == num_outputs
        self.shortcut = nn.Identity() if is_same else _convolution(num_inputs, num_outputs, size=1, stride=stride)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """[rows, num_inputs, height, width] -> [rows, num_outputs, height, width], or half of these."""
        inner = self.activation(self.norm1(self.convolution1(hidden)))
        return self.activation(self.shortcut(hidden) + self.norm2(self.convolution2(inner)))


class Head(nn.Module):
    """The mean over all places, and of it the logit of each class."""

    def __init__(self, num_channels: int, num_classes: int) -> None:
        super().__init__()
        self.output = nn.Linear(num_channels, num_classes)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """[rows, num_channels, height, width] -> [rows, classes]."""
        logits: Tensor = self.output(hidden.mean((2, 3)))
        return logits


def _convolution(num_inputs: int, num_outputs: int, size: int, stride: int) -> nn.Conv2d:
    convolution = nn.Conv2d(num_inputs, num_outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # He et al. (2015)
    return convolution


def _norm(num_channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(NUM_GROUPS, num_channels), num_channels)


def trains_on(spec: VisionSpec) -> None:
    """All columns."""


def partition(spec: VisionSpec) -> Partition:
    """Replicas, shards and a pipeline."""
    return Partition(
        units=("stem", "block*", "head"),
        num_links=len(spec.block_channels) + 2,
        refused={
            "tensor": "convolutions are not split, only the matrices of linear layers are",
            "context": "its rows are images, no sequences",
            "sequence_parallel": "its rows are images, no sequences",
        },
    )


def build(spec: VisionSpec, transform: Transform) -> Chain:
    """The untrained model of these fitted features."""
    sizes = [spec.block_channels[0], *spec.block_channels]
    blocks = {
        f"block{number}": Block(num_inputs, num_outputs, spec.activation)
        for number, (num_inputs, num_outputs) in enumerate(pairwise(sizes))
    }
    head = Head(sizes[-1], len(classification.labels(transform)))
    return Chain({"stem": Stem(spec, sizes[0]), **blocks, "head": head})


def tensors(rows: pa.Table) -> Batch:
    """`pixels` [rows, channels * height * width] float32, scaled, and `class` [rows] int64, -1 where unknown."""
    flat: np.ndarray = one_array(rows.column("pixels")).flatten().to_numpy()
    return {
        "pixels": torch.tensor(flat).reshape(rows.num_rows, -1),
        "class": classification.classes(rows),
        **classification.weights(rows),
    }


def augment(spec: VisionSpec, batch: Batch, other: Callable[[], Batch]) -> Batch:
    """Images turned, scaled, cropped, mirrored, with noise, as the spec says."""
    if spec.augment == ImageAugmentSpec():
        return batch
    images = batch["pixels"].unflatten(1, (spec.channels, spec.height, spec.width))
    return batch | {"pixels": augmented(spec.augment, images, batch["key"]).flatten(1)}


def draw(spec: VisionSpec, transform: Transform, generator: Generator) -> Batch:
    """Nothing is left to chance."""
    return {}


def loss(spec: VisionSpec, outputs: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of the row's class [rows]."""
    return classification.cross_entropy(outputs, batch, spec.label_smoothing)


def evaluate(spec: VisionSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> dict[str, float]:
    """Accuracy and log loss; a label that training did not show counts as wrong."""
    return classification.scores(classification.probabilities(model, tensors(rows)), classification.classes(rows))


def baselines(spec: VisionSpec, transform: Transform, train: TrainRows, rows: pa.Table) -> dict[str, dict[str, float]]:
    """`class_shares` answers every row with the shares of the classes in training; `nearest_mean` names the class
    whose mean training image is the nearest."""
    known, asked = tensors(train.table), tensors(rows)
    num_classes = len(classification.labels(transform))
    means = torch.stack([known["pixels"][known["class"] == number].mean(0) for number in range(num_classes)])
    nearest = torch.cdist(asked["pixels"], means).argmin(1)
    return {
        "class_shares": classification.class_shares(train, rows),
        "nearest_mean": {"accuracy": classification.accuracy(nearest, asked["class"])},
    }


def golden(spec: VisionSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> pa.Table:
    """Some images as they were read, with `predicted` and `probabilities`."""
    rows = rows.slice(0, NUM_GOLDEN_ROWS)
    given = classification.probabilities(model, tensors(rows))
    read = transform.only(["pixels"]).raw(rows)
    return classification.golden(transform, read.add_column(0, "id", rows.column("id")), given)
