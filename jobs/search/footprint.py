"""Footprint: what a stretch of a model does to some rows and holds meanwhile, found out without a device.

The stretch runs forward and backward on torch's fake tensors, which have shapes and storages but no numbers. Counted
is what it would do: operations, bytes that move, messages to peers; and the bytes that live at each moment, since
autograd keeps and frees fake tensors as it does real ones. Kernels are those of the CPU, whose attention keeps as
little as that of a GPU does (Dao et al., 2022, FlashAttention).
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Stretch = Callable[[Tensor | None, Mapping[str, Tensor]], Tensor]
"""What came out of the stretch before and the batch -> what comes out of this one; the loss of all rows [] at last."""
VIEWS = frozenset(
    {"view", "_unsafe_view", "t", "transpose", "expand", "detach", "slice", "select", "unsqueeze", "squeeze", "split"}
    | {"permute", "alias", "split_with_sizes", "unbind", "as_strided", "_reshape_alias", "chunk", "narrow", "unfold"}
)
"""Operators that move nothing."""


_COUNTED: dict[str, Callable[..., int]] = {
    "_scaled_dot_product_flash_attention_for_cpu": lambda query, key, value, *_, **__: sdpa_flop_count(
        query.shape, key.shape, value.shape
    ),
    "_scaled_dot_product_flash_attention_for_cpu_backward": lambda out, query, key, value, *_, **__: (
        sdpa_backward_flop_count(out.shape, query.shape, key.shape, value.shape)
    ),
}
"""Those that torch counts for GPUs alone."""
Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "send"]


@dataclass(frozen=True)
class Message:
    """What a worker and its peers on an axis tell each other at once."""

    kind: Kind
    axis: str
    bytes: int
    """Of the whole tensor: what is reduced, what all gather, or what is sent."""


@dataclass(frozen=True)
class Work:
    """What is done, kernel by kernel, views and messages apart."""

    names: tuple[str, ...]
    """Of the kernels."""
    flops: np.ndarray
    """Floating point operations of each [kernels], float64."""
    moved: np.ndarray
    """Bytes that each reads and writes [kernels], float64."""
    num_views: int
    """Operators that only name a part of a tensor."""
    messages: tuple[Message, ...]


@dataclass
class _Notes:
    """Work that is being written down."""

    ops: list[tuple[str, float, float]] = field(default_factory=list)
    num_views: int = 0
    messages: list[Message] = field(default_factory=list)

    def work(self) -> Work:
        names = tuple(name for name, _, _ in self.ops)
        flops, moved = (np.array([op[place] for op in self.ops], np.float64) for place in (1, 2))
        return Work(names, flops, moved, self.num_views, tuple(self.messages))


@dataclass(frozen=True)
class Footprint:
    """Of one stretch for one number of rows."""

    forward: Work
    backward: Work
    output_bytes: int
    kept_bytes: int
    """After the forward pass, for the backward one, besides what came in and what goes out."""
    keeps_input: bool
    keeps_output: bool
    forward_levels: np.ndarray
    """What lives above what was there before, what came in among it, whenever something new does [moments], float64."""
    backward_levels: np.ndarray
    """Likewise above what was there before the backward pass, kept bytes among that; gradients of weights come on top
    one after another."""

    @cached_property
    def forward_peak_bytes(self) -> int:
        """The most that lives in the forward pass."""
        return int(self.forward_levels.max(initial=0.0))

    @cached_property
    def backward_peak_bytes(self) -> int:
        """The most that lives in the backward pass."""
        return int(self.backward_levels.max(initial=0.0))


class Recorder(FakeTensorMode):
    """Fake tensors that are counted: each operator, and each storage as long as it lives."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.notes = _Notes()
        self.live_bytes = 0
        self.levels: list[int] = []
        self._is_inside = False
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def begin(self) -> None:
        """Count anew, from what lives now as 0."""
        self.notes, self.live_bytes, self.levels = _Notes(), 0, []

    def tell(self, message: Message) -> None:
        """Note a message that would be sent here."""
        self.notes.messages.append(message)

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every operator."""
        if self._is_inside:  # an operator that torch takes apart to learn its shapes
            return super().dispatch(func, types, args, kwargs)
        self._is_inside = True
        try:
            made = super().dispatch(func, types, args, kwargs)
        finally:
            self._is_inside = False
        name = func._schema.name.partition("::")[2] if hasattr(func, "_schema") else ""
        if name in VIEWS:
            self.notes.num_views += 1
            return made
        outputs = [each for each in tree_leaves(made) if isinstance(each, Tensor)]
        if outputs:
            self._count(func, name, args, kwargs or {}, made, outputs)
        return made

    def _count(self, func: Any, name: str, args: Any, kwargs: Any, made: Any, outputs: list[Tensor]) -> None:
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        moved = sum(each.numel() * each.element_size() for each in (*inputs, *outputs))
        counted = _COUNTED.get(name) or flop_registry.get(func._overloadpacket)
        flops = float(counted(*args, **kwargs, out_val=made)) if counted else 0.0
        self.notes.ops.append((name, flops, float(moved)))
        for each in outputs:
            self._note(each)

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        size = storage.nbytes()
        self._seen[storage] = size
        self.live_bytes += size
        self.levels.append(self.live_bytes)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live_bytes -= size


class _Begin(torch.autograd.Function):
    """What comes in: a tensor that nobody but the stretch holds; its gradient goes nowhere."""

    @staticmethod
    def forward(ctx: Any, like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, None, None


class _End(torch.autograd.Function):
    """What becomes of what goes out: a gradient of its shape, which nobody holds but the backward pass."""

    @staticmethod
    def forward(ctx: Any, output: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = output.shape, output.dtype
        return output.new_empty(())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return torch.empty(ctx.shape, dtype=ctx.dtype)


_begin: Any = _Begin.apply
_end: Any = _End.apply


@dataclass(frozen=True)
class Shape:
    """Of a tensor that goes from one stretch to the next."""

    sizes: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Of the whole tensor."""
        return torch.Size(self.sizes).numel() * self.dtype.itemsize


