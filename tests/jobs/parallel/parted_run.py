"""A model in training that is parted over workers by PyTorch alone, without our strategies."""

from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.optim import SGD, Adam, AdamW, Optimizer

from jobs.workloads.chain import Batch, Chain

LAYOUTS = {
    "alone": 1,
    "replicate 2": 2,
    "tensor 2": 2,
    "pipeline 2": 2,
    "shard 4": 4,
    "replicate 2 shard 2": 4,
    "shard 2 tensor 2": 4,
    "shard 2 pipeline 2": 4,
}
"""With how many workers each needs."""


class Link(nn.Module):
    """A layer in a chain, with something of everything that training state is made of."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(num_inputs, num_outputs)
        self.frozen = nn.Linear(2, num_outputs).requires_grad_(False)
        self.idle = nn.Parameter(torch.randn(num_outputs))
        self.register_buffer("counted", torch.zeros(()))

    def forward(self, hidden: Tensor | None, batch: Batch) -> Tensor:
        out: Tensor = self.layer(batch["rows"] if hidden is None else hidden)
        return out


@dataclass
class Run:
    """What one worker holds."""

    model: Chain
    optimizer: Optimizer

    def train(self, first: int, last: int) -> "Run":
        """Take the steps from `first` up to, but not including, `last`.

        The gradient of a weight is a function of that weight and the step, so every layout computes the same.
        `idle` never gets one.
        """
        for step in range(first, last):
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad and not name.endswith("idle"):
                    parameter.grad = torch.sin(3 * parameter.detach() + step)
            self.optimizer.step()
            self.optimizer.zero_grad()
            for buffer in self.model.buffers():
                buffer += step
        return self

    def state(self) -> dict[str, Tensor]:
        """Every number that this worker has a part of, whole."""
        found = self.model.state_dict()
        for name, parameter in self.model.named_parameters():
            kept = self.optimizer.state.get(parameter, {})
            found |= {f"{name}.{key}": value for key, value in kept.items() if value is not None}
        return {name: (v.full_tensor() if isinstance(v, DTensor) else v).clone() for name, v in found.items()}


def new_run(layout: str = "alone", optimizer: str = "adamw", seed: int = 0) -> Run:
    """A run at its start. Of the layers' 8, 7 and 3 outputs only the first divide evenly over 4 workers."""
    torch.manual_seed(seed)
    model = Chain({"first": Link(6, 8), "second": Link(8, 7), "third": Link(7, 7), "last": Link(7, 3)})
    model = part(model, layout)
    parameters = list(model.parameters())
    optimizers = {
        "adamw": partial(AdamW, parameters, lr=0.1, weight_decay=0.1),
        "adam": partial(Adam, parameters, lr=0.1),
        "momentum": partial(SGD, parameters, lr=0.01, momentum=0.9),
        "sgd": partial(SGD, parameters, lr=0.01),
    }
    return Run(model, optimizers[optimizer]())


@cache
def mesh_of(layout: str) -> DeviceMesh | None:
    """Pipeline first and tensor last, as everywhere: peers of a tensor group are neighbours."""
    words = layout.split()
    sizes = dict(zip(words[::2], map(int, words[1::2]), strict=False))
    axes = {axis: sizes[axis] for axis in ("pipeline", "replicate", "shard", "tensor") if axis in sizes}
    return init_device_mesh("cpu", tuple(axes.values()), mesh_dim_names=tuple(axes)) if axes else None


def part(model: Chain, layout: str) -> Chain:
    """This worker's part of a model."""
    mesh = mesh_of(layout)
    if mesh is None:
        return model
    if "pipeline" in layout:
        links = list(model.items())
        model = Chain(links[:2] if mesh["pipeline"].get_local_rank() == 0 else links[2:])
    if "tensor" in layout:
        plan = {"first.layer": ColwiseParallel(), "second.layer": RowwiseParallel()}
        parallelize_module(model, mesh["tensor"], plan)
    if "shard" in layout:
        over = mesh["replicate", "shard"] if "replicate" in layout else mesh["shard"]
        for link in model.values():
            fully_shard(link, mesh=over, reshard_after_forward=False)
        fully_shard(model, mesh=over, reshard_after_forward=False)
    return model


def look(run: Run) -> None:
    """Let a model that begins with the first link compute something, which leaves sharded weights gathered."""
    if "first" in run.model and dist.is_initialized():
        with torch.no_grad():
            run.model({"rows": torch.ones(2, 6)})
