"""timing: how long a step takes on a layout, from what each worker computes and tells its peers.

Kernels by the roofline, messages by latency and rate, a pipeline by running its schedule through; where processes share
processors, those that compute at the same time slow each other down.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from cluster.layout import AXES, Layout
from jobs.parallel.mesh import sharding_axis
from jobs.parallel.pipeline import stages_of
from jobs.search.device import Device
from jobs.search.footprint import Kind, Message, Work
from jobs.search.memory import is_by_units, num_shards, parted_by_stage
from jobs.search.pipeline_order import Action, orders
from jobs.search.stretches import Stretch, Unit

BUCKET_BYTES = 25 * 2**20
"""What DistributedDataParallel sums at once."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step by what takes them, on the worker that is at work longest."""

    compute: float
    messages: float
    """While nothing is computed."""
    idle: float
    """For want of a micro-batch."""
    optimizer: float

    @property
    def total(self) -> float:
        """All together."""
        return self.compute + self.messages + self.idle + self.optimizer


@dataclass(frozen=True)
class _Duration:
    """Of one stage's forward or backward pass."""

    compute: float
    """At full speed."""
    messages: float


Durations = dict[tuple[str, int], _Duration]
"""By what is done, and the stage."""


def time_of(layout: Layout, stretches: Sequence[Stretch], device: Device) -> StepTime:
    """Of a step that is not the first.

    Args:
        stretches: of the layout, for the rows of one micro-batch.
    """
    held = parted_by_stage(layout, stretches)
    clock = _Clock(layout, device)
    forward = [clock.forward(stage) for stage in held]
    backward = [clock.backward(stage) for stage in held]
    places = [stages_of(layout, place) if layout.pipeline > 1 else [0] for place in range(layout.pipeline)]
    slowed = clock.slowed(layout.num_workers)
    ends = [clock.end([stretch for stage in own for stretch in held[stage]], slowed) for own in places]
    optimizer = max(optimizer for _, optimizer in ends)
    reduced = max(messages for messages, _ in ends)
    if layout.pipeline == 1:
        passes = layout.accumulation
        compute = passes * (forward[0].compute + backward[0].compute) * slowed
        messages = passes * (forward[0].messages + backward[0].messages)
        return StepTime(compute, messages + reduced, 0.0, optimizer)
    order = orders(layout)
    durations = _durations(forward, backward)
    compute = max(sum(durations[action.part, action.stage].compute for action in each) for each in order)
    if device.cores is None:
        span = _span_apart(order, durations, clock.hops(held))
    else:
        span = _span(order, durations, clock.hops(held), clock.share)
    return StepTime(compute, reduced, max(span - compute, 0.0), optimizer)


def _durations(forward: Sequence[_Duration], backward: Sequence[_Duration]) -> Durations:
    """Of every part of every stage; backward passes in two halves take half each."""
    found: Durations = {}
    for stage, (there, back) in enumerate(zip(forward, backward, strict=True)):
        half = _Duration(back.compute / 2, back.messages / 2)
        found |= {("forward", stage): there, ("backward", stage): back}
        found |= {("backward_input", stage): half, ("backward_weight", stage): half}
    return found


