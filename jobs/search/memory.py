"""memory: how many bytes of tensors the fullest worker of a layout holds at its worst moment.

Each place of the pipeline is walked through one step, as torch walks it: weights that are gathered and let go, what
forward passes keep until their backward pass, gradients, what is on its way to peers, and at last the optimizer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

from cluster.layout import Layout
from jobs.parallel.mesh import sharding_axis
from jobs.parallel.pipeline import links_of, num_stages, stages_of
from jobs.search.pipeline_order import Action, orders
from jobs.search.stretches import LOSS, Stretch, Unit, Weight


@dataclass(frozen=True)
class OptimizerMemory:
    """What an optimizer holds of some weights."""

    state_bytes: int
    """From the first step on."""
    moving_bytes: int
    """More, while it moves them."""


OptimizerOf = Callable[[Sequence[tuple[int, ...]]], OptimizerMemory]
"""The shapes of trained weights, in single precision -> what the optimizer holds of them."""


@dataclass(frozen=True)
class Memory:
    """Bytes of the fullest worker; the parts are those of its worst moment."""

    weights: int
    optimizer: int
    gradients: int
    activations: int
    """What lies between the layers, and what one layer needs while it computes."""
    messages: int
    """What is gathered, reduced or received."""

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.optimizer + self.gradients + self.activations + self.messages

    def line(self) -> str:
        """The parts in GiB, those that are something."""
        parts = {name: size / 2**30 for name, size in vars(self).items()}
        return ", ".join(f"{name} {size:.2g}" for name, size in parts.items() if size >= 0.005) or "next to nothing"


def num_shards(layout: Layout) -> int:
    """Into how many parts data parallelism cuts each weight."""
    return layout.shard * layout.context if sharding_axis(layout) else 1


def is_by_units(layout: Layout) -> bool:
    """Whether weights are gathered and gradients reduced unit by unit."""
    is_alone = layout.num_workers == layout.replicate
    return num_shards(layout) > 1 or (layout.replicate > 1 and not is_alone)


def memory_of(
    layout: Layout, stretches: Sequence[Stretch], optimizer_of: OptimizerOf, by_gloo: bool, room: float = inf
) -> Memory:
    """Of the fullest worker in a step that is not the first; of the first one found that has more than `room`.

    Args:
        stretches: of the layout, for the rows of one micro-batch.
        by_gloo: whether workers speak by gloo, which copies what it gathers once more.
    """
    held, fullest = parted_by_stage(layout, stretches), Memory(0, 0, 0, 0, 0)
    for place, order in enumerate(orders(layout)):
        own = stages_of(layout, place) if layout.pipeline > 1 else [0]
        memory = _Walk(layout, held, own, optimizer_of, by_gloo).walk(order)
        fullest = max(fullest, memory, key=lambda each: each.total)
        if fullest.total > room:
            break
    return fullest


def least_memory_of(layout: Layout, weights: Sequence[Sequence[Weight]], optimizer_of: OptimizerOf) -> Memory:
    """What weights, gradients and the optimizer of the fullest worker take, whatever the rows.

    Args:
        weights: of each link, as a worker of the layout's tensor group has them.
    """
    shards = num_shards(layout)
    found = []
    for place in range(layout.pipeline):
        stages = stages_of(layout, place) if layout.pipeline > 1 else [0]
        numbers = [str(number) for number in range(len(weights))]
        own = [int(number) for stage in stages for number in links_of(numbers, num_stages(layout), stage)]
        held = [weight for number in own for weight in weights[number]]
        trained = [weight for weight in held if weight.is_trained]
        optimizer = optimizer_of([_shard_shape(weight, shards) for weight in trained])
        gradients = sum(weight.shard_bytes(shards) for weight in trained)
        own_bytes = sum(weight.shard_bytes(shards) for weight in held)
        found.append(Memory(own_bytes, optimizer.state_bytes, gradients, 0, 0))
    return max(found, key=lambda memory: memory.total)


def kept_at_least(layout: Layout, stretches: Sequence[Stretch]) -> Memory:
    """What the pipeline's first worker keeps at a time, weights and optimizer apart: a bound that costs no walk."""
    held = parted_by_stage(layout, stretches)
    own = stages_of(layout, 0) if layout.pipeline > 1 else [0]
    kept = {stage: sum(_kept_bytes(held[stage], layout.recompute)) for stage in own}
    under_way = layout.micro_batches if layout.schedule == "gpipe" else min(layout.micro_batches, layout.pipeline)
    activations = under_way * kept[own[0]] + sum(kept[stage] for stage in own[1:])
    units = [unit for stage in own for stretch in held[stage] for unit in (*stretch.units, stretch.rest)]
    whole = sum(unit.num_bytes for unit in units) if is_by_units(layout) and layout.pipeline > 1 else 0
    # Of a later micro-batch or pass as much is kept, and the gradients of those before are there.
    is_again = layout.accumulation > 1 or layout.micro_batches > 2 * layout.pipeline
    gradients = sum(unit.gradient_bytes for unit in units) if is_again else 0
    return Memory(0, 0, gradients, activations, whole)


