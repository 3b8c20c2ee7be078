"""forecast: what each layout of some devices would take, in memory and in time, before any of them is rented."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.layout import Layout
from jobs.parallel.pipeline import num_stages
from jobs.search.device import Device
from jobs.search.layouts import Refused, legal_layouts
from jobs.search.memory import Memory, OptimizerOf, kept_at_least, least_memory_of, memory_of, num_shards
from jobs.search.ranking import Unfit
from jobs.search.stretches import Model
from jobs.search.timing import StepTime, time_of
from jobs.spec import RingSpec

FILLED = 0.9
"""Of a device's memory: the rest is for its driver, and for what torch's allocator cannot use."""


@dataclass(frozen=True)
class Forecast:
    """Of one layout that fits."""

    layout: Layout
    memory: Memory
    """Of the fullest worker."""
    time: StepTime

    @property
    def memory_bytes(self) -> int:
        """Of the fullest worker."""
        return self.memory.total

    @property
    def step_s(self) -> float:
        """Of a step of the global batch."""
        return self.time.total


@dataclass(frozen=True)
class TooLarge(Unfit):
    """A layout that a device's memory does not hold."""

    memory_bytes: int
    """At least."""


@dataclass(frozen=True)
class Forecasts:
    """All layouts of so many devices."""

    fits: tuple[Forecast, ...]
    """The fastest first; of equals the smaller."""
    unfit: tuple[TooLarge, ...]
    """The smallest first."""
    refused: tuple[Refused, ...]


class Forecaster:
    """Forecasts for one spec on one kind of device."""

    def __init__(self, spec: RingSpec, model: Model, optimizer_of: OptimizerOf, device: Device) -> None:
        self._spec, self._model, self._optimizer_of, self._device = spec, model, optimizer_of, device
        self._least: dict[tuple[int, ...], Memory] = {}

    def rank(self, num_devices: int) -> Forecasts:
        """Every layout of so many devices."""
        legal, refused = legal_layouts(self._spec, num_devices, self._device.devices_a_node)
        fits, unfit = self.of(legal)
        return Forecasts(fits, unfit, tuple(refused))

    def of(self, layouts: Sequence[Layout]) -> tuple[tuple[Forecast, ...], tuple[TooLarge, ...]]:
        """Legal layouts that fit, the fastest first, and those that do not, the smallest first."""
        found = [self.forecast(layout) for layout in layouts]
        fits = sorted((one for one in found if isinstance(one, Forecast)), key=lambda f: (f.step_s, f.memory_bytes))
        unfit = sorted((one for one in found if isinstance(one, TooLarge)), key=lambda u: u.memory_bytes)
        return tuple(fits), tuple(unfit)

    def forecast(self, layout: Layout) -> Forecast | TooLarge:
        """Of one legal layout."""
        least = self._least_of(layout)
        if least.total > self._room:
            return self._unfit(layout, least, "at least, before any activation, ")
        rows = layout.num_replicas * layout.accumulation * layout.micro_batches
        stretches = self._model.stretches(layout, self._spec.train.batch_size // rows)
        kept = replace(kept_at_least(layout, stretches), weights=least.weights, optimizer=least.optimizer)
        if kept.total > self._room:
            return self._unfit(layout, kept, "at least, ")
        memory = memory_of(layout, stretches, self._optimizer_of, self._device.is_cpu, self._room)
        if memory.total > self._room:
            return self._unfit(layout, memory, "")
        return Forecast(layout, memory, time_of(layout, stretches, self._device))

    def _least_of(self, layout: Layout) -> Memory:
        key = (layout.tensor, layout.pipeline, num_stages(layout), num_shards(layout))
        if key not in self._least:
            self._least[key] = least_memory_of(layout, self._model.weights(layout), self._optimizer_of)
        return self._least[key]

    @property
    def _room(self) -> int:
        return int(FILLED * self._device.memory_gib * 2**30)

    def _unfit(self, layout: Layout, memory: Memory, when: str) -> TooLarge:
        reason = (
            f"takes {when}{memory.total / 2**30:.1f} GiB a device ({memory.line()}), which has "
            f"{self._device.memory_gib:g}, {FILLED:.0%} of them to fill"
        )
        return TooLarge(layout, reason, memory.total)
