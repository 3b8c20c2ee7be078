"""Parted: a model as one worker of a layout holds it, and a training step of it."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._composable.replicate_with_fsdp import ReplicateModule
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from cluster.layout import Layout
from jobs.parallel import STRATEGIES
from jobs.parallel.collectives import sum_over_all
from jobs.parallel.mesh import open_mesh
from jobs.parallel.pipeline import Pipeline, cut
from jobs.parallel.precision import lowered
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.partition import Partition

Losses = Callable[[Any, Batch], Tensor]
"""Outputs and batch -> the loss of each row [rows]."""


@dataclass(frozen=True)
class Parted:
    """This worker's part of a model."""

    layout: Layout
    mesh: DeviceMesh | None
    model: nn.Module
    """All that this worker holds, by the names of the whole: for the optimizer, checkpoints and the gradients' norm."""
    parts: list[nn.Module]
    """What is called; more than one where a worker has several stages of a pipeline."""
    losses: Losses
    pipeline: Pipeline | None
    device: torch.device

    def backward(self, passes: Sequence[Batch]) -> Tensor:
        """Compute the gradients of one step's passes, added up and averaged over all workers.

        Args:
            passes: each with `weight` [rows], which the losses of its rows are multiplied by.

        Returns:
            The weighted loss of this worker's rows []; 0 where it holds no loss.
        """
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(passes):
            is_last = number + 1 == len(passes)
            with lowered(self.layout.precision, self.device.type), ExitStack() as stack:
                self._synchronise(is_last, stack)
                total += self._pass(batch)
        return total

    def _pass(self, batch: Batch) -> Tensor:
        if self.pipeline:
            return self.pipeline.step(batch)
        losses = self.losses(self.parts[0](batch), batch)
        weighted = (losses * batch["weight"]).sum()
        weighted.backward()
        return weighted.detach()

    def _synchronise(self, is_last: bool, stack: ExitStack) -> None:
        """Let gradients travel with the last pass only; a pipeline sees to that for each of its own."""
        if self.pipeline:
            return
        (part,) = self.parts
        if isinstance(part, DistributedDataParallel) and not is_last:
            stack.enter_context(part.no_sync())
        elif isinstance(part, FSDPModule | ReplicateModule):
            part.set_requires_gradient_sync(is_last)

    def summed(self, value: Tensor) -> Tensor:
        """The sum over all workers of what `backward` returned, the rows of each counted once []."""
        if self.mesh is None:
            return value
        is_counted = self.layout.coordinate(dist.get_rank()).tensor == 0
        return sum_over_all(value if is_counted else torch.zeros_like(value))

    def whole_weights(self) -> dict[str, Tensor] | None:
        """The weights of the whole model in host memory, on the first worker; None on the others, which call it too."""
        # Torch warns that it gathers over one axis after the other; of weights that are split twice it has to.
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
        weights = {
            name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
            for name, value in self.model.state_dict().items()
        }
        if self.mesh is None or self.layout.pipeline == 1:
            return weights if self.mesh is None or dist.get_rank() == 0 else None
        place = self.layout.coordinate(dist.get_rank())
        if any((place.replicate, place.shard, place.context, place.tensor)):
            return None
        gathered: list[Any] | None = [None] * self.layout.pipeline if place.pipeline == 0 else None
        dist.gather_object(weights, gathered, group=self.mesh["pipeline"].get_group(), group_dst=0)
        return {name: value for part in gathered for name, value in part.items()} if gathered else None


def part(model: nn.Module, layout: Layout, partition: Partition, losses: Losses, device: torch.device) -> Parted:
    """This worker's part of `model`, which every worker of the process group built alike."""
    mesh = open_mesh(layout, device.type)
    whole = model.to(device)
    owned: nn.Module = whole
    parts: list[nn.Module] = [whole]
    if layout.pipeline > 1 and mesh is not None:
        assert isinstance(whole, Chain)
        owned, stages = cut(whole, layout, mesh["pipeline"].get_local_rank(), losses)
        parts = list(stages)
    for strategy in STRATEGIES.values():
        parts = strategy.apply(parts, layout, partition, mesh)
    pipeline = Pipeline(parts, layout, mesh, device) if layout.pipeline > 1 and mesh is not None else None
    return Parted(layout, mesh, owned, parts, losses, pipeline, device)
