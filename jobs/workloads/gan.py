"""gan: makes small images like those of the training rows, by two networks that take turns (Goodfellow et al., 2014).

The discriminator learns to tell real images from made ones, the generator to make such as it takes for real. A step is
the turn of one of them; see `Partition.turns`.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from cluster.spec import Spec
from jobs.features.arrays import one_array
from jobs.features.columns import Column
from jobs.features.scaling import Scaling
from jobs.features.split import TrainRows
from jobs.features.step import Step
from jobs.features.transform import Transform
from jobs.workloads.chain import Batch
from jobs.workloads.device import device_of
from jobs.workloads.gan_networks import Discriminator, ImageGenerator
from jobs.workloads.partition import Partition, Turn
from jobs.workloads.row_chance import AUGMENT_SALT, normal
from jobs.workloads.two_sample import nearest_neighbour_accuracy, squared_mmd

TRAINING, ASKED = AUGMENT_SALT, AUGMENT_SALT + 1
"""Salts of the noise that training and that a seed makes images of."""
MAX_IMAGES = 1 << 20
"""Of one seed."""
MAX_COMPARED = 2000
"""Held-out images that as many made ones are compared with."""
MAX_FITTED = 20_000
"""Training images that a baseline is fitted on."""
EVALUATION_SEED, GOLDEN_SEED, NUM_GOLDEN_IMAGES = 0, 1, 8

metrics: Sequence[str] = ("nn_accuracy", "mmd")
lower_is_better: frozenset[str] = frozenset(metrics)
apart: None = None
time: str | None = None
ties: tuple[str, ...] = ("id",)
unfolds_by: tuple[str, ...] = ()


class GanSpec(Spec):
    """The images and the size of the networks."""

    kind: Literal["gan"] = "gan"
    height: int = Field(ge=2)
    """In pixels; all images are of one size."""
    width: int = Field(ge=2)
    channels: Literal[1, 3] = 1
    """Numbers a pixel: 1 is grey, 3 are colours."""
    noise_dim: int = Field(32, ge=1)
    """Normal numbers that an image is made of."""
    block_channels: tuple[Annotated[int, Field(ge=1)], ...] = Field((64, 32), min_length=1)
    """What goes into each block of the generator, which doubles height and width; the discriminator halves them as
    often, with the same channels the other way round."""
    discriminator_rate: float = Field(1.0, gt=0)
    """The discriminator's learning rate as a multiple of the generator's (Heusel et al., 2017)."""

    @model_validator(mode="after")
    def _halves(self) -> "GanSpec":
        times = 2 ** len(self.block_channels)
        if self.height % times or self.width % times:
            raise ValueError(
                f"the {len(self.block_channels)} blocks of block_channels={list(self.block_channels)} halve height and "
                f"width as often, but {self.height} x {self.width} pixels are no multiple of {times}; give fewer "
                "blocks, or images of another size"
            )
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return self.channels, self.height, self.width


def event_columns(spec: GanSpec) -> tuple[Column, ...]:
    """An image: which one, its numbers channel by channel and in each row by row."""
    return Column("id", "id"), Column("image", "numbers", length=spec.channels * spec.height * spec.width)


def item_columns(spec: GanSpec) -> tuple[Column, ...]:
    """There are no items."""
    return ()


def unfold(spec: GanSpec, events: pa.Table) -> pa.Table:
    """An image is a training row."""
    return events


def steps(spec: GanSpec) -> tuple[Step, ...]:
    """Each channel is scaled from 0, its least number in training, to 1, its greatest."""
    return (Scaling(column="image", output="pixels", method="min_max", groups=spec.channels, of_lists=True),)


def lookups(transform: Transform, items: pa.Table, train: Callable[[], TrainRows]) -> dict[str, pa.Table]:
    """None."""
    return {}


def trains_on(spec: GanSpec) -> tuple[str, ...]:
    """The scaled pixels."""
    return *ties, "pixels"


def partition(spec: GanSpec) -> Partition:
    """Replicas and shards; the discriminator begins."""
    return Partition(
        units=("generator", "discriminator"),
        refused={
            "pipeline": "its two networks take turns, so that each stage would stand still half of the time",
            "tensor": "convolutions are not split, only the matrices of linear layers are",
            "context": "its rows are images, no sequences",
            "sequence_parallel": "its rows are images, no sequences",
        },
        turns=(Turn("discriminator", spec.discriminator_rate), Turn("generator")),
    )


DISCRIMINATOR = 0
"""Its turn."""


class Gan(nn.Module):
    """Both networks."""

    def __init__(self, spec: GanSpec) -> None:
        super().__init__()
        self.generator = ImageGenerator(spec.noise_dim, spec.block_channels, spec.shape)
        self.discriminator = Discriminator(spec.block_channels[::-1], spec.shape)

    def forward(self, batch: Batch) -> Tensor:
        """The logits of each row's image, and of the one made of its noise [rows, 2]."""
        images = torch.cat([batch["pixels"], self.generator(batch["noise"])])
        return torch.cat(self.discriminator(images).chunk(2), dim=1)


