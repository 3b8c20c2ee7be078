"""What a device of this cluster does, measured: some seconds of small work on every worker of a process group.

No model is trained: matrix products, convolutions, sums, messages of several sizes in groups of several sizes, and what
torch's own parallel modules cost when there is next to nothing in them.
"""

import time
from collections.abc import Callable, Sequence
from math import ceil
from statistics import fmean
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from cluster.layout import Layout, Precision
from jobs.parallel.collectives import all_of, from_first, rank, world_size
from jobs.parallel.pipeline import Pipeline, cut
from jobs.parallel.precision import DTYPES
from jobs.search.device import Device, Link, Overheads
from jobs.search.footprint import Kind
from jobs.workloads.chain import Batch, Chain

WARM, REPEATS = 2, 20
SIDES = (128, 512)
"""Of square matrices: the rate is that of the larger one."""
CPU_SUM_BYTES, GPU_SUM_BYTES = 4 * 2**20, 256 * 2**20
MESSAGE_BYTES = (16 * 2**10, 4 * 2**20)
NUM_TINY, TINY = 32, 16
"""So many modules or weights of so many features."""
MICRO_BATCHES = 8


Clock = Callable[[Callable[[], Any], torch.device], float]
"""A call and its device -> seconds of one."""


def measured_device(device: torch.device, devices_a_node: int, memory_gib: float) -> Device:
    """The device, the same on every worker; all of them call it at the same time.

    Args:
        memory_gib: of each worker.
    """
    alone = from_first(_compute(device) if rank() == 0 else None)
    _together()
    crowded = fmean(all_of(_matrix_s(device, SIDES[-1], torch.float32, _together_s)))
    assert alone is not None
    slowed = max(1.0, crowded / alone["fp32_s"])
    shares = device.type == "cpu"
    links = _measured_links(device)
    overheads = _overheads(device, alone, links, slowed)
    own = _links_between_two(links)
    return from_first(
        Device(
            memory_gib=memory_gib,
            devices_a_node=devices_a_node,
            tflops={precision: alone[precision] for precision in ("fp32", "bf16") if precision in alone},
            convolution_share=alone["convolution"],
            memory_gb_per_s=alone["sum"],
            inside=own,
            between=own,
            overlaps=not shares,
            cores=world_size() / slowed if shares else None,
            overheads=overheads,
            measured=links,
            source=f"measured by {world_size()} workers on {torch.__version__}",
        )
    )


def _together() -> None:
    if world_size() > 1:
        dist.barrier()


def _each_s(work: Callable[[], Any], device: torch.device) -> list[float]:
    """Of one call after the other, the first ones left out."""
    taken = []
    for _ in range(WARM + REPEATS):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return taken[WARM:]


def _alone_s(work: Callable[[], Any], device: torch.device) -> float:
    """Of one call while the other workers wait: the fastest, since what else the machine does only makes it slower."""
    return min(_each_s(work, device))


def _together_s(work: Callable[[], Any], device: torch.device) -> float:
    """Of one call while all workers do the same: the mean, since the fastest had the processor to themselves."""
    return fmean(_each_s(work, device))


def _matrix_s(device: torch.device, side: int, dtype: torch.dtype, clock: Clock = _alone_s) -> float:
    matrix = torch.rand(side, side, device=device, dtype=dtype)
    return clock(lambda: [matrix @ matrix for _ in range(4)], device) / 4