class _Clock:
    """How long what takes on a device."""

    def __init__(self, layout: Layout, device: Device) -> None:
        self._layout, self._device, self._overheads = layout, device, device.overheads
        self._by_units, self._shards = is_by_units(layout), num_shards(layout)
        self._known: dict[int, float] = {}
        self._strides = dict(zip(AXES, _strides(layout), strict=True))

    def slowed(self, num_active: float) -> float:
        """How many times as long computing takes when so many workers do it at once."""
        return 1.0 if self._device.cores is None else max(1.0, num_active / self._device.cores)

    def share(self, num_places: int) -> float:
        """How fast each of so many places of the pipeline computes when all workers there do."""
        return 1 / self.slowed(num_places * self._layout.num_workers / self._layout.pipeline)

    def forward(self, stage: Sequence[Stretch]) -> _Duration:
        """Of one micro-batch."""
        compute = [self._work_s(stretch.footprint.forward, stretch) for stretch in stage]
        messages = sum(self._messages_s(stretch.footprint.forward.messages) for stretch in stage)
        gathers = [self._gathers_s(stretch) for stretch in stage] if self._layout.pipeline == 1 else [0.0] * len(stage)
        waited = self._waited(compute, gathers, [0.0] * len(stage))
        return _Duration(sum(compute) + self._action_s(), messages + waited)

    def backward(self, stage: Sequence[Stretch]) -> _Duration:
        """Of one micro-batch, what is computed again among it; what is reduced comes at the end of a step."""
        compute = []
        for stretch in reversed(stage):
            again = self._layout.recompute and stretch.is_unit
            once = self._work_s(stretch.footprint.backward, stretch)
            compute.append(once + (self._work_s(stretch.footprint.forward, stretch) if again else 0.0))
        works = [stretch.footprint.backward for stretch in stage]
        works += [stretch.footprint.forward for stretch in stage if self._layout.recompute and stretch.is_unit]
        messages = sum(self._messages_s(work.messages) for work in works)
        if self._layout.pipeline > 1:
            return _Duration(sum(compute) + self._action_s(), messages)
        gathers = [self._gathers_s(stretch) for stretch in reversed(stage)]
        reduces = [self._reduces_s(stretch) for stretch in reversed(stage)]
        # With several passes only the last one reduces.
        waited = self._waited(compute, gathers, [each / self._layout.accumulation for each in reduces])
        return _Duration(sum(compute), messages + waited)

    def end(self, own: Sequence[Stretch], slowed: float) -> tuple[float, float]:
        """Of a step: what is reduced after all passes, and the optimizer."""
        weights = [weight for stretch in own for weight in stretch.weights if weight.is_trained]
        num_bytes = sum(weight.shard_bytes(self._shards) for weight in weights)
        over = self._overheads
        each = sum(over.sharded_update_us if self._by_units or w.is_split else over.update_us for w in weights)
        moved = 8 * num_bytes / (self._device.memory_gb_per_s * 1e9)  # weight, gradient and two moments, to and fro
        optimizer = (each * 1e-6 + moved) * slowed
        if self._layout.pipeline > 1 and self._by_units:
            return sum(self._gathers_s(stretch) + self._reduces_s(stretch) for stretch in own), optimizer
        return 0.0 if self._by_units else self._summed_s(own), optimizer

    def hops(self, held: Sequence[Sequence[Stretch]]) -> list[float]:
        """Seconds from each stage to the next one."""
        stride = self._strides["pipeline"]
        return [self._device.message_s("send", stage[-1].footprint.output_bytes, 2, stride) for stage in held[:-1]]

    def _action_s(self) -> float:
        return self._overheads.action_us * 1e-6 if self._layout.pipeline > 1 else 0.0

    def _work_s(self, work: Work, stretch: Stretch) -> float:
        over = self._overheads
        units = len(_units(stretch)) if self._by_units else 0
        beside = over.split_layer_us / 2 * stretch.num_split + over.unit_us / 2 * units
        return self._kernels_s(work) + beside * 1e-6

    def _kernels_s(self, work: Work) -> float:
        """Links that are alike share their work."""
        if id(work) not in self._known:
            self._known[id(work)] = self._device.work_s(work, self._layout.precision)
        return self._known[id(work)]

    def _messages_s(self, messages: Sequence[Message]) -> float:
        return sum(self._message_s(message.kind, message.bytes, message.axis) for message in messages)

    def _message_s(self, kind: Kind, num_bytes: float, axis: str) -> float:
        return self._device.message_s(kind, num_bytes, int(getattr(self._layout, axis)), self._strides[axis])

    def _gathers_s(self, stretch: Stretch) -> float:
        if self._shards == 1:
            return 0.0
        return sum(self._sharded_s("all_gather", unit.num_bytes) for unit in _units(stretch))

    def _reduces_s(self, stretch: Stretch) -> float:
        if not self._by_units:
            return 0.0
        found = 0.0
        for unit in _units(stretch):
            if self._shards > 1:
                found += self._sharded_s("reduce_scatter", unit.gradient_bytes)
            if self._layout.replicate > 1:
                found += self._message_s("all_reduce", unit.gradient_bytes / self._shards, "replicate")
        return found

    def _sharded_s(self, kind: Kind, num_bytes: float) -> float:
        if not num_bytes:
            return 0.0
        axis = sharding_axis(self._layout)
        stride = self._strides["context"] if axis != "shard" else self._strides["shard"]
        return self._device.message_s(kind, num_bytes, self._shards, stride)

    def _summed_s(self, own: Sequence[Stretch]) -> float:
        """What DistributedDataParallel sums beyond what hides behind the backward pass."""
        if self._layout.replicate == 1:
            return 0.0
        num_bytes = sum(unit.gradient_bytes for stretch in own for unit in _units(stretch))
        num_buckets = max(1, round(num_bytes / BUCKET_BYTES))
        each = self._message_s("all_reduce", num_bytes / num_buckets, "replicate")
        if not self._device.overlaps:
            return num_buckets * each
        hidden = sum(self._work_s(stretch.footprint.backward, stretch) for stretch in own)
        return max(each, num_buckets * each - hidden)

    def _waited(self, compute: Sequence[float], before: Sequence[float], after: Sequence[float]) -> float:
        """For messages of one stretch after the other: those before it, of which the next ones travel while one
        computes, and those after it, which travel while the next one does."""
        if not self._device.overlaps:
            return sum(before) + sum(after)
        following = [*before[1:], 0.0]
        earlier = [0.0, *after[:-1]]
        hidden = zip(compute, following, earlier, strict=True)
        waited = sum(max(0.0, gather + reduce - own) for own, gather, reduce in hidden)
        return before[0] + waited + after[-1] if before else 0.0


