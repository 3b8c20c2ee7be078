"""Placement: on which node each rank of a layout stands, by what the nodes have free. Pure: knows no Ray.

Peers of a tensor group exchange the most, so they never leave a node. Of the larger groups (context, shard, replicate,
and the stages of a pipeline, from the inside to the outside) the largest that fits into nodes whole is kept whole; what
remains are neighbours along the outermost axes, and these stand on nodes that follow each other within a domain.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import floor

from pydantic import Field, model_validator

from cluster.errors import ClusterError
from cluster.layout import AXES, Layout
from cluster.spec import Spec

_EVEN = 1e-9
"""Shares of a GPU add up to whole ones but for this."""


class PlacementSpec(Spec):
    """What each worker of a training run gets."""

    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(1, gt=0)
    """Where training runs on GPUs; less than one shares a GPU between workers."""
    gpu_type: str = ""
    """The only kind of GPU that will do, such as `H100`; empty for any."""

    @model_validator(mode="after")
    def _is_whole_or_a_share(self) -> "PlacementSpec":
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ValueError(f"gpus_per_worker={self.gpus_per_worker:g} is neither whole nor a share of one GPU")
        return self


class InfeasibleError(ClusterError):
    """The workers do not fit on the nodes."""


class OccupiedError(InfeasibleError):
    """They do not fit now, but will once others end."""


@dataclass(frozen=True)
class Node:
    """What one node has for training, by resource: `CPU`, `GPU` and whatever else it was started with."""

    name: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    gpu_type: str = ""
    """As Ray names it, such as `H100`; empty without GPUs."""
    domain: str = ""
    """Nodes of one domain have a faster link: a rack, an NVLink domain."""


@dataclass(frozen=True)
class Demand:
    """What one worker needs."""

    each: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1.0})
    gpu_type: str = ""
    """The only kind of GPU that will do; empty for any."""

    def of_gang(self, layout: Layout) -> dict[str, float]:
        """What the workers of a tensor group need together."""
        return {unit: amount * layout.tensor for unit, amount in self.each.items() if amount}


@dataclass(frozen=True)
class Placement:
    """Where every rank stands."""

    nodes: tuple[str, ...]
    """The name of each rank's node."""
    gang: int
    """Ranks that follow each other and share a node for sure: those of a tensor group."""

    @property
    def gang_nodes(self) -> tuple[str, ...]:
        """The node of each gang."""
        return self.nodes[:: self.gang]


def place(layout: Layout, demand: Demand, inventory: Sequence[Node]) -> Placement:
    """Find room for every rank; the same for any order of the nodes.

    Raises:
        InfeasibleError: there is none on these nodes, even when nobody else is there. The message names what is scarce.
        OccupiedError: there would be, if others were not there.
    """
    gang = demand.of_gang(layout)
    _check_shares(layout, gang)
    nodes = _of_kind(demand, inventory)
    num_gangs = layout.num_workers // layout.tensor
    placed = _placed(layout, num_gangs, {node.name: _rooms(node.free, gang) for node in _in_order(nodes)})
    if placed:
        return Placement(tuple(name for name in placed for _ in range(layout.tensor)), layout.tensor)
    kind = OccupiedError if sum(_rooms(node.total, gang) for node in nodes) >= num_gangs else InfeasibleError
    raise kind(_scarce(layout, demand, gang, inventory, nodes, kind is OccupiedError))


def place_first(layouts: Sequence[Layout], demand: Demand, inventory: Sequence[Node]) -> tuple[Layout, Placement]:
    """Place the first of these layouts that there is room for now.

    Raises:
        InfeasibleError: there is room for none, even when nobody else is there; what `place` says of the last one.
        OccupiedError: there would be for the last one, if others were not there.
    """
    for layout in layouts[:-1]:
        with suppress(InfeasibleError):
            return layout, place(layout, demand, inventory)
    return layouts[-1], place(layouts[-1], demand, inventory)


def num_free(demand: Demand, inventory: Sequence[Node]) -> int:
    """How many workers there is room for now, wherever each of them stands."""
    return sum(_rooms(node.free, demand.each) for node in _of_kind(demand, inventory))


def _of_kind(demand: Demand, inventory: Sequence[Node]) -> list[Node]:
    return [node for node in inventory if demand.gpu_type in ("", node.gpu_type)]


