"""A placement in Ray: the only file that turns one into reserved resources and ranked workers.

Ray Train packs workers one by one, and ranks those of a node by its address, so it splits tensor groups, and takes
several nodes of one machine for one. Here a gang of workers that must share a node is one bundle of the reservation,
each bundle is pinned to the node that `cluster.placement` chose, and ranks follow the bundles. What is overridden is
private to Ray 2.60; `tests/cluster/test_reservation.py` fails where it moves.

A trial of Ray Tune trains in the reservation that Tune made for it: a second one would be booked beside the first, and
outlive a trial that is stopped.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from unittest.mock import patch

import ray
from ray._private.state import available_resources_per_node, state
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.context import DistributedContext, get_train_context
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.train.v2.api import data_parallel_trainer
from ray.tune import PlacementGroupFactory
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group,
    placement_group_table,
)

from cluster.layout import Layout
from cluster.placement import Demand, Node, OccupiedError, Placement, place

DOMAIN_LABEL = "ray.io/gpu-domain"
NODE_LABEL = "ray.io/node-id"
GPU_TYPE = "accelerator_type:"


@dataclass
class _Asked:
    to_stop: bool = False


@dataclass(frozen=True)
class PlacedContext(DistributedContext):
    """What a worker is told when it starts, the same to all that start together but for their ranks."""

    layout: Layout
    why: str
    """The workers have this layout and no other; empty where it was never in question."""
    asked: _Asked = field(default_factory=_Asked)
    """What is asked of this worker since."""


def context() -> PlacedContext:
    """What this process, a worker of a `PlacedTrainer`, was told."""
    found = get_train_context().distributed_context
    assert isinstance(found, PlacedContext), "only workers of a PlacedTrainer are told their layout"
    return found


def inventory(held: PlacementGroup | None = None) -> list[Node]:
    """Every node that is alive and not about to go, with what it has and what is free now.

    Args:
        held: a reservation that counts as free, since whoever asks will give it back.
    """
    untyped: Any = ray
    free, leaving = available_resources_per_node(), state.get_draining_nodes()
    own = _held_by_node(held) if held else {}
    return [
        Node(
            str(node["NodeID"]),
            node["Resources"],
            dict(Counter(free.get(node["NodeID"], {})) + Counter(own.get(node["NodeID"], {}))),
            next((name.removeprefix(GPU_TYPE) for name in node["Resources"] if name.startswith(GPU_TYPE)), ""),
            node["Labels"].get(DOMAIN_LABEL, ""),
        )
        for node in untyped.nodes()
        if node["Alive"] and node["NodeID"] not in leaving
    ]


def _held_by_node(held: PlacementGroup) -> dict[str, Counter[str]]:
    """What a reservation has of each node."""
    table = placement_group_table(held)
    found: dict[str, Counter[str]] = {}
    for bundle, node in table["bundles_to_node_id"].items():
        found[node] = found.get(node, Counter()) + Counter(table["bundles"][bundle])
    return found


def check_room(layout: Layout, demand: Demand) -> str | None:
    """What the workers would have to wait for; None where there is room for them now.

    Raises:
        InfeasibleError: they would wait for ever.
    """
    try:
        place(layout, demand, inventory())
    except OccupiedError as error:
        return str(error)
    return None


def trial_resources(layout: Layout, demand: Demand) -> PlacementGroupFactory:
    """What Tune is to reserve for a trial: for the workers of its `TrialTrainer`, or for itself where it needs one.

    Tune does not ask for named nodes, so a tensor group stands on one node, and Ray packs the groups.
    """
    bundles = _bundles(layout, demand)
    own: list[dict[str, float]] = [{}] if layout.num_workers > 1 else []
    return PlacementGroupFactory([*own, *bundles], "PACK", bundle_label_selector=_kinds(demand, len(bundles)))


class PlacedTrainer(TorchTrainer):
    """Ray Train's trainer for the workers of a layout, each where `place` says."""

    def __init__(self, layout: Layout, demand: Demand, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._controller_class = _controller_class(self._workers(), layout, demand)

    def _workers(self) -> "type[PlacedWorkers]":
        return PlacedWorkers

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        with patch.object(data_parallel_trainer, "TrainController", self._controller_class):
            return super()._initialize_and_run_controller(**options)  # type: ignore[misc]  # absent from Ray's stub


class TrialTrainer(PlacedTrainer):
    """The same inside a trial of Tune, in the `trial_resources` that are reserved for it."""

    def _workers(self) -> "type[PlacedWorkers]":
        return _TrialWorkers


def _controller_class(kind: "type[PlacedWorkers]", layout: Layout, demand: Demand) -> type[TrainController]:
    """With a group of workers of this layout's own: Ray takes classes where it should take arguments."""

    workers = type("Placed", (kind,), {"layout": layout, "demand": demand})
    return type("Controller", (TrainController,), {"worker_group_cls": workers})


class PlacedWorkers(WorkerGroup):
    """Workers whose placement is found anew for each start, so a node that is gone is not waited for."""

    layout: Layout
    demand: Demand
    why = ""

    def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> DefaultPlacementGroupHandle:
        return DefaultPlacementGroupHandle(_reserved(self.layout, self.demand))

    def _create_workers(self, num_workers: int, *arguments: Any, **options: Any) -> list[Any]:
        options["placement_group_bundle_indices"] = [worker // self.layout.tensor for worker in range(num_workers)]
        return _ranked(super()._create_workers(num_workers, *arguments, **options), self.layout, self.why)


class _TrialWorkers(PlacedWorkers):
    """Workers in the reservation of the trial that they train for."""

    def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> DefaultPlacementGroupHandle:
        reservation = get_current_placement_group()
        assert reservation is not None, "a TrialTrainer trains in a trial of Tune alone"
        return _TrialReservation(reservation)


class _TrialReservation(DefaultPlacementGroupHandle):
    """Tune's to end: a trial that is to start its workers anew needs it again."""

    def shutdown(self) -> None:
        """Nothing."""


def _reserved(layout: Layout, demand: Demand) -> Any:
    """The placement group with a bundle a gang, where there is room now; else wherever Ray finds some first.

    Raises:
        InfeasibleError: there will be none, whoever ends.
    """
    try:
        placement = place(layout, demand, inventory())
    except OccupiedError:
        bundles = _bundles(layout, demand)
        return placement_group(bundles, "PACK", bundle_label_selector=_kinds(demand, len(bundles)))
    return reserve(layout, demand, placement)


def reserve(layout: Layout, demand: Demand, placement: Placement) -> Any:
    """The placement group with a bundle a gang, each on its node."""
    on_nodes = [{NODE_LABEL: node} for node in placement.gang_nodes]
    return placement_group(_bundles(layout, demand), "PACK", bundle_label_selector=on_nodes)


def _bundles(layout: Layout, demand: Demand) -> list[dict[str, float]]:
    """One a gang: Ray never splits a bundle over nodes."""
    return [demand.of_gang(layout)] * (layout.num_workers // layout.tensor)


def _kinds(demand: Demand, num_bundles: int) -> list[dict[str, str]] | None:
    """The nodes that will do for each bundle; None for any."""
    return [{"ray.io/accelerator-type": demand.gpu_type}] * num_bundles if demand.gpu_type else None


def _ranked(workers: Sequence[Any], layout: Layout, why: str) -> list[Any]:
    """In the order of their bundles, those of a node side by side, and of a bundle by GPU; told so by node."""
    by_bundle = sorted(workers, key=lambda worker: (worker.placement_group_bundle_index, _lowest_gpu(worker)))
    nodes = list(dict.fromkeys(worker.metadata.node_id for worker in by_bundle))
    by_node = [[worker for worker in by_bundle if worker.metadata.node_id == node] for node in nodes]
    ranks = count()
    for node_rank, peers in enumerate(by_node):
        for local_rank, worker in enumerate(peers):
            worker.distributed_context = PlacedContext(
                world_rank=next(ranks),
                world_size=len(by_bundle),
                local_rank=local_rank,
                local_world_size=len(peers),
                node_rank=node_rank,
                layout=layout,
                why=why,
            )
    return [worker for peers in by_node for worker in peers]


def _lowest_gpu(worker: Any) -> int:
    return min((int(gpu) for gpu in worker.metadata.accelerator_ids.get("GPU", [])), default=0)
