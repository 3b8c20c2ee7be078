"""Stretches: a model link by link as one worker of a layout has it, each with its footprint and its weights."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cluster.layout import Layout
from jobs.parallel.modules import matching
from jobs.parallel.precision import lowered
from jobs.search.footprint import Footprint, Recorder, Shape, Work, footprint_of
from jobs.search.footprint_family import SPLIT, WHOLE, Family, mixed, tensor_weights
from jobs.search.stand_ins import LinearStandIn, localise
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.partition import Partition

LOSS = "loss"
"""The name of the last stretch, which has no weights."""
_NO_WORK = Work((), np.zeros(0), np.zeros(0), 0, ())
NOTHING = Footprint(_NO_WORK, _NO_WORK, 0, 0, False, False, np.zeros(0), np.zeros(0))
"""Of the loss, where it is counted with the model."""


@dataclass(frozen=True)
class Weight:
    """A weight as a worker of a tensor group has it."""

    shape: tuple[int, ...]
    element_bytes: int
    is_trained: bool
    is_split: bool
    """Whether it is a part of a matrix that is split on the tensor axis."""

    @cached_property
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

    @cached_property
    def num_bytes(self) -> int:
        """Of all its weights."""
        return sum(weight.num_bytes for weight in self.weights)

    @cached_property
    def gradient_bytes(self) -> int:
        """Of those that are trained."""
        return sum(weight.num_bytes for weight in self.weights if weight.is_trained)

    def shard_bytes(self, num_shards: int) -> int:
        """Of the largest of so many shards."""
        return sum(weight.shard_bytes(num_shards) for weight in self.weights)


@dataclass(frozen=True)
class Part:
    """What a worker has of a link's weights."""

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


NO_WEIGHTS = Part((), Unit(()), 0, False)


@dataclass(frozen=True)
class Stretch(Part):
    """A link of the model, or the loss."""

    name: str
    footprint: Footprint
    input_bytes: int


@dataclass(frozen=True)
class Example:
    """Rows as training feeds them to the model."""

    rows: Batch
    """Entries of a row each [rows, ...]; how many rows does not matter."""
    drawn: Batch
    """What a step draws once for all rows."""