def build(spec: GanSpec, transform: Transform) -> Gan:
    """The untrained model."""
    return Gan(spec)


def tensors(rows: pa.Table) -> Batch:
    """`pixels` [rows, channels * height * width] float32, from 0 to 1."""
    flat: np.ndarray = one_array(rows.column("pixels")).flatten().to_numpy()
    return {"pixels": torch.tensor(flat).reshape(rows.num_rows, -1)}


def augment(spec: GanSpec, batch: Batch, other: Callable[[], Batch]) -> Batch:
    """The rows as they are, and `noise` for each [rows, noise_dim]."""
    return batch | {"noise": normal(batch["key"], spec.noise_dim, TRAINING).to(batch["pixels"].dtype)}


def draw(spec: GanSpec, transform: Transform, generator: Generator) -> Batch:
    """Nothing: noise belongs to rows."""
    return {}


def loss(spec: GanSpec, outputs: Tensor, batch: Batch) -> Tensor:
    """Of the player whose `turn` it is [rows]; the generator's is the one that does not saturate."""
    real, made = outputs.unbind(1)
    of_discriminator = F.softplus(-real) + F.softplus(made)
    return torch.where(batch["turn"] == DISCRIMINATOR, of_discriminator, F.softplus(-made))


@torch.no_grad()
def made_of(spec: GanSpec, model: nn.Module, seed: int, num_images: int) -> Tensor:
    """Images [num_images, channels * height * width], from 0 to 1; the first ones of a seed are always the same."""
    assert isinstance(model, Gan)
    key = seed * MAX_IMAGES + torch.arange(num_images)
    pixels: Tensor = model.generator(normal(key, spec.noise_dim, ASKED).to(device_of(model)))
    return pixels.cpu()


def evaluate(spec: GanSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> dict[str, float]:
    """Two-sample tests of held-out images and as many made ones: `nn_accuracy` from 0.5, and `mmd`."""
    real = _compared(rows)
    return scores(made_of(spec, model, EVALUATION_SEED, len(real)), real)


def scores(made: Tensor, real: Tensor) -> dict[str, float]:
    """How well images that were made can be told from real ones, as many of each [rows, entries]."""
    return {"nn_accuracy": nearest_neighbour_accuracy(made, real), "mmd": squared_mmd(made, real)}


def baselines(spec: GanSpec, transform: Transform, train: TrainRows, rows: pa.Table) -> dict[str, dict[str, float]]:
    """Images drawn from two distributions fitted on the training images, cut to 0 and 1: `pixel_normals`, a normal
    one for each pixel by itself, and `gaussian`, a normal one of all pixels together."""
    known, real = tensors(train.table.slice(0, MAX_FITTED))["pixels"].double(), _compared(rows)
    draws = torch.randn(len(real), known.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    variances, directions = torch.linalg.eigh(known.T.cov())
    root = directions * variances.clamp(min=0).sqrt()
    drawn = {"pixel_normals": draws * known.std(0), "gaussian": draws @ root.T}
    return {name: scores((known.mean(0) + values).clamp(0, 1), real) for name, values in drawn.items()}


def golden(spec: GanSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> pa.Table:
    """A seed, and the pixels of its first images, a row each."""
    pixels = made_of(spec, model, GOLDEN_SEED, NUM_GOLDEN_IMAGES)
    return pa.table(
        {
            "seed": pa.array([GOLDEN_SEED] * NUM_GOLDEN_IMAGES, pa.int64()),
            "pixels": pa.array(pixels.tolist(), pa.list_(pa.float32())),
        }
    )


def _compared(rows: pa.Table) -> Tensor:
    return tensors(rows.slice(0, MAX_COMPARED))["pixels"]