def _compute(device: torch.device) -> dict[str, float]:
    """What one worker does while the others wait."""
    side = SIDES[-1] if device.type == "cpu" else 8192
    found = {"fp32_s": _matrix_s(device, SIDES[-1], torch.float32)}
    precisions: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": DTYPES["bf16"]}
    for precision, dtype in precisions.items():
        found[precision] = 2 * side**3 / _matrix_s(device, side, dtype) / 1e12
    num_bytes = CPU_SUM_BYTES if device.type == "cpu" else GPU_SUM_BYTES
    first, second = (torch.rand(num_bytes // 4, device=device) for _ in range(2))
    found["sum"] = 3 * num_bytes / _alone_s(lambda: first + second, device) / 1e9
    found["convolution"] = min(1.0, _convolution_tflops(device) / found["fp32"])
    found["op_us"] = _chain_us(lambda values, factor: values * factor, device)
    found["view_us"] = _chain_us(lambda values, factor: values.view(TINY, 1).view(TINY), device) / 2
    found["update_us"] = _update_us([nn.Parameter(torch.rand(TINY, device=device)) for _ in range(NUM_TINY)], device)
    found["plain_us"] = _passes_us(_tiny_pairs(device), device)
    return found


def _convolution_tflops(device: torch.device) -> float:
    """Of one with few channels, forward and backward, as small image models have it."""
    convolution = nn.Conv2d(32, 32, 3, padding=1, device=device)
    images = torch.rand(16, 32, 28, 28, device=device, requires_grad=True)
    return 3 * 2 * 16 * 28 * 28 * 32 * 32 * 9 / _alone_s(lambda: convolution(images).sum().backward(), device) / 1e12


def _chain_us(op: Callable[[Tensor, Tensor], Tensor], device: torch.device) -> float:
    """Of one kernel of a long chain of tiny ones, forward or backward."""
    values, factor = torch.rand(TINY, device=device, requires_grad=True), torch.rand(TINY, device=device)

    def run() -> None:
        reached = values
        for _ in range(200):
            reached = op(reached, factor)
        reached.sum().backward()

    return _alone_s(run, device) / 400 * 1e6


def _update_us(weights: Sequence[Tensor], device: torch.device, clock: Clock = _alone_s) -> float:
    """Of the optimizer, a weight."""
    optimizer = torch.optim.AdamW(weights)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    return clock(optimizer.step, device) / len(weights) * 1e6


def _tiny_pairs(device: torch.device) -> nn.Sequential:
    pairs = (nn.Sequential(nn.Linear(TINY, TINY), nn.Linear(TINY, TINY)) for _ in range(NUM_TINY // 2))
    return nn.Sequential(*pairs).to(device)


def _passes_us(model: nn.Module, device: torch.device, clock: Clock = _alone_s) -> float:
    """Of a forward and a backward pass of tiny pairs, a layer."""
    given = torch.rand(1, TINY, device=device, requires_grad=True)
    return clock(lambda: model(given).sum().backward(), device) / NUM_TINY * 1e6


def _overheads(
    device: torch.device, alone: dict[str, float], links: dict[Kind, dict[int, Link]], slowed: float
) -> Overheads:
    """What parallel modules cost beside their messages; measured by all workers at once, told as of one alone."""
    own = Overheads(op_us=alone["op_us"], view_us=alone["view_us"], update_us=alone["update_us"])
    if world_size() < 2:
        return own
    mesh = _pairs_of_ranks(device)
    latency = {kind: by_size[2].latency_us for kind, by_size in links.items()}
    split = _slowest(lambda: _split_us(mesh, device)) - latency["all_reduce"]
    unit = _slowest(lambda: _unit_us(mesh, device)) - 2 * latency["all_gather"] - latency["reduce_scatter"]
    sharded = _slowest(lambda: _sharded_update_us(mesh, device))
    action = _slowest(lambda: _action_us(mesh, device)) - latency["send"]
    return own.model_copy(
        update={
            "sharded_update_us": sharded / slowed,
            "split_layer_us": max(0.0, split / slowed - alone["plain_us"]),
            "unit_us": max(0.0, unit / slowed - 2 * alone["plain_us"]),
            "action_us": max(0.0, action / slowed - alone["plain_us"] / 2),
        }
    )


def _slowest(measure: Callable[[], float]) -> float:
    _together()
    return max(all_of(measure()))


def _pairs_of_ranks(device: torch.device) -> DeviceMesh:
    """Neighbours; there is an even number of them."""
    mesh = DeviceMesh(device.type, torch.arange(world_size()).view(-1, 2), mesh_dim_names=("pairs", "own"))
    return mesh["own"]


def _split_us(mesh: DeviceMesh, device: torch.device) -> float:
    model = _tiny_pairs(device)
    for pair in model:
        parallelize_module(pair, mesh, {"0": ColwiseParallel(), "1": RowwiseParallel()})
    return _passes_us(model, device, _together_s)


def _unit_us(mesh: DeviceMesh, device: torch.device) -> float:
    """A unit is a pair of layers here."""
    model = _tiny_pairs(device)
    for pair in model:
        fully_shard(pair, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return 2 * _passes_us(model, device, _together_s)


def _sharded_update_us(mesh: DeviceMesh, device: torch.device) -> float:
    parts = (DTensor.from_local(torch.rand(TINY, device=device), mesh, [Shard(0)]) for _ in range(NUM_TINY))
    return _update_us([nn.Parameter(part) for part in parts], device, _together_s)


class _Tiny(nn.Module):
    """A link with one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(TINY, TINY)

    def forward(self, hidden: Tensor | None, batch: Batch) -> Tensor:
        """[rows, TINY]; the first link takes them from the batch."""
        outputs: Tensor = self.linear(batch["rows"] if hidden is None else hidden)
        return outputs


def _action_us(mesh: DeviceMesh, device: torch.device) -> float:
    """Of one of the two actions that a pipeline of two places takes a micro-batch, and one more to fill it."""
    layout = Layout(pipeline=2, micro_batches=MICRO_BATCHES)
    place = mesh.get_local_rank()
    _, stages = cut(Chain({"first": _Tiny(), "last": _Tiny()}), layout, place, lambda outputs, _: outputs.sum(1))
    pipeline = Pipeline([stage.to(device) for stage in stages], layout, _named(mesh), device)
    batch = {
        name: torch.rand(MICRO_BATCHES, *shape, device=device) for name, shape in (("rows", [TINY]), ("weight", []))
    }
    return _together_s(lambda: pipeline.step(batch), device) / (2 * (MICRO_BATCHES + 1)) * 1e6


def _named(mesh: DeviceMesh) -> Any:
    """The mesh by the name that a pipeline asks for."""
    return {"pipeline": mesh}


def _measured_links(device: torch.device) -> dict[Kind, dict[int, Link]]:
    """Of groups of two, of four and so on, all of one size at once; and of all."""
    world = world_size()
    sizes = sorted({size for size in (2, 4, 8, 16, 32, 64, world) if 1 < size <= world})
    found: dict[Kind, dict[int, Link]] = {"all_reduce": {}, "all_gather": {}, "reduce_scatter": {}, "send": {}}
    for size in sizes:
        group = _own_group(size)
        for kind in found:
            if kind != "send" or size == 2:
                found[kind][size] = _link(kind, group, size, device)
    return found if sizes else {}


def _own_group(size: int) -> ProcessGroup | None:
    """This worker's group of so many that follow each other; None where too few are left over for one."""
    own = None
    for first in range(0, world_size() - size + 1, size):
        group = dist.new_group(list(range(first, first + size)))
        if first <= rank() < first + size:
            own = group
    return own


def _link(kind: Kind, group: ProcessGroup | None, size: int, device: torch.device) -> Link:
    times = []
    for num_bytes in MESSAGE_BYTES:
        _together()
        own = 0.0 if group is None else _together_s(_message(kind, group, size, num_bytes, device), device)
        times.append(max(all_of(own)))
    small, large = times
    rate = (MESSAGE_BYTES[1] - MESSAGE_BYTES[0]) / max(large - small, 1e-9) / 1e9
    return Link(latency_us=max(small - MESSAGE_BYTES[0] / (rate * 1e9), 0.0) * 1e6, gb_per_s=rate)


def _message(kind: Kind, group: ProcessGroup, size: int, num_bytes: int, device: torch.device) -> Callable[[], Any]:
    part = torch.rand(ceil(num_bytes / 4 / size), device=device)
    whole = torch.rand(len(part) * size, device=device)  # a little more where three or six have parts of it
    match kind:
        case "all_reduce":
            return lambda: dist.all_reduce(whole, group=group)
        case "all_gather":
            return lambda: dist.all_gather_into_tensor(whole, part, group=group)
        case "reduce_scatter":
            return lambda: dist.reduce_scatter_tensor(part, whole, group=group)
        case "send":
            is_first = dist.get_rank(group) == 0
            return lambda: _ping(whole, group, is_first)


def _ping(values: Tensor, group: ProcessGroup, is_first: bool) -> None:
    """There; the next one waits until it is over, so that each call is one message."""
    if is_first:
        dist.send(values, group=group, group_dst=1)
    else:
        dist.recv(values, group=group, group_src=0)


def _links_between_two(links: dict[Kind, dict[int, Link]]) -> Link:
    """One way, between two; where there is one device alone, of a slow network, for who asks what more would do."""
    return links["send"][2] if links else Link(latency_us=0, gb_per_s=1)
