"""What one of several workers does of a link: modules of its own sizes, which note each message instead of sending it.

They stand for what `jobs.parallel.tensor` and `jobs.parallel.context` make of a module, tensor by tensor, and need no
process group.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cluster.layout import Layout
from jobs.parallel.modules import matches, replace
from jobs.search.footprint import Message, Recorder
from jobs.workloads.partition import Partition

Note = Callable[[Message], None]


def localise(link: nn.Module, name: str, layout: Layout, partition: Partition, recorder: Recorder) -> None:
    """Change a link in place into what a worker of the layout has of it.

    Args:
        name: of the link in the model, which the partition's patterns speak of; empty for the whole model.
    """
    if layout.context > 1 and partition.attention:
        for path, attend in list(_matching(link, name, partition.attention)):
            replace(link, path, _GatheringStandIn(attend, layout.context, recorder.tell))
    if layout.tensor == 1:
        return
    for path, module in list(link.named_modules()):
        for pattern, role in partition.tensor.items():
            if matches(_joined(name, path), pattern):
                _split(link, path, module, role, layout, recorder.tell)


def _joined(name: str, path: str) -> str:
    return ".".join(part for part in (name, path) if part)


def _matching(link: nn.Module, name: str, pattern: str) -> list[tuple[str, nn.Module]]:
    return [(path, module) for path, module in link.named_modules() if path and matches(_joined(name, path), pattern)]


def _split(link: nn.Module, path: str, module: nn.Module, role: str, layout: Layout, note: Note) -> None:
    by_sequence, size = layout.sequence_parallel, layout.tensor
    if role in ("column", "head", "row") and isinstance(module, nn.Linear):
        replace(link, path, LinearStandIn(module, role, size, by_sequence, note))
    elif by_sequence and role == "block":
        module.register_forward_pre_hook(
            lambda _, given: (_applied(_Gather, given[0], 1, size, "tensor", note), *given[1:])
        )
    elif by_sequence and role == "embedding":
        module.register_forward_hook(lambda _, given, output: _applied(_Stretch, output, size, note))


class LinearStandIn(nn.Module):
    """One worker's part of a linear layer."""

    def __init__(self, whole: nn.Linear, role: str, size: int, by_sequence: bool, note: Note) -> None:
        super().__init__()
        outputs, inputs = whole.weight.shape
        shape = (outputs, inputs // size) if role == "row" else (outputs // size, inputs)
        weight = whole.weight
        self.weight = nn.Parameter(weight.new_empty(shape), requires_grad=weight.requires_grad)
        self.bias = None
        if whole.bias is not None:
            local = whole.bias.new_empty(outputs if role == "row" else outputs // size)
            self.bias = nn.Parameter(local, requires_grad=whole.bias.requires_grad)
        self._role, self._size, self._by_sequence, self._note = role, size, by_sequence, note

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs], of which a part where the next layer takes a part."""
        size, note = self._size, self._note
        if self._role == "head" and self._by_sequence:
            inputs = _applied(_Gather, inputs, 1, size, "tensor", note)
        elif self._role != "row" and not self._by_sequence:
            inputs = _applied(_SumBackward, inputs, "tensor", note)
        outputs: Tensor = nn.functional.linear(inputs, self.weight, self.bias)
        if self._role == "row":
            return (
                _applied(_Scatter, outputs, size, "tensor", note)
                if self._by_sequence
                else _applied(_Sum, outputs, note)
            )
        return _applied(_Gather, outputs, -1, size, "tensor", note) if self._role == "head" else outputs


class _GatheringStandIn(nn.Module):
    """The attention of a stretch of the positions to all of them, as `GatheringAttention`."""

    def __init__(self, attend: nn.Module, size: int, note: Note) -> None:
        super().__init__()
        self._attend, self._size, self._note = attend, size, note

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, query_position: Tensor, key_position: Tensor
    ) -> Tensor:
        """As of the attention it stands for."""
        keys, values = (
            _applied(_Gather, each.contiguous(), 2, self._size, "context", self._note) for each in (key, value)
        )
        positions = torch.cat([key_position] * self._size, 1)
        attended: Tensor = self._attend(query, keys, values, query_position, positions)
        return attended


def _applied(function: Any, *given: Any) -> Tensor:
    """What a function of autograd makes; torch's stub of `apply` says nothing."""
    made: Tensor = function.apply(*given)
    return made


def _size_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class _Sum(torch.autograd.Function):
    """The sum of what all peers have; its gradient is theirs as well."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, note: Note) -> Tensor:
        note(Message("all_reduce", "tensor", _size_of(given)))
        return given.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


class _SumBackward(torch.autograd.Function):
    """What all peers have alike; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, axis: str, note: Note) -> Tensor:
        ctx.axis, ctx.note = axis, note
        return given.view_as(given)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.note(Message("all_reduce", ctx.axis, _size_of(gradients[0])))
        return gradients[0].clone(), None, None


class _Gather(torch.autograd.Function):
    """The parts of all peers along a dim; of the gradient each gets the sum of its part, or its part where all have
    the same."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, dim: int, size: int, axis: str, note: Note) -> Tensor:
        ctx.dim, ctx.size, ctx.axis, ctx.note = dim, size, axis, note
        gathered = torch.cat([given] * size, dim)
        note(Message("all_gather", axis, _size_of(gathered)))
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        part = gradient.chunk(ctx.size, ctx.dim)[0]
        if ctx.dim == -1:  # of a head: what follows is the same on all peers
            return part, None, None, None, None
        ctx.note(Message("reduce_scatter", ctx.axis, _size_of(gradient)))
        return part.clone(), None, None, None, None


class _Stretch(torch.autograd.Function):
    """This worker's stretch of what all peers have alike; its gradient is gathered."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, size: int, note: Note) -> Tensor:
        ctx.size, ctx.note = size, note
        return given.chunk(size, 1)[0].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gathered = torch.cat([gradients[0]] * ctx.size, 1)
        ctx.note(Message("all_gather", "tensor", _size_of(gathered)))
        return gathered, None, None


class _Scatter(torch.autograd.Function):
    """This worker's stretch of the sum of what all peers have; its gradient is gathered."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, size: int, axis: str, note: Note) -> Tensor:
        ctx.size, ctx.axis, ctx.note = size, axis, note
        note(Message("reduce_scatter", axis, _size_of(given)))
        return given.chunk(size, 1)[0].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gathered = torch.cat([gradients[0]] * ctx.size, 1)
        ctx.note(Message("all_gather", ctx.axis, _size_of(gathered)))
        return gathered, None, None, None
