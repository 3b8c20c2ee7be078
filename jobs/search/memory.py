"""memory: how many bytes of tensors the fullest worker of a layout holds at its worst moment.

Each place of the pipeline is walked through one step, as torch walks it: weights that are gathered and let go, what
forward passes keep until their backward pass, gradients, what is on its way to peers, and at last the optimizer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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


def num_shards(layout: Layout) -> int:
    """Into how many parts data parallelism cuts each weight."""
    return layout.shard * layout.context if sharding_axis(layout) else 1


def is_by_units(layout: Layout) -> bool:
    """Whether weights are gathered and gradients reduced unit by unit."""
    is_alone = layout.num_workers == layout.replicate
    return num_shards(layout) > 1 or (layout.replicate > 1 and not is_alone)


def memory_of(layout: Layout, stretches: Sequence[Stretch], optimizer_of: OptimizerOf, by_gloo: bool) -> Memory:
    """Of the fullest worker in a step that is not the first.

    Args:
        stretches: of the layout, for the rows of one micro-batch.
        by_gloo: whether workers speak by gloo, which copies what it gathers once more.
    """
    held = parted_by_stage(layout, stretches)
    walks = [
        _Walk(layout, held, stages_of(layout, place) if layout.pipeline > 1 else [0], optimizer_of, by_gloo).walk(order)
        for place, order in enumerate(orders(layout))
    ]
    return max(walks, key=lambda memory: memory.total)


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


@dataclass
class _Walk:
    """One worker's step, and what lives meanwhile."""

    layout: Layout
    held: list[list[Stretch]]
    """The stretches of every stage."""
    stages: list[int]
    """The worker's own."""
    optimizer_of: OptimizerOf
    by_gloo: bool
    kept: int = 0
    """Activations."""
    gradients: int = 0
    gathered: int = 0
    """Weights that are whole for the moment, beyond the worker's own part, and what carries messages."""
    worst: Memory | None = None
    _whole: set[int] = field(default_factory=set)
    """Units, by id, that are gathered."""
    _begun: set[int] = field(default_factory=set)
    """Units, by id, whose gradients are there and not reduced."""
    _carrying: int = 0
    """What the last gathering or reduction still holds."""

    def __post_init__(self) -> None:
        self.shards = num_shards(self.layout)
        self.by_units = is_by_units(self.layout)
        own = [stretch for stage in self.stages for stretch in self.held[stage]]
        weights = [weight for stretch in own for weight in stretch.weights]
        self.weights = sum(weight.shard_bytes(self.shards) for weight in weights)
        self.trained = [weight for weight in weights if weight.is_trained]
        self.own_gradients = sum(weight.shard_bytes(self.shards) for weight in self.trained)
        self.optimizer = self.optimizer_of([_shard_shape(weight, self.shards) for weight in self.trained])
        is_ddp = self.layout.replicate > 1 and not self.by_units
        self.buckets = self.own_gradients if is_ddp else 0
        self.received = self._received()

    def walk(self, order: Sequence[Action]) -> Memory:
        """Through the step's actions, then the optimizer's."""
        last = {action.stage: number for number, action in enumerate(order) if _frees(action)}
        for number, action in enumerate(order):
            stretches = self.held[action.stage]
            if action.part == "forward":
                self._forward(stretches)
            elif _frees(action):
                self._backward(stretches, is_last=last[action.stage] == number)
            else:
                self._note(stretches[-1].footprint.backward_peak_bytes)
        self.gathered = self._carrying = 0
        self.gradients = self.own_gradients
        self._note(self.optimizer.moving_bytes)
        assert self.worst is not None
        return self.worst

    def _forward(self, stretches: Sequence[Stretch]) -> None:
        for stretch, following in zip(stretches, [*stretches[1:], None], strict=True):
            self._gather(stretch.units)
            self._note(stretch.footprint.forward_peak_bytes)
            self._let_go(stretch.units)
            self.kept += self._kept(stretch, following)
        if stretches[-1].name != LOSS:
            self.kept += stretches[-1].footprint.output_bytes * (not _keeps_output(stretches[-1], None))

    def _backward(self, stretches: Sequence[Stretch], is_last: bool) -> None:
        if stretches[-1].name != LOSS:
            self.kept -= stretches[-1].footprint.output_bytes * (not _keeps_output(stretches[-1], None))
        pairs = list(zip(stretches, [*stretches[1:], None], strict=True))
        for place, (stretch, following) in reversed(list(enumerate(pairs))):
            before = stretches[place - 1].units if place else ()
            self._gather(stretch.units)
            ahead = self._size_of_gathering(before) if self.layout.pipeline == 1 else 0
            self._note(ahead * (1 + self.by_gloo))
            gradient = sum(unit.gradient_bytes for unit in (*stretch.units, stretch.rest))
            new = 0 if id(stretch) in self._begun else gradient
            during = stretch.footprint.backward_peak_bytes - gradient + new
            self._note(ahead + max(self._forward_again(stretch), self._kept_again(stretch) + during))
            self.kept -= self._kept(stretch, following)
            self.gradients += new
            self._reduce(stretch, is_last)

    def _kept(self, stretch: Stretch, following: Stretch | None) -> int:
        """What its forward pass leaves, its output among that where somebody keeps it."""
        inside = 0 if self._recomputes(stretch) else stretch.footprint.kept_bytes
        return inside + stretch.footprint.output_bytes * _keeps_output(stretch, following, self._recomputes)

    def _recomputes(self, stretch: Stretch) -> bool:
        return self.layout.recompute and stretch.is_unit

    def _forward_again(self, stretch: Stretch) -> int:
        return stretch.footprint.forward_peak_bytes if self._recomputes(stretch) else 0

    def _kept_again(self, stretch: Stretch) -> int:
        """Of the forward pass that is done again: all that it keeps, an output that is there already among it."""
        if not self._recomputes(stretch):
            return 0
        return stretch.footprint.kept_bytes + stretch.footprint.output_bytes * stretch.footprint.keeps_output

    def _gather(self, units: Sequence[Unit]) -> None:
        """Make units whole: all parts in one buffer, then each weight; the buffer stays until the next gathering."""
        if not self.by_units:
            return
        for unit in units:
            if id(unit) in self._whole:
                continue
            buffer = unit.shard_bytes(self.shards) * self.shards
            self._note(buffer * (1 + self.by_gloo))
            self._carrying = buffer
            self.gathered += unit.num_bytes
            self._whole.add(id(unit))
            self._note(self._carrying)

    def _size_of_gathering(self, units: Sequence[Unit]) -> int:
        if not self.by_units or all(id(unit) in self._whole for unit in units):
            return 0
        return sum(unit.shard_bytes(self.shards) * self.shards for unit in units)

    def _let_go(self, units: Sequence[Unit]) -> None:
        if self.layout.pipeline > 1 or self.shards == 1:  # then units stay whole until their last backward pass
            return
        for unit in units:
            if id(unit) in self._whole:
                self._whole.remove(id(unit))
                self.gathered -= unit.num_bytes

    def _reduce(self, stretch: Stretch, is_last: bool) -> None:
        if not self.by_units:
            self._begun.add(id(stretch))
            return
        if self.layout.pipeline == 1 or is_last:
            for unit in stretch.units:
                if id(unit) in self._whole:
                    self._whole.remove(id(unit))
                    self.gathered -= unit.num_bytes
        if not is_last:
            self._begun.add(id(stretch))
            return
        for unit in (*stretch.units, stretch.rest):
            whole = unit.gradient_bytes
            self._note(whole)
            self.gradients += sum(w.shard_bytes(self.shards) for w in unit.weights if w.is_trained) - whole
            self._carrying = whole
        self._begun.discard(id(stretch))

    def _received(self) -> int:
        """Buffers of a pipeline for what comes from the stages before and after, one for each micro-batch."""
        if self.layout.pipeline == 1:
            return 0
        size = 0
        for stage in self.stages:
            if stage > 0:
                size += self.held[stage][0].input_bytes
            if stage + 1 < len(self.held):
                size += self.held[stage][-1].footprint.output_bytes
        return size * self.layout.micro_batches

    def _note(self, more: int) -> None:
        messages = self.gathered + self._carrying + self.buckets + self.received
        now = Memory(self.weights, self.optimizer.state_bytes, self.gradients, self.kept + more, messages)
        if self.worst is None or now.total > self.worst.total:
            self.worst = now


def _keeps_output(
    stretch: Stretch, following: Stretch | None, recomputes: Callable[[Stretch], bool] = lambda _: False
) -> bool:
    if stretch.footprint.keeps_output and not recomputes(stretch):
        return True
    return following is not None and (following.footprint.keeps_input or recomputes(following))


def _frees(action: Action) -> bool:
    """Whether the action ends a micro-batch on its stage."""
    return action.part in ("backward", "backward_weight")


def _shard_shape(weight: Weight, num_shards: int) -> tuple[int, ...]:
    if not weight.shape:
        return ()
    return -(-weight.shape[0] // num_shards), *weight.shape[1:]