def footprint_of(
    recorder: Recorder, stretch: Stretch, weights: nn.Module, given: Shape | None, batch: Mapping[str, Tensor]
) -> tuple[Footprint, Shape]:
    """Run a stretch forward and backward; returns also what goes out.

    Args:
        recorder: in whose fake tensors the weights and the batch are.
        weights: the modules that the stretch calls; their gradients are dropped.
        given: what comes in; None for the first stretch.
    """
    saved: set[StorageWeakRef] = set()

    def keep(tensor: Tensor) -> Tensor:
        saved.add(_name(tensor))
        return tensor.detach()

    with recorder:
        anchor = torch.empty((), requires_grad=True)
        hidden = None if given is None else _begin(anchor, given.sizes, given.dtype)
        came_in = None if hidden is None else _name(hidden)
        recorder.begin()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = stretch(hidden, batch)
            hidden = None
        going_out = Shape(tuple(output.shape), output.dtype)
        of_output = _name(output)
        output_bytes = 0 if came_in is not None and of_output == came_in else going_out.num_bytes
        keeps_input = came_in is not None and came_in in saved
        let_go = 0 if given is None or keeps_input else given.num_bytes
        kept = recorder.live_bytes + let_go - output_bytes
        forward, forward_levels = recorder.notes.work(), list(recorder.levels)
        keeps_output = of_output in saved
        end = _end(output)
        output = None  # type: ignore[assignment]
        recorder.begin()
        end.backward()
        backward, backward_levels = recorder.notes.work(), recorder.levels
        weights.zero_grad(set_to_none=True)
    return Footprint(
        forward=forward,
        backward=backward,
        output_bytes=output_bytes,
        kept_bytes=kept,
        keeps_input=keeps_input,
        keeps_output=keeps_output,
        forward_levels=np.array(forward_levels, np.float64),
        backward_levels=np.array(backward_levels, np.float64),
    ), going_out


def _name(tensor: Tensor) -> StorageWeakRef:
    """What tells the storage of a tensor from all others, and does not keep it alive."""
    return StorageWeakRef(tensor.untyped_storage())