class Model:
    """A model without numbers, link by link, as a worker of any layout has it."""

    def __init__(
        self,
        whole: nn.Module,
        partition: Partition,
        losses: Callable[[Any, Batch], Tensor],
        example: Example,
        recorder: Recorder,
    ) -> None:
        """Args:
        losses: outputs and batch -> the loss of each row [rows].
        recorder: in whose fake tensors `whole` is.
        """
        self._partition, self._losses, self._example, self._recorder = partition, losses, example, recorder
        self._is_chain = isinstance(whole, Chain)
        self._links = dict(whole.items()) if isinstance(whole, Chain) else {"": whole}
        self._likenesses = {name: _likeness(link) for name, link in self._links.items()}
        self._owners: dict[int, str] = {}
        for name, link in self._links.items():
            for weight in link.parameters():
                self._owners.setdefault(id(weight), name)
        self._parts: dict[Any, tuple[nn.Module, Part]] = {}
        self._families: dict[Any, list[Family]] = {}
        self._stretches: dict[Any, list[Stretch]] = {}

    def weights(self, layout: Layout) -> list[tuple[Weight, ...]]:
        """Of each link, as a worker of the layout's tensor group has them."""
        whole_sequences = layout.model_copy(update={"context": 1})
        return [self._part(name, whole_sequences)[1].weights for name in self._links]

    def stretches(self, layout: Layout, num_rows: int) -> list[Stretch]:
        """Each link and the loss, for so many rows that go through together."""
        key = (layout.tensor, layout.sequence_parallel, layout.precision, layout.context, num_rows)
        if key not in self._stretches:
            self._stretches[key] = self._made(layout, num_rows)
        return self._stretches[key]

    def _made(self, layout: Layout, num_rows: int) -> list[Stretch]:
        footprints = self._footprints(layout, num_rows)
        found: list[Stretch] = []
        size = 0
        for name, footprint in zip(self._links, footprints, strict=False):
            _, part = self._part(name, layout)
            found.append(Stretch(**vars(part), name=name, footprint=footprint, input_bytes=size))
            size = footprint.output_bytes
        return [*found, Stretch(**vars(NO_WEIGHTS), name=LOSS, footprint=footprints[-1], input_bytes=size)]

    def _footprints(self, layout: Layout, num_rows: int) -> list[Footprint]:
        """Of each link and the loss: from those of few rows, or for just these where nothing follows from them."""
        families = self._families_of(layout)
        if families is None:
            return self._taken(layout, num_rows)
        if layout.tensor > 4 and layout.tensor % 4 == 0:
            two, four = (self._footprints(layout.model_copy(update={"tensor": size}), num_rows) for size in (2, 4))
            pairs = {(id(one), id(other)): (one, other) for one, other in zip(two, four, strict=True)}
            of_pairs = {key: mixed(pair, tensor_weights(layout.tensor)) for key, pair in pairs.items()}
            return [of_pairs[id(one), id(other)] for one, other in zip(two, four, strict=True)]
        own = {id(family): family for family in families}
        of_families = {key: family.at(num_rows, layout.context) for key, family in own.items()}
        return [of_families[id(family)] for family in families]

    def _families_of(self, layout: Layout) -> "list[Family] | None":
        is_split = layout.context > 1
        size = 4 if layout.tensor > 4 and layout.tensor % 4 == 0 else layout.tensor
        layout = layout.model_copy(update={"tensor": size})
        key = (size, layout.sequence_parallel, layout.precision, is_split)
        if key not in self._families:
            self._families[key] = self._families_made(layout, is_split)
        return self._families[key] or None

    def _families_made(self, layout: Layout, is_split: bool) -> list[Family]:
        """Of each link and the loss, alike ones once; none where they are not regular."""
        if is_split and any(size % (4 * layout.tensor) for size in self._partition.sequence_divides.values()):
            return []
        points = SPLIT if is_split else WHOLE
        taken = {point: self._taken(layout.model_copy(update={"context": point[1]}), point[0]) for point in points}
        found: dict[int, Family] = {}
        families = []
        for place, first in enumerate(taken[points[0]]):
            if id(first) not in found:
                found[id(first)] = Family(lambda *point, place=place: taken[point][place], is_split)
            families.append(found[id(first)])
        return families if all(family.is_regular for family in found.values()) else []

    def _taken(self, layout: Layout, num_rows: int) -> list[Footprint]:
        """Of each link and the loss, run with so many fake rows; links alike share theirs."""
        batch = self._batch(layout, num_rows)
        if not self._is_chain:
            return [self._taken_whole(layout, batch), NOTHING]
        known, found = dict[Any, tuple[Footprint, Shape]](), list[Footprint]()
        shape: Shape | None = None
        for name in self._links:
            key = (self._likenesses[name], shape)
            if key not in known:
                link, _ = self._part(name, layout)
                known[key] = self._run(link, link, shape, batch, layout)
            footprint, shape = known[key]
            found.append(footprint)
        return [*found, self._run(self._loss, nn.Identity(), shape, batch, layout)[0]]

    def _taken_whole(self, layout: Layout, batch: Batch) -> Footprint:
        """Of a model that is no chain, with its loss: what goes from one to the other may be anything."""
        link, _ = self._part("", layout)
        return self._run(lambda _, rows: self._loss(link(rows), rows), link, None, batch, layout)[0]

    def _run(
        self,
        call: Callable[[Tensor | None, Mapping[str, Tensor]], Tensor],
        link: nn.Module,
        given: Shape | None,
        batch: Batch,
        layout: Layout,
    ) -> tuple[Footprint, Shape]:
        def run(hidden: Tensor | None, rows: Mapping[str, Tensor]) -> Tensor:
            with lowered(layout.precision, "cpu"):
                return call(hidden, rows)

        return footprint_of(self._recorder, run, link, given, batch)

    def _loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        return (self._losses(outputs, dict(batch)) * batch["weight"]).sum()

    def _part(self, name: str, layout: Layout) -> tuple[nn.Module, Part]:
        """The link as a worker of the layout has it."""
        key = (self._likenesses[name], layout.tensor, layout.sequence_parallel, layout.context)
        if key not in self._parts:
            whole = self._links[name]
            with self._recorder:
                link = _copied(whole)
                localise(link, name, layout, self._partition, self._recorder)
            shared = {path for path, weight in whole.named_parameters() if self._owners[id(weight)] != name}
            self._parts[key] = link, _part(name, whole, link, self._partition, shared)
        return self._parts[key]

    def _batch(self, layout: Layout, num_rows: int) -> Batch:
        given = self._example
        with self._recorder:
            rows = {}
            for name, values in given.rows.items():
                shape = [num_rows, *values.shape[1:]]
                if name in self._partition.sequence:
                    shape[1] //= layout.context
                rows[name] = torch.empty(shape, dtype=values.dtype)
            drawn = {name: torch.empty(values.shape, dtype=values.dtype) for name, values in given.drawn.items()}
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


def _part(name: str, whole: nn.Module, link: nn.Module, partition: Partition, shared: set[str]) -> Part:
    """Args:
    shared: paths of weights that are a link's before this one, and counted there.
    """
    full = {path: tuple(weight.shape) for path, weight in whole.named_parameters()}
    inside = _units_inside(name, whole, partition.units)
    of_units: dict[str, list[Weight]] = {path: [] for path in inside}
    rest: list[Weight] = []
    for path, values in link.named_parameters():
        if path in shared:
            continue
        shape = tuple(values.shape)
        weight = Weight(shape, values.element_size(), values.requires_grad, shape != full[path])
        unit = next((unit for unit in inside if unit == "" or path.startswith(f"{unit}.")), None)
        (rest if unit is None else of_units[unit]).append(weight)
    num_split = sum(isinstance(module, LinearStandIn) for module in link.modules())
    units = tuple(Unit(tuple(each)) for each in of_units.values())
    return Part(units, Unit(tuple(rest)), num_split, is_unit="" in inside)


def _units_inside(name: str, link: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The paths, from the link on, of the units that it is or has; "" is itself."""
    if name and any(fnmatchcase(name, pattern) for pattern in patterns):
        return [""]
    if name:
        return []
    return [path for path, _ in matching(link, patterns)]