def _kept_bytes(stretches: Sequence[Stretch], recompute: bool) -> list[int]:
    """What the forward pass of each stretch leaves, its output among that where somebody keeps it."""
    found = []
    for stretch, following in zip(stretches, [*stretches[1:], None], strict=True):
        again = recompute and stretch.is_unit
        is_kept = stretch.footprint.keeps_output and not again
        if following is not None:
            is_kept |= following.footprint.keeps_input or (recompute and following.is_unit)
        inside = 0 if again else stretch.footprint.kept_bytes
        found.append(inside + stretch.footprint.output_bytes * is_kept)
    return found


def parted_by_stage(layout: Layout, stretches: Sequence[Stretch]) -> list[list[Stretch]]:
    """The stretches of each stage; the loss is the last one's."""
    if layout.pipeline == 1:
        return [list(stretches)]
    by_name = {stretch.name: stretch for stretch in stretches}
    names = [name for name in by_name if name != LOSS]
    stages = [
        [by_name[name] for name in links_of(names, num_stages(layout), stage)] for stage in range(num_stages(layout))
    ]
    stages[-1].append(by_name[LOSS])
    return stages


class _Lives(NamedTuple):
    """Bytes that live at a moment, beside what lives all the time."""

    activations: int = 0
    gradients: int = 0
    messages: int = 0
    """Weights that are whole for the moment, and what carries messages."""

    def plus(self, other: "_Lives") -> "_Lives":
        """Both together."""
        return _Lives(
            self.activations + other.activations, self.gradients + other.gradients, self.messages + other.messages
        )


class _Held(NamedTuple):
    """What else an action's memory depends on."""

    carrying: int = 0
    """Bytes that the last gathering or reduction still holds."""
    whole: frozenset[str] = frozenset()
    """Links whose units are gathered."""
    begun: frozenset[str] = frozenset()
    """Links whose gradients are there and not reduced."""


class _Sizes(NamedTuple):
    """Bytes of a unit."""

    whole: int
    buffer: int
    """Of the largest shard, as often as there are shards."""
    gradient: int
    own_gradient: int
    """Of this worker's shard."""


