"""What is foreseen of layouts: what a search has to know to choose those that it measures, whoever foresees it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.layout import Layout
from jobs.spec import RingSpec


@dataclass(frozen=True)
class Outlook:
    """Of a layout that fits."""

    layout: Layout
    memory_bytes: int | None
    """Of the fullest worker; None where nothing is known of it."""
    step_s: float | None
    rates: str = ""
    """Of the device that it is foreseen for: see `Device.rates_key`."""


@dataclass(frozen=True)
class Unfit:
    """A layout that does not fit."""

    layout: Layout
    reason: str


@dataclass(frozen=True)
class Ranking:
    """Layouts that fit, the fastest first, and the others."""

    fits: tuple[Outlook, ...]
    unfit: tuple[Unfit, ...] = ()


Rank = Callable[[RingSpec, Sequence[Layout]], Ranking]


def by_shape(spec: RingSpec, layouts: Sequence[Layout]) -> Ranking:
    """An order without any forecast: the most workers first, of these the least that they exchange, wait and redo."""
    return Ranking(tuple(Outlook(layout, None, None) for layout in sorted(layouts, key=_cost)))


def _cost(layout: Layout) -> tuple[float, ...]:
    """The smaller the better, place by place."""
    idle = (layout.pipeline - 1) / layout.micro_batches
    talk = 4 * (layout.tensor - 1) + 2 * (layout.context - 1) + (layout.shard - 1)
    return (-layout.num_workers, float(layout.recompute), idle, talk, layout.accumulation, layout.micro_batches)
