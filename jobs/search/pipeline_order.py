"""In which order each worker of a pipeline runs its stages forward and backward, as PyTorch's schedules decide it."""

from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal

from torch import nn

from cluster.layout import Layout
from jobs.parallel.pipeline import ONE_STAGE_A_WORKER, SCHEDULES, num_stages, stages_of

Part = Literal["forward", "backward", "backward_input", "backward_weight"]
_PARTS: dict[str, Part] = {"F": "forward", "B": "backward", "I": "backward_input", "W": "backward_weight"}


@dataclass(frozen=True)
class Action:
    """One stage's work on one micro-batch."""

    part: Part
    stage: int
    micro_batch: int


def orders(layout: Layout) -> list[list[Action]]:
    """What each place of the pipeline does in a step, in order; without one, pass after pass of the whole model."""
    keys = ("pipeline", "schedule", "micro_batches", "accumulation")
    return _orders(Layout(**{key: getattr(layout, key) for key in keys}))


@cache
def _orders(layout: Layout) -> list[list[Action]]:
    if layout.pipeline == 1:
        return [_in_turn(0, layout.accumulation, num_ahead=1)]
    once = _single(layout) if layout.schedule in ONE_STAGE_A_WORKER else _several(layout)
    passes = range(0, layout.accumulation * layout.micro_batches, layout.micro_batches)
    return [
        [replace(action, micro_batch=action.micro_batch + first) for first in passes for action in actions]
        for actions in once
    ]


def _single(layout: Layout) -> list[list[Action]]:
    """Of the schedules with a stage a worker: 1F1B runs ahead as far as the pipeline is long, GPipe all the way."""
    all_ahead, places = layout.schedule == "gpipe", range(layout.pipeline)
    count = layout.micro_batches
    return [_in_turn(place, count, count if all_ahead else min(count, layout.pipeline - place)) for place in places]


def _in_turn(stage: int, count: int, num_ahead: int) -> list[Action]:
    """So many forward passes, then backward and forward in turn."""
    order = [Action("forward", stage, number) for number in range(num_ahead)]
    for number in range(count):
        order.append(Action("backward", stage, number))
        if number + num_ahead < count:
            order.append(Action("forward", stage, number + num_ahead))
    return order


def _several(layout: Layout) -> list[list[Action]]:
    # Not at the top: importing it makes a folder for compiled code.
    from torch.distributed.pipelining import schedules

    schedule: Any = getattr(schedules, SCHEDULES[layout.schedule])(
        [_stand_in(layout, stage) for stage in stages_of(layout, 0)],
        n_microbatches=layout.micro_batches,
        loss_fn=lambda loss, _: loss,
    )
    return [_actions(schedule.pipeline_order[place]) for place in range(layout.pipeline)]


def _actions(order: list[Any]) -> list[Action]:
    """Without the moments of idleness, and without what is no work on a micro-batch."""
    return [
        Action(_PARTS[action.computation_type.value], action.stage_index, action.microbatch_index)
        for action in order
        if action is not None and action.computation_type.value in _PARTS
    ]


def _stand_in(layout: Layout, stage: int) -> Any:
    """What a schedule asks of a stage before any runs."""
    return SimpleNamespace(
        stage_index=stage,
        num_stages=num_stages(layout),
        group_size=layout.pipeline,
        group_rank=0,
        is_first=stage == 0,
        is_last=stage == num_stages(layout) - 1,
        has_backward=True,
        submod=nn.Identity(),
        stage_index_to_group_rank={},
    )