class _Walk:
    """One worker's step, and what lives meanwhile."""

    def __init__(
        self,
        layout: Layout,
        held: Sequence[Sequence[Stretch]],
        stages: Sequence[int],
        optimizer_of: OptimizerOf,
        by_gloo: bool,
    ) -> None:
        """Args:
        held: the stretches of every stage.
        stages: the worker's own.
        """
        self._layout, self._stretches, self._by_gloo = layout, held, by_gloo
        self._shards, self._by_units = num_shards(layout), is_by_units(layout)
        weights = [weight for stage in stages for stretch in held[stage] for weight in stretch.weights]
        trained = [weight for weight in weights if weight.is_trained]
        self._weights = sum(weight.shard_bytes(self._shards) for weight in weights)
        self._gradients = sum(weight.shard_bytes(self._shards) for weight in trained)
        self._optimizer = optimizer_of([_shard_shape(weight, self._shards) for weight in trained])
        buckets = self._gradients if layout.replicate > 1 and not self._by_units else 0
        self._always = _Lives(messages=buckets + self._received(stages))
        self._done: dict[tuple[Any, ...], tuple[_Lives, _Lives, _Held]] = {}
        self._sizes: dict[int, _Sizes] = {}
        self._lives, self._held, self._peak = _Lives(), _Held(), _Lives()

    def walk(self, order: Sequence[Action]) -> Memory:
        """Through the step's actions, then the optimizer's."""
        last = {action.stage: number for number, action in enumerate(order) if _frees(action)}
        lives, held, worst, most = _Lives(), _Held(), _Lives(), 0
        for number, action in enumerate(order):
            change, peak, held = self._change(action, last.get(action.stage) == number, held)
            if sum(lives) + sum(peak) > most:
                worst = lives.plus(peak)
                most = sum(worst)
            lives = lives.plus(change)
        moving = _Lives(self._optimizer.moving_bytes, self._gradients, 0)
        worst = max(worst, moving, key=sum).plus(self._always)
        return Memory(self._weights, self._optimizer.state_bytes, worst.gradients, worst.activations, worst.messages)

    def _change(self, action: Action, is_last: bool, held: _Held) -> tuple[_Lives, _Lives, _Held]:
        """What lives more after an action, at its worst, and what it leaves; the same whenever it begins alike."""
        key = (action.part, action.stage, is_last, held)
        if key not in self._done:
            self._lives, self._held, self._peak = _Lives(), held, _Lives()
            self._do(action, is_last)
            self._done[key] = self._lives, self._peak, self._held
        return self._done[key]

    def _do(self, action: Action, is_last: bool) -> None:
        stretches = self._stretches[action.stage]
        if action.part == "forward":
            self._forward(stretches)
        elif _frees(action):
            self._backward(stretches, is_last)
        else:
            self._note(stretches[-1].footprint.backward_peak_bytes)

    def _forward(self, stretches: Sequence[Stretch]) -> None:
        for stretch, kept in zip(stretches, _kept_bytes(stretches, self._layout.recompute), strict=True):
            self._gather(stretch)
            self._note(stretch.footprint.forward_peak_bytes)
            if self._layout.pipeline == 1 and self._shards > 1:  # else it stays until the last backward pass
                self._let_go(stretch)
            self._live(activations=kept)
        self._live(activations=self._sent(stretches))

    def _backward(self, stretches: Sequence[Stretch], is_last: bool) -> None:
        self._live(activations=-self._sent(stretches))
        kept = _kept_bytes(stretches, self._layout.recompute)
        for place in reversed(range(len(stretches))):
            stretch = stretches[place]
            self._gather(stretch)
            ahead = self._size_of_gathering(stretches[place - 1]) if place and self._layout.pipeline == 1 else 0
            self._note(ahead * (1 + self._by_gloo))
            gradient = sum(self._size(unit).gradient for unit in (*stretch.units, stretch.rest))
            new = 0 if stretch.name in self._held.begun else gradient
            during = stretch.footprint.backward_peak_bytes - gradient + new
            self._note(ahead + max(self._forward_again(stretch), self._kept_again(stretch) + during))
            self._live(activations=-kept[place], gradients=new)
            self._reduce(stretch, is_last)

    def _sent(self, stretches: Sequence[Stretch]) -> int:
        """What a stage keeps of its output until its backward pass, where nothing in it does."""
        end = stretches[-1]
        return 0 if end.name == LOSS or end.footprint.keeps_output else end.footprint.output_bytes

    def _recomputes(self, stretch: Stretch) -> bool:
        return self._layout.recompute and stretch.is_unit

    def _forward_again(self, stretch: Stretch) -> int:
        return stretch.footprint.forward_peak_bytes if self._recomputes(stretch) else 0

    def _kept_again(self, stretch: Stretch) -> int:
        """Of the forward pass that is done again: all that it keeps, an output that is there already among it."""
        if not self._recomputes(stretch):
            return 0
        return stretch.footprint.kept_bytes + stretch.footprint.output_bytes * stretch.footprint.keeps_output

    def _gather(self, stretch: Stretch) -> None:
        """Make units whole: all parts in one buffer, then each weight; the buffer stays until the next gathering."""
        if not self._by_units or stretch.name in self._held.whole:
            return
        for unit in stretch.units:
            size = self._size(unit)
            self._note(size.buffer * (1 + self._by_gloo))
            self._carry(size.buffer)
            self._live(messages=size.whole)
            self._note(0)
        self._held = self._held._replace(whole=self._held.whole | {stretch.name})

    def _size_of_gathering(self, stretch: Stretch) -> int:
        if not self._by_units or stretch.name in self._held.whole:
            return 0
        return sum(self._size(unit).buffer for unit in stretch.units)

    def _let_go(self, stretch: Stretch) -> None:
        if stretch.name in self._held.whole:
            self._held = self._held._replace(whole=self._held.whole - {stretch.name})
            self._live(messages=-sum(self._size(unit).whole for unit in stretch.units))

    def _reduce(self, stretch: Stretch, is_last: bool) -> None:
        """Let gradients become the worker's own part, where all are there; else remember that they are not."""
        if self._by_units and (self._layout.pipeline == 1 or is_last):
            self._let_go(stretch)
        if not (self._by_units and is_last):
            self._held = self._held._replace(begun=self._held.begun | {stretch.name})
            return
        for unit in (*stretch.units, stretch.rest):
            size = self._size(unit)
            self._note(size.gradient)
            self._live(gradients=size.own_gradient - size.gradient)
            self._carry(size.gradient)
        self._held = self._held._replace(begun=self._held.begun - {stretch.name})

    def _received(self, stages: Sequence[int]) -> int:
        """Buffers of a pipeline for what comes from the stages before and after, one for each micro-batch."""
        if self._layout.pipeline == 1:
            return 0
        size = 0
        for stage in stages:
            size += self._stretches[stage][0].input_bytes if stage else 0
            size += self._stretches[stage][-1].footprint.output_bytes if stage + 1 < len(self._stretches) else 0
        return size * self._layout.micro_batches

    def _size(self, unit: Unit) -> _Sizes:
        """Links that are alike share their units."""
        if id(unit) not in self._sizes:
            buffer = unit.shard_bytes(self._shards) * self._shards
            own = sum(weight.shard_bytes(self._shards) for weight in unit.weights if weight.is_trained)
            self._sizes[id(unit)] = _Sizes(unit.num_bytes, buffer, unit.gradient_bytes, own)
        return self._sizes[id(unit)]

    def _carry(self, size: int) -> None:
        self._live(messages=size - self._held.carrying)
        self._held = self._held._replace(carrying=size)

    def _live(self, activations: int = 0, gradients: int = 0, messages: int = 0) -> None:
        self._lives = self._lives.plus(_Lives(activations, gradients, messages))

    def _note(self, more: int) -> None:
        """A moment at which so much lives besides."""
        if sum(self._lives) + more > sum(self._peak):
            self._peak = self._lives._replace(activations=self._lives.activations + more)


def _frees(action: Action) -> bool:
    """Whether the action ends a micro-batch on its stage."""
    return action.part in ("backward", "backward_weight")


def _shard_shape(weight: Weight, num_shards: int) -> tuple[int, ...]:
    if not weight.shape:
        return ()
    return -(-weight.shape[0] // num_shards), *weight.shape[1:]
