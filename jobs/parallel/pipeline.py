"""pipeline: each worker holds one or two stretches of a chain, and micro-batches flow through all of them.

Schedules: GPipe (Huang et al., 2019), 1F1B (Narayanan et al., 2019) and its interleaved form (Narayanan et al., 2021),
interleaved zero-bubble and ZBV (Qi et al., 2023), as PyTorch runs them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from cluster.errors import SpecError
from cluster.layout import Layout, Schedule
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.partition import Partition

SCHEDULES: dict[Schedule, str] = {
    "gpipe": "ScheduleGPipe",
    "1f1b": "Schedule1F1B",
    "interleaved_1f1b": "ScheduleInterleaved1F1B",
    "interleaved_zero_bubble": "ScheduleInterleavedZeroBubble",
    "zbv": "ScheduleZBVZeroBubble",
}
"""The classes of torch.distributed.pipelining.schedules."""
ONE_STAGE_A_WORKER = ("gpipe", "1f1b")
"""The other schedules give each worker two: fewer idle moments, more messages."""
SPLITS_BACKWARD = ("interleaved_zero_bubble", "zbv")
"""They compute the gradients of inputs and of weights at different moments."""

RowLosses = Callable[[Tensor, Batch], Tensor]


class Stage(Chain):
    """A stretch of a chain, called the way PyTorch calls a stage: what came over first, and nothing where it is."""

    def forward(self, hidden: Tensor | None = None, *, batch: Batch) -> Tensor:  # type: ignore[override]
        """What the last link of the stretch returns."""
        return super().forward(batch, hidden)


class LossLink(nn.Module):
    """The link after the last one: the weighted sum of a micro-batch's losses [1]."""

    def __init__(self, losses: RowLosses) -> None:
        super().__init__()
        self._losses = losses

    def forward(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Args:
        outputs: what the model returns of the rows; `batch` holds their `weight` [rows].
        """
        return (self._losses(outputs, batch) * batch["weight"]).sum(0, keepdim=True)


def check(layout: Layout, partition: Partition) -> None:
    """Raise SpecError unless the chain has enough links and the step enough micro-batches."""
    if layout.pipeline == 1:
        if layout.micro_batches > 1:
            raise SpecError(
                f"layout.micro_batches={layout.micro_batches} keep a pipeline busy, but layout.pipeline=1; "
                f"to add up the gradients of several passes give layout.accumulation={layout.micro_batches} instead"
            )
        return
    stages = num_stages(layout)
    if stages > partition.num_links:
        a_worker = stages // layout.pipeline
        raise SpecError(
            f"layout.pipeline={layout.pipeline} with schedule={layout.schedule} makes {stages} stages, {a_worker} a "
            f"worker, but the model has {partition.num_links} layers to cut between; "
            f"give {_shorter(layout, partition.num_links)}, or a deeper model"
        )
    if layout.micro_batches < layout.pipeline and layout.schedule != "gpipe":
        raise SpecError(
            f"layout.micro_batches={layout.micro_batches} are fewer than layout.pipeline={layout.pipeline} stages, so "
            f"schedule={layout.schedule} cannot fill them; give layout.micro_batches={layout.pipeline} or "
            f"{'more' if layout.schedule in ONE_STAGE_A_WORKER else 'a multiple of it'}"
        )
    if layout.schedule not in ONE_STAGE_A_WORKER and layout.micro_batches % layout.pipeline:
        lower = layout.micro_batches - layout.micro_batches % layout.pipeline
        raise SpecError(
            f"layout.micro_batches={layout.micro_batches} is no multiple of layout.pipeline={layout.pipeline}, which "
            f"schedule={layout.schedule} goes round in; give layout.micro_batches={lower} or "
            f"{lower + layout.pipeline}"
        )


def _shorter(layout: Layout, num_links: int) -> str:
    """The longest pipeline that a chain of so many links can be cut into."""
    fits = [length for length in range(2, num_links + 1) if _fits(layout, length, num_links)]
    if fits:
        return f"layout.pipeline={fits[-1]}"
    return f"layout.schedule=1f1b with layout.pipeline={min(layout.pipeline, num_links)}"


def _fits(layout: Layout, length: int, num_links: int) -> bool:
    if layout.schedule in ONE_STAGE_A_WORKER:
        return True
    return 2 * length <= num_links and layout.micro_batches % length == 0


def num_stages(layout: Layout) -> int:
    """How many stretches the chain is cut into."""
    return layout.pipeline * (1 if layout.schedule in ONE_STAGE_A_WORKER else 2)


def stages_of(layout: Layout, place: int) -> list[int]:
    """The stages of the worker at a place of the pipeline: round by round, or for ZBV there and back again."""
    stages = num_stages(layout)
    if layout.schedule == "zbv":
        return [place, stages - 1 - place]
    return list(range(place, stages, layout.pipeline))


def links_of(names: list[str], num: int, stage: int) -> list[str]:
    """The stretch of the links that a stage holds; lengths differ by one at most, the longer ones first."""
    size, rest = divmod(len(names), num)
    start = stage * size + min(stage, rest)
    return names[start : start + size + (stage < rest)]


def cut(chain: Chain, layout: Layout, place: int, losses: RowLosses) -> tuple[Chain, list[Stage]]:
    """The links of a worker, and its stages, which share them; the last stage ends with the loss."""
    names = list(chain)
    num = num_stages(layout)
    stages = [Stage({name: chain[name] for name in links_of(names, num, stage)}) for stage in stages_of(layout, place)]
    owned = Chain({name: link for stage in stages for name, link in stage.items()})
    if num - 1 in stages_of(layout, place):
        stages[stages_of(layout, place).index(num - 1)]["loss"] = LossLink(losses)
    return owned, stages


class Pipeline:
    """Runs one step's micro-batches through the stages, forward and backward."""

    def __init__(self, stages: list[nn.Module], layout: Layout, mesh: DeviceMesh, device: torch.device) -> None:
        # Not at the top: importing it makes a folder for compiled code.
        from torch.distributed.pipelining import PipelineStage, schedules

        group = mesh["pipeline"].get_group()
        place = mesh["pipeline"].get_local_rank()
        staged = [
            PipelineStage(module, index, num_stages(layout), device, group=group)
            for module, index in zip(stages, stages_of(layout, place), strict=True)
        ]
        # The loss is divided by the rows of the global batch already, so gradients must not be scaled again.
        schedule: Any = getattr(schedules, SCHEDULES[layout.schedule])
        self._schedule = schedule(
            staged[0] if layout.schedule in ONE_STAGE_A_WORKER else staged,
            n_microbatches=layout.micro_batches,
            loss_fn=lambda loss, _: loss.sum(),
            scale_grads=False,
        )
        self._holds_last = num_stages(layout) - 1 in stages_of(layout, place)

    def step(self, batch: Batch) -> Tensor:
        """Add the batch's gradients to those that are there; returns its weighted loss [], 0 but on the last stage."""
        losses: list[Tensor] = []
        target = batch["weight"] if self._holds_last else None
        self._schedule.step(batch=batch, target=target, losses=losses if self._holds_last else None)
        return torch.stack([loss.detach() for loss in losses]).sum() if losses else batch["weight"].new_zeros(())