def _units(stretch: Stretch) -> list[Unit]:
    return [unit for unit in (*stretch.units, stretch.rest) if unit.weights]


def _strides(layout: Layout) -> list[int]:
    """How far the ranks of neighbours on each of `AXES` are apart."""
    strides, stride = [], 1
    for size in reversed(layout.sizes):
        strides.append(stride)
        stride *= size
    return strides[::-1]


def _span(
    order: Sequence[Sequence[Action]],
    durations: Durations,
    hops: Sequence[float],
    share: Callable[[int], float],
) -> float:
    """From the first action of a pipeline to the last, by letting time pass from one end of an action to the next.

    Args:
        share: how fast each of so many places computes when they do it at once.
    """
    ready: dict[tuple[str, int, int], float] = {}
    turn = [0] * len(order)
    left: dict[int, float] = {}
    now, num_stages = 0.0, len(hops) + 1
    while True:
        waits = []
        for place, actions in enumerate(order):
            if place in left or turn[place] == len(actions):
                continue
            action = actions[turn[place]]
            starts = _starts(action, ready, num_stages)
            if starts is None:
                continue
            if starts > now:
                waits.append(starts)
                continue
            taken = durations[action.part, action.stage]
            left[place] = taken.compute + taken.messages * share(1)
        if not left and not waits:
            return now
        rate = share(len(left)) if left else 1.0
        passed = min(min(left.values(), default=inf) / rate, min(waits, default=inf) - now)
        now += passed
        for place in [place for place, rest in left.items() if rest <= passed * rate * (1 + 1e-9)]:
            del left[place]
            _finish(order[place][turn[place]], now, ready, hops)
            turn[place] += 1
        for place in left:
            left[place] = max(left[place] - passed * rate, 0.0)


def _span_apart(order: Sequence[Sequence[Action]], durations: Durations, hops: Sequence[float]) -> float:
    """The same where no place slows another down: each action begins as soon as its place and its input are there."""
    ready: dict[tuple[str, int, int], float] = {}
    turn, free = [0] * len(order), [0.0] * len(order)
    is_moving, num_stages = True, len(hops) + 1
    while is_moving:
        is_moving = False
        for place, actions in enumerate(order):
            while turn[place] < len(actions):
                action = actions[turn[place]]
                starts = _starts(action, ready, num_stages)
                if starts is None:
                    break
                taken = durations[action.part, action.stage]
                free[place] = max(free[place], starts) + taken.compute + taken.messages
                _finish(action, free[place], ready, hops)
                turn[place] += 1
                is_moving = True
    return max(free)


def _starts(action: Action, ready: dict[tuple[str, int, int], float], num_stages: int) -> float | None:
    """When what the action needs is there; None as long as nobody knows."""
    if action.part == "forward":
        return 0.0 if action.stage == 0 else ready.get(("forward", action.stage, action.micro_batch))
    if action.part == "backward_weight" or action.stage == num_stages - 1:
        return 0.0
    return ready.get(("backward", action.stage, action.micro_batch))


def _finish(action: Action, now: float, ready: dict[tuple[str, int, int], float], hops: Sequence[float]) -> None:
    if action.part == "forward" and action.stage < len(hops):
        ready["forward", action.stage + 1, action.micro_batch] = now + hops[action.stage]
    if action.part in ("backward", "backward_input") and action.stage > 0:
        ready["backward", action.stage - 1, action.micro_batch] = now + hops[action.stage - 1]
