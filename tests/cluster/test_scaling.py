"""What the policy decides as nodes come and go, without a cluster; runs are in tests/jobs/test_train_elastic.py."""

import inspect
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import FailureConfig, ScalingConfig, WorkerGroupError
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ScalingPolicy
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.exceptions import ControllerError

from cluster import scaling
from cluster.errors import DataError
from cluster.layout import Layout
from cluster.placement import Demand, Node
from cluster.scaling import Begin, NodeFailures, ReplicaScaling

EACH = Demand({"CPU": 1.0})
LAYOUTS = [Layout(replicate=count, tensor=2, accumulation=4 // count) for count in (4, 2, 1)]


def nodes(*free: int) -> list[Node]:
    return [Node(chr(ord("a") + place), {"CPU": 2.0}, {"CPU": float(cpus)}) for place, cpus in enumerate(free)]


@dataclass
class World:
    """What the policy sees, and what it does there."""

    nodes: list[Node] = field(default_factory=lambda: nodes(2, 2, 2, 2))
    now_s: float = 100.0
    asked: list[Any] = field(default_factory=list)
    held: list[Any] = field(default_factory=list)

    def state(self) -> Any:
        first = SimpleNamespace(execute_async=self.asked.append)
        return SimpleNamespace(start_time=100.0, workers=[first])

    def inventory(self, held: Any = None) -> list[Node]:
        self.held.append(held)
        return self.nodes


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(scaling, "inventory", world.inventory)
    monkeypatch.setattr(ScalingPolicy, "_maybe_send_resource_request", lambda policy: None)

    def sleep(seconds: float) -> None:
        world.now_s += seconds

    monkeypatch.setattr(scaling, "time", SimpleNamespace(monotonic=lambda: world.now_s, sleep=sleep))
    return world


def policy_of(layouts: list[Layout] = LAYOUTS) -> ReplicaScaling:
    return ReplicaScaling(ScalingConfig(num_workers=8), layouts, EACH, 10.0)


def begun(policy: ReplicaScaling) -> Begin:
    decision = policy.make_decision_for_non_running_worker_group()
    assert isinstance(decision, Begin)
    return decision


def looked(policy: ReplicaScaling, world: World, after_s: float = 10.0) -> Any:
    """What is decided for workers that train."""
    world.now_s += after_s
    return policy.make_decision_for_running_worker_group(world.state(), SimpleNamespace(finished=False))


@pytest.mark.parametrize(
    ("free", "layout"), [((2, 2, 2, 2), LAYOUTS[0]), ((2, 2, 2), LAYOUTS[1]), ((1, 1, 1, 1, 1, 1, 2), LAYOUTS[2])]
)
def test_workers_start_in_the_best_layout_that_there_is_room_for(
    world: World, free: tuple[int, ...], layout: Layout
) -> None:
    world.nodes = nodes(*free)
    decision = begun(policy_of())
    assert (decision.layout, decision.num_workers) == (layout, layout.num_workers)
    assert decision.resources_per_worker == {"CPU": 1.0}
    for first in range(0, layout.num_workers, 2):
        assert len(set(decision.placement.nodes[first : first + 2])) == 1


def test_without_room_for_the_least_layout_it_waits_and_says_so_once(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.nodes = nodes(1, 1)
    policy = policy_of()
    for _ in range(3):
        assert isinstance(policy.make_decision_for_non_running_worker_group(), NoopDecision)
    said = capsys.readouterr().out
    assert said.count("train: waiting; layout tensor=2 accumulation=4 needs 2 workers of 1 CPU") == 1
    world.nodes = nodes(1, 2)
    assert begun(policy).layout == LAYOUTS[2]


def test_what_changes_is_said_with_the_devices_that_are_there(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    policy = policy_of()
    begun(policy)
    world.nodes = nodes(2, 2, 1)
    assert begun(policy).why == (
        "5 devices are there, going on with replicate=2 tensor=2 accumulation=2 instead of replicate=4 tensor=2"
    )
    assert capsys.readouterr().out.splitlines()[0] == "train: 8 devices are there, training with replicate=4 tensor=2"


def test_what_its_own_workers_hold_counts_as_free(world: World) -> None:
    policy = policy_of()
    policy.held = held = object()  # type: ignore[assignment]
    begun(policy)
    looked(policy, world)
    assert world.held == [held, held]


def test_room_for_more_is_taken_when_it_was_seen_twice(world: World) -> None:
    world.nodes = nodes(2, 2)
    policy = policy_of()
    begun(policy)
    world.nodes = nodes(2, 2, 2, 2)
    assert isinstance(looked(policy, world), NoopDecision)
    assert world.asked == []
    assert isinstance(looked(policy, world, 9.0), NoopDecision)
    assert world.asked == []  # it is not yet time to look
    assert isinstance(looked(policy, world, 1.0), NoopDecision)
    assert world.asked == [scaling._ask_to_stop]
    assert isinstance(looked(policy, world), NoopDecision)
    assert len(world.asked) == 1


def test_room_that_was_there_for_a_moment_changes_nothing(world: World) -> None:
    world.nodes = nodes(2, 2)
    policy = policy_of()
    begun(policy)
    for free in ((2, 2, 2, 2), (2, 2), (2, 2, 2, 2), (2, 2, 2)):
        world.nodes = nodes(*free)
        looked(policy, world)
    assert world.asked == []


def test_a_node_that_is_about_to_go_is_left_at_once_where_there_is_room_elsewhere(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = policy_of()
    begun(policy)
    world.nodes = nodes(2, 2, 2)
    looked(policy, world)
    assert world.asked == [scaling._ask_to_stop]
    assert "train: a node is about to go; stopping" in capsys.readouterr().out


def test_where_there_is_none_it_trains_on_for_as_long_as_it_can(world: World) -> None:
    world.nodes = nodes(2)
    policy = policy_of()
    begun(policy)
    world.nodes = []
    looked(policy, world)
    assert world.asked == []


def test_workers_that_have_stopped_are_followed_by_others(world: World) -> None:
    world.nodes = nodes(2, 2)
    policy = policy_of()
    begun(policy)
    world.nodes = nodes(2, 2, 2, 2)
    decision = policy.make_decision_for_running_worker_group(world.state(), SimpleNamespace(finished=True))
    assert isinstance(decision, Begin)
    assert decision.layout == LAYOUTS[0]


def test_an_autoscaler_is_asked_for_the_most_workers() -> None:
    assert policy_of()._get_num_workers_for_resource_request() == 8


DIED = WorkerGroupError("a worker died", {1: RuntimeError("gloo: connection closed by peer")})


def failures(max_failures: int, *stood: str) -> NodeFailures:
    policy = NodeFailures(FailureConfig(max_failures=max_failures))
    policy.stood = frozenset(stood)
    return policy


def test_a_death_with_its_node_does_not_count(world: World) -> None:
    policy = failures(0, "a", "b", "z")
    assert [policy.make_decision(DIED) for _ in range(5)] == [FailureDecision.RETRY] * 5


def test_a_death_on_nodes_that_stay_counts(world: World) -> None:
    policy = failures(2, "a", "b")
    decided = [policy.make_decision(DIED) for _ in range(3)]
    assert decided == [FailureDecision.RETRY, FailureDecision.RETRY, FailureDecision.RAISE]


def test_a_death_whose_node_turns_out_to_be_gone_counts_no_longer(world: World) -> None:
    world.nodes = nodes(2, 2, 2)
    policy = failures(1, "a", "c")
    assert policy.make_decision(DIED) is FailureDecision.RETRY
    world.nodes, policy.stood = nodes(2, 2), frozenset("ab")
    assert policy.make_decision(DIED) is FailureDecision.RETRY
    assert policy.make_decision(DIED) is FailureDecision.RAISE


def test_before_it_gives_up_it_waits_for_a_node_to_be_known_as_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "inventory", lambda: nodes(2, 2) if world.now_s < 115 else nodes(2))
    policy = failures(0, "a", "b")
    assert policy.make_decision(DIED) is FailureDecision.RETRY
    assert world.now_s == 115.0


def test_a_mistake_of_the_user_is_told_at_once(world: World) -> None:
    policy = failures(0, "a", "b")
    assert policy.make_decision(WorkerGroupError("x", {0: DataError("a bad file")})) is FailureDecision.RAISE
    assert world.now_s == 100.0


def test_an_error_of_the_controller_is_not_waited_for(world: World) -> None:
    policy = failures(3, "a", "b")
    assert policy.make_decision(ControllerError(RuntimeError("x"))) is FailureDecision.RAISE
    assert world.now_s == 100.0


def test_what_is_overridden_is_where_it_was_in_ray() -> None:
    """A new release of Ray may move it; cluster/scaling.py must then follow."""
    step = inspect.getsource(TrainController._step)
    assert "self._scaling_policy.make_decision_for_running_worker_group(" in step
    assert "self._is_training_succeeded(worker_group_status)" in step
    waiting = inspect.getsource(TrainController._make_and_handle_scaling_decision_for_non_running_worker_group)
    assert "next_state = controller_state" in waiting
    assert "self.worker_group_cls.create(" in inspect.getsource(TrainController._start_worker_group)
    assert [*inspect.signature(TrainController._execute_resize_decision).parameters] == ["self", "decision"]
    assert "self._failure_policy.make_decision(" in inspect.getsource(TrainController._run_control_loop_iteration)
    fitted = inspect.getsource(data_parallel_trainer.DataParallelTrainer.fit)
    assert "scaling_policy=create_scaling_policy(" in fitted
    assert "failure_policy=create_failure_policy(" in fitted
