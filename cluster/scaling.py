"""Training whose number of workers follows the cluster, in units of model replicas: a policy and a controller for Ray.

Whenever workers start, they get the first of some layouts that the nodes of that moment have room for. While they
train, the policy looks for room for a better one, seen twice, and for nodes of theirs that are drained; then the first
worker is asked to stop, all workers stop together after a checkpoint, and others start. Workers that die with their
node are followed by as many as there is room left for. Ray's own policy counts single workers, and cuts training off
wherever it stands.

What is overridden is private to Ray 2.60; `tests/cluster/test_scaling.py` fails where it moves.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.train import WorkerGroupError
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingDecision, ScalingPolicy
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle
from ray.util.placement_group import PlacementGroup

from cluster.errors import user_error_in
from cluster.layout import Layout
from cluster.placement import Demand, InfeasibleError, Placement, num_free, place_first
from cluster.reservation import PlacedTrainer, PlacedWorkers, context, inventory, reserve

STOPPED = "stopped, for others to go on"
"""What the function of a worker returns where it stopped because it was asked to."""
WAIT_S = 1.0
"""Between two looks for room, or for nodes that are gone."""
REQUEST_EVERY_S = 20.0
"""How often an autoscaler is reminded of what the run wants; it forgets after three minutes."""
NODE_GONE_S = 20.0
"""After which Ray knows of a node that was killed: it has missed five health checks."""


def is_to_stop() -> bool:
    """Whether this process, the first worker of an `ElasticTrainer`, is asked to save and to return `STOPPED`."""
    return context().asked.to_stop


class ElasticTrainer(PlacedTrainer):
    """Ray Train's trainer for workers whose layout is decided anew at each start."""

    def __init__(
        self,
        fallbacks: Sequence[Layout],
        look_every_s: float,
        best: Layout,
        demand: Demand,
        *given: Any,
        **options: Any,
    ) -> None:
        """`best` is the layout that is wanted most, `fallbacks` are those that will do, in this order."""
        super().__init__(best, demand, *given, **options)
        self._controller_class = ElasticController
        self._layouts, self._demand, self._look_every_s = (best, *fallbacks), demand, look_every_s

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        options["scaling_policy"] = ReplicaScaling(self.scaling_config, self._layouts, self._demand, self._look_every_s)
        options["failure_policy"] = NodeFailures(self.run_config.failure_config)
        return super()._initialize_and_run_controller(**options)


@dataclass
class Begin(ResizeDecision):
    """To start workers in this layout at this place."""

    layout: Layout
    placement: Placement
    why: str


class ReplicaScaling(ScalingPolicy):
    """Decides for the first of the layouts that there is room for."""

    def __init__(self, scaling_config: Any, layouts: Sequence[Layout], demand: Demand, look_every_s: float) -> None:
        super().__init__(scaling_config)
        self._layouts, self.demand, self._look_every_s = layouts, demand, look_every_s
        self._begun: Begin | None = None
        """The newest start."""
        self._looked_s = 0.0
        self._requested_s = -math.inf
        self._seen: Layout | None = None
        """The better layout that the newest look saw room for."""
        self._has_asked = False
        self._told = ""
        self.held: PlacementGroup | None = None
        """What the run's own workers hold, which they will have given back when others start; by the controller."""

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start workers where there is room for any of the layouts; else wait."""
        self._request_devices()
        nodes = inventory(self.held)
        try:
            layout, placement = place_first(self._layouts, self.demand, nodes)
        except InfeasibleError as error:
            self._tell(f"train: waiting; {error}")
            return NoopDecision()
        begun = self._begun
        instead = f" instead of {begun.layout.line()}" if begun and begun.layout != layout else ""
        free, verb = num_free(self.demand, nodes), "going on" if begun else "training"
        why = f"{free} device{' is' if free == 1 else 's are'} there, {verb} with {layout.line()}{instead}"
        self._tell(f"train: {why}")
        self._seen, self._has_asked = None, False
        self._begun = Begin(layout.num_workers, dict(self.demand.each), layout, placement, why)
        return self._begun

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Ask the first worker to stop where there is room for a better layout; start others when all have."""
        self._request_devices()
        if worker_group_status.finished:
            return self.make_decision_for_non_running_worker_group()
        now = time.monotonic()
        if self._has_asked or now - max(self._looked_s, worker_group_state.start_time) < self._look_every_s:
            return NoopDecision()
        self._looked_s = now
        wanted, is_leaving = self._wanted()
        if wanted is not None and (is_leaving or wanted == self._seen):
            worker_group_state.workers[0].execute_async(_ask_to_stop)
            self._has_asked = True
            why = "a node is about to go" if is_leaving else "there is room for more workers"
            self._tell(f"train: {why}; stopping, so that others can go on")
        self._seen = wanted
        return NoopDecision()

    def _wanted(self) -> tuple[Layout | None, bool]:
        """What to go on with instead, if anything, and whether a node of the workers is about to go."""
        assert self._begun is not None, "workers train"
        nodes = inventory(self.held)
        is_leaving = not set(self._begun.placement.nodes) <= {node.name for node in nodes}
        layouts = self._layouts if is_leaving else self._layouts[: self._layouts.index(self._begun.layout)]
        try:
            return (place_first(layouts, self.demand, nodes)[0] if layouts else None), is_leaving
        except InfeasibleError:
            return None, is_leaving

    def _tell(self, line: str) -> None:
        """Print it, unless it was the last thing that was told."""
        if line != self._told:
            print(line, flush=True)
        self._told = line

    def _request_devices(self) -> None:
        """Ray's own, but not at every turn where the request fails: that would be a stack in the log each time."""
        now = time.monotonic()
        if now - self._requested_s >= REQUEST_EVERY_S:
            self._requested_s = now
            untyped: Any = super()
            untyped._maybe_send_resource_request()

    def _get_num_workers_for_resource_request(self) -> int:
        """What an autoscaler is asked for."""
        return self._layouts[0].num_workers


