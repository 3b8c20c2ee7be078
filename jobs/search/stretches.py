"""Stretches: a model link by link as one worker of a layout has it, each with its footprint and its weights."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from cluster.layout import Layout
from jobs.parallel.mesh import sharding_axis
from jobs.parallel.modules import matching
from jobs.parallel.precision import lowered
from jobs.search.footprint import Footprint, Recorder, Shape, footprint_of
from jobs.search.stand_ins import localise
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.partition import Partition

LOSS = "loss"
"""The name of the last stretch, which has no weights."""


@dataclass(frozen=True)
class Weight:
    """A weight as a worker of a tensor group has it."""

    shape: tuple[int, ...]
    element_bytes: int
    is_trained: bool
    is_split: bool
    """Whether it is a part of a matrix that is split on the tensor axis."""

    @property
    def num_bytes(self) -> int:
        """Of this worker's."""
        return torch.Size(self.shape).numel() * self.element_bytes

    def shard_bytes(self, num_shards: int) -> int:
        """Of the largest of so many shards, which are cut along the first dim."""
        if not self.shape:
            return self.element_bytes
        rows = -(-self.shape[0] // num_shards)
        return rows * torch.Size(self.shape[1:]).numel() * self.element_bytes


@dataclass(frozen=True)
class Unit:
    """Weights that are gathered, recomputed or compiled together."""

    weights: tuple[Weight, ...]

    @property
    def num_bytes(self) -> int:
        """Of all its weights."""
        return sum(weight.num_bytes for weight in self.weights)

    @property
    def gradient_bytes(self) -> int:
        """Of those that are trained."""
        return sum(weight.num_bytes for weight in self.weights if weight.is_trained)

    def shard_bytes(self, num_shards: int) -> int:
        """Of the largest of so many shards."""
        return sum(weight.shard_bytes(num_shards) for weight in self.weights)


@dataclass(frozen=True)
class Stretch:
    """A link of the model, or the loss."""

    name: str
    footprint: Footprint
    input_bytes: int
    units: tuple[Unit, ...]
    """Of the partition's, in order; each unit lies in one link."""
    rest: Unit
    """The link's weights that are in no unit."""
    num_split: int
    """Layers whose matrices are split on the tensor axis."""
    is_unit: bool
    """Whether all of the link is one unit, so that `recompute` keeps nothing inside it."""

    @property
    def weights(self) -> tuple[Weight, ...]:
        """All of the link."""
        return tuple(weight for unit in (*self.units, self.rest) for weight in unit.weights)


@dataclass(frozen=True)
class Example:
    """Rows as training feeds them to the model."""

    rows: Batch
    """Entries of a row each [rows, ...]; how many rows does not matter."""
    drawn: Batch
    """What a step draws once for all rows."""


@dataclass
class Model:
    """A model without numbers, and what parts it."""

    whole: nn.Module
    partition: Partition
    losses: Callable[[Any, Batch], Tensor]
    """Outputs and batch -> the loss of each row [rows]."""
    example: Example
    recorder: Recorder
    """In whose fake tensors `whole` is."""
    _known: dict[Any, tuple[Footprint, Shape]] = field(default_factory=dict)
    _links: dict[Any, nn.Module] = field(default_factory=dict)

    def links(self) -> dict[str, nn.Module]:
        """By name; "" is a model that is no chain."""
        return dict(self.whole.items()) if isinstance(self.whole, Chain) else {"": self.whole}

    def stretches(self, layout: Layout, num_rows: int) -> list[Stretch]:
        """Each link and the loss, for so many rows that go through together."""
        batch = self._batch(layout, num_rows)
        found: list[Stretch] = []
        shape: Shape | None = None
        for name, whole in self.links().items():
            link, weights = self._local(name, whole, layout)
            call = _call_of(link, isinstance(self.whole, Chain))
            footprint, going_out = self._footprint((name, _likeness(whole)), call, link, shape, batch, layout, num_rows)
            found.append(_stretch(name, whole, link, weights, footprint, shape, self.partition, layout))
            shape = going_out
        footprint, _ = self._footprint((LOSS, LOSS), self._loss, nn.Identity(), shape, batch, layout, num_rows)
        size = shape.num_bytes if shape else 0
        return [*found, Stretch(LOSS, footprint, size, (), Unit(()), 0, False)]

    def _loss(self, outputs: Tensor | None, batch: Mapping[str, Tensor]) -> Tensor:
        return (self.losses(outputs, dict(batch)) * batch["weight"]).sum()

    def _local(self, name: str, whole: nn.Module, layout: Layout) -> tuple[nn.Module, list[tuple[str, Weight]]]:
        """The link as a worker has it, and its weights by path."""
        key = (_likeness(whole), layout.tensor, layout.sequence_parallel, layout.context)
        if key not in self._links:
            with self.recorder:
                link = _copied(whole)
                localise(link, name, layout, self.partition, self.recorder)
            self._links[key] = link
        link = self._links[key]
        full = {path: tuple(weight.shape) for path, weight in whole.named_parameters()}
        return link, [
            (path, Weight(tuple(w.shape), w.element_size(), w.requires_grad, tuple(w.shape) != full[path]))
            for path, w in link.named_parameters()
        ]

    def _footprint(
        self,
        named: tuple[str, Any],
        call: Callable[[Tensor | None, Mapping[str, Tensor]], Tensor],
        link: nn.Module,
        given: Shape | None,
        batch: Batch,
        layout: Layout,
        num_rows: int,
    ) -> tuple[Footprint, Shape]:
        name, likeness = named
        key = (likeness, given, num_rows, layout.tensor, layout.sequence_parallel, layout.context, layout.precision)
        if key not in self._known:

            def run(hidden: Tensor | None, rows: Mapping[str, Tensor]) -> Tensor:
                with lowered(layout.precision, "cpu"):
                    return call(hidden, rows)

            self._known[key] = footprint_of(self.recorder, run, link, given, batch)
        return self._known[key]

    def _batch(self, layout: Layout, num_rows: int) -> Batch:
        with self.recorder:
            rows = {}
            for name, values in self.example.rows.items():
                shape = [num_rows, *values.shape[1:]]
                if name in self.partition.sequence:
                    shape[1] //= layout.context
                rows[name] = torch.empty(shape, dtype=values.dtype)
            drawn = {name: torch.empty(values.shape, dtype=values.dtype) for name, values in self.example.drawn.items()}
            return {**rows, "weight": torch.empty(num_rows), "key": torch.empty(num_rows, dtype=torch.int64), **drawn}


def _copied(link: nn.Module) -> nn.Module:
    """The same modules with tensors of their own: fake ones cannot all be copied deeply."""
    own: dict[int, Any] = {
        id(weight): nn.Parameter(torch.empty_like(weight), weight.requires_grad) for weight in link.parameters()
    }
    own |= {id(buffer): torch.empty_like(buffer) for buffer in link.buffers()}
    return copy.deepcopy(link, own)


def _likeness(link: nn.Module) -> tuple[Any, ...]:
    """What two links have alike that do the same to rows of the same shape."""
    weights = tuple((path, tuple(w.shape), w.dtype, w.requires_grad) for path, w in link.named_parameters())
    return type(link).__qualname__, repr(link), weights


def _call_of(link: nn.Module, is_chain: bool) -> Callable[[Tensor | None, Mapping[str, Tensor]], Tensor]:
    if is_chain:
        return lambda hidden, batch: link(hidden, batch)
    return lambda hidden, batch: link(batch)


def _stretch(
    name: str,
    whole: nn.Module,
    link: nn.Module,
    weights: Sequence[tuple[str, Weight]],
    footprint: Footprint,
    given: Shape | None,
    partition: Partition,
    layout: Layout,
) -> Stretch:
    inside = _units_inside(name, whole, partition.units)
    of_units: dict[str, list[Weight]] = {path: [] for path in inside}
    rest: list[Weight] = []
    for path, weight in weights:
        unit = next((unit for unit in inside if unit == "" or path.startswith(f"{unit}.")), None)
        (rest if unit is None else of_units[unit]).append(weight)
    return Stretch(
        name,
        footprint,
        given.num_bytes if given else 0,
        tuple(Unit(tuple(each)) for each in of_units.values()),
        Unit(tuple(rest)),
        sum(type(module).__name__ == "LinearStandIn" for module in link.modules()),
        is_unit="" in inside,
    )


def _units_inside(name: str, link: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The paths, from the link on, of the units that it is or has; "" is itself."""
    if name and any(fnmatchcase(name, pattern) for pattern in patterns):
        return [""]
    if name:
        return []
    return [path for path, _ in matching(link, patterns)]