def _check_shares(layout: Layout, gang: Mapping[str, float]) -> None:
    """Raise InfeasibleError where a gang would hold one and a half GPUs: a share is of one GPU."""
    gpus = gang.get("GPU", 0.0)
    if gpus > 1 and abs(gpus - round(gpus)) > _EVEN:
        raise InfeasibleError(
            f"layout.tensor={layout.tensor} workers of {gpus / layout.tensor:g} GPUs share {gpus:g}, which is no whole "
            "number; give each worker one, or a share that adds up"
        )


def _rooms(amounts: Mapping[str, float], gang: Mapping[str, float]) -> int:
    """How many gangs these amounts hold."""
    return min(floor(amounts.get(unit, 0.0) / needed + _EVEN) for unit, needed in gang.items())


def _in_order(nodes: Sequence[Node]) -> list[Node]:
    """Domains with the most that is free first, so that few are taken; in them likewise; else by name."""
    free: dict[str, float] = {}
    for node in nodes:
        free[node.domain] = free.get(node.domain, 0.0) + _weight(node)
    return sorted(nodes, key=lambda node: (-free[node.domain], node.domain, -_weight(node), node.name))


def _weight(node: Node) -> float:
    return node.free.get("GPU", 0.0) or node.free.get("CPU", 0.0)


def _placed(layout: Layout, num_gangs: int, rooms: Mapping[str, int]) -> list[str] | None:
    """The node of each gang; None where there is no room for all."""
    for size in _group_sizes(layout):
        groups = {name: room // size for name, room in rooms.items()}
        if sum(groups.values()) * size >= num_gangs:
            return [name for name in _filled(num_gangs // size, groups) for _ in range(size)]
    return None


def _group_sizes(layout: Layout) -> list[int]:
    """In gangs, of all ranks together, of the groups along each axis and those inside it, and of one; falling."""
    sizes = [1]
    for axis in reversed(AXES[: AXES.index("tensor")]):
        sizes.append(sizes[-1] * int(getattr(layout, axis)))
    return sorted(set(sizes), reverse=True)


def _filled(num_groups: int, rooms: Mapping[str, int]) -> list[str]:
    """The node of each group: one node after another, the last of them that with the least room that is enough."""
    placed: list[str] = []
    left = dict(rooms)
    while len(placed) < num_groups:
        wanted = num_groups - len(placed)
        enough = [name for name, room in left.items() if room >= wanted]
        name = min(enough, key=lambda each: left[each]) if enough else next(each for each, room in left.items() if room)
        placed += [name] * min(left.pop(name), wanted)
    return placed


def _scarce(
    layout: Layout,
    demand: Demand,
    gang: Mapping[str, float],
    inventory: Sequence[Node],
    nodes: Sequence[Node],
    is_occupied: bool,
) -> str:
    """What there is too little of, and the way out."""
    needed = f"layout {layout.line()} needs {layout.num_workers} workers of {_told(demand.each)}"
    if demand.gpu_type and not nodes:
        kinds = sorted({node.gpu_type for node in inventory if node.gpu_type})
        return f"{needed} on {demand.gpu_type}; the GPUs here are {', '.join(kinds) or 'none'}. Ask for one of these"
    of = [node.free if is_occupied else node.total for node in nodes]
    there = "free now" if is_occupied else "there"
    for unit, amount in demand.each.items():
        found = sum(amounts.get(unit, 0.0) for amounts in of)
        if found + _EVEN < amount * layout.num_workers:
            way_out = "Others hold the rest: wait for them" if is_occupied else "Lower an axis, or add nodes"
            wanted = amount * layout.num_workers
            return f"{needed}, {wanted:g} {unit}s in all; {found:g} are {there} on {len(nodes)} nodes. {way_out}"
    largest = max(of, key=lambda amounts: [amounts.get(unit, 0.0) for unit in gang], default={})
    num_groups, num_found = layout.num_workers // layout.tensor, sum(_rooms(amounts, gang) for amounts in of)
    return (
        f"{needed}, and the {layout.tensor} of a tensor group stand on one node, with {_told(gang)}; there is room for "
        f"{num_found} of {num_groups} such groups, the largest node has "
        f"{_told({unit: largest.get(unit, 0.0) for unit in gang})} {there}. Lower layout.tensor"
    )


def _told(amounts: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {unit}{'' if amount == 1 else 's'}" for unit, amount in amounts.items())