class NodeFailures(DefaultFailurePolicy):
    """Does not count a failure of workers of which a node is gone: that nodes go is what elastic training is for."""

    def __init__(self, failure_config: Any) -> None:
        super().__init__(failure_config)
        self.stood: frozenset[str] = frozenset()
        """The nodes of the newest start; by the controller."""
        self._failed: list[frozenset[str]] = []
        """The nodes of each start that failed while all of them were there."""

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        """Ray's own, from what counts by now."""
        there = _nodes_there()
        if not self.stood <= there:
            return FailureDecision.RETRY
        self._worker_group_failures = sum(stood <= there for stood in self._failed)
        if isinstance(training_failed_error, WorkerGroupError):
            self._failed.append(self.stood)
        decision = super().make_decision(training_failed_error)
        if decision is FailureDecision.RAISE and isinstance(training_failed_error, WorkerGroupError):
            errors = training_failed_error.worker_failures.values()
            if not any(map(user_error_in, errors)) and self._turns_out_to_be_gone():
                return FailureDecision.RETRY
        return decision

    def _turns_out_to_be_gone(self) -> bool:
        """Before the run is given up: Ray knows of a node that was killed only after some health checks."""
        ends_s = time.monotonic() + NODE_GONE_S
        while time.monotonic() < ends_s:
            if not self.stood <= _nodes_there():
                return True
            time.sleep(WAIT_S)
        return False


def _nodes_there() -> set[str]:
    return {node.name for node in inventory()}


class ElasticController(TrainController):
    """Ray's, but it starts workers as `ReplicaScaling` decides, and those that were asked to stop have not finished."""

    worker_group_cls: Any
    _scaling_policy: ReplicaScaling
    _failure_policy: NodeFailures

    async def _step(self) -> Any:
        group = self._worker_group
        state = group.get_worker_group_state() if group and group.has_started() else None
        self._scaling_policy.held = state.placement_group_handle.placement_group if state else None
        result = await super()._step()
        if result.next_state is result.previous_state:  # there was no room: Ray would ask again at once, all the time
            await asyncio.sleep(WAIT_S)
        return result

    def _execute_resize_decision(self, decision: ResizeDecision) -> Any:
        assert isinstance(decision, Begin)
        self._failure_policy.stood = frozenset(decision.placement.nodes)
        told = {"layout": decision.layout, "placement": decision.placement, "why": decision.why}
        self.worker_group_cls = type("Elastic", (_ElasticWorkers,), {**told, "demand": self._scaling_policy.demand})
        return super()._execute_resize_decision(decision)

    @staticmethod
    def _is_training_succeeded(worker_group_status: Any) -> bool:
        has_ended = TrainController._is_training_succeeded(worker_group_status)
        return has_ended and worker_group_status.worker_statuses[0].return_value != STOPPED


class _ElasticWorkers(PlacedWorkers):
    """Workers that stand where it was decided."""

    placement: Placement

    def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> DefaultPlacementGroupHandle:
        return _Awaited(reserve(self.layout, self.demand, self.placement), frozenset(self.placement.nodes))


class _Awaited(DefaultPlacementGroupHandle):
    """A reservation that is given up when one of its nodes is gone: it would be waited for in vain."""

    def __init__(self, group: PlacementGroup, nodes: frozenset[str]) -> None:
        super().__init__(group)
        self._nodes = nodes

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Whether it was made in time."""
        ends_s = time.monotonic() + timeout_seconds
        while not super().wait(WAIT_S):
            if time.monotonic() > ends_s or not self._nodes <= _nodes_there():
                return False
        return True


def _ask_to_stop() -> None:
    """Called in the process of the first worker."""
    context().asked.to_stop = True
