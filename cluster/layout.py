"""Layout: in how many ways a training run is split over workers, and which rank stands where."""

from dataclasses import dataclass
from math import prod
from typing import Literal

from pydantic import Field

from cluster.errors import SpecError
from cluster.spec import Spec

AXES = ("pipeline", "replicate", "shard", "context", "tensor")
"""From the outermost to the innermost: ranks that follow each other are peers of a tensor group first."""

Schedule = Literal["gpipe", "1f1b", "interleaved_1f1b", "interleaved_zero_bubble", "zbv"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Coordinate:
    """Where a rank stands on each axis."""

    pipeline: int
    replicate: int
    shard: int
    context: int
    tensor: int


class Layout(Spec):
    """One number an axis, whose product is the number of workers; then how each of them runs its part."""

    replicate: int = Field(1, ge=1)
    """Copies of the whole model, each training on its own part of every global batch (data parallel)."""
    shard: int = Field(1, ge=1)
    """Like `replicate`, but each worker keeps only its part of every weight and gathers the rest when it needs it."""
    tensor: int = Field(1, ge=1)
    """Workers that split the matrices of each layer among them."""
    pipeline: int = Field(1, ge=1)
    """Workers that hold one stretch of the layers each."""
    context: int = Field(1, ge=1)
    """Workers that hold one stretch of every sequence each."""

    sequence_parallel: bool = False
    """Split by sequence, between the tensor peers, what they do not split by matrix."""
    schedule: Schedule = "1f1b"
    """In which order a pipeline runs its micro-batches forward and backward."""
    micro_batches: int = Field(1, ge=1)
    """Parts that a pipeline cuts a replica's rows into, to keep all its workers busy."""
    accumulation: int = Field(1, ge=1)
    """Passes whose gradients are added up before the weights move."""
    recompute: bool = False
    """Compute activations again in the backward pass instead of keeping them (activation checkpointing)."""
    precision: Precision = "fp32"
    """Of matrix products; weights, reductions and the optimizer stay fp32. fp16 scales the loss and needs a GPU."""
    compile: bool = False
    """Compile each layer with torch.compile."""

    @property
    def num_workers(self) -> int:
        """How many worker processes the layout needs."""
        return prod(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Workers along each of `AXES`."""
        return tuple(int(getattr(self, axis)) for axis in AXES)

    @property
    def num_replicas(self) -> int:
        """Groups of workers that get rows of their own: all of one group get the same."""
        return self.replicate * self.shard

    def coordinate(self, rank: int) -> Coordinate:
        """Where the worker of this rank stands."""
        places = {}
        for axis, size in reversed(list(zip(AXES, self.sizes, strict=True))):
            rank, places[axis] = divmod(rank, size)
        return Coordinate(**places)

    def replica(self, rank: int) -> int:
        """Which part of every global batch this rank's group takes, from 0 on."""
        place = self.coordinate(rank)
        return place.replicate * self.shard + place.shard

    def alone(self) -> "Layout":
        """The layout of one worker that computes the same."""
        return Layout(precision=self.precision)

    def line(self) -> str:
        """The layout in a few words: every key that is not its default."""
        values = self.model_dump(exclude_defaults=True)
        return " ".join(f"{key}={str(value).lower()}" for key, value in values.items()) or "one worker"

    def check_batch(self, batch_size: int) -> None:
        """Raise SpecError unless a full global batch divides evenly over replicas, passes and micro-batches."""
        keys = ("replicate", "shard", "accumulation", "micro_batches")
        factors = {f"layout.{key}": int(getattr(self, key)) for key in keys if getattr(self, key) > 1}
        parts = prod(factors.values())
        if batch_size % parts:
            over = " x ".join(f"{key}={value}" for key, value in factors.items())
            total = f" = {parts}" if len(factors) > 1 else ""
            lower = max(batch_size - batch_size % parts, parts)
            raise SpecError(
                f"train.batch_size={batch_size} rows do not divide over {over}{total}; "
                f"give train.batch_size={lower} or another {next(iter(factors))}"
            )
