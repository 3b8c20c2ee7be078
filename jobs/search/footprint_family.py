"""Footprint family: those of one stretch for any number of rows and any share of a sequence, from a few of them.

What a stretch does and holds grows with its rows, and, where sequences are split, with this worker's share of them:
each number is a + b rows + c rows / context. So two footprints tell all of whole sequences, and three all of split
ones, of which each worker gathers the keys and values of the whole. Likewise what matrices that are split take is
a + b / tensor. A test holds all of it against footprints themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from jobs.search.footprint import Footprint, Work

Take = Callable[[int, int], Footprint]
"""Rows and context -> the footprint."""
WHOLE = ((2, 1), (3, 1))
SPLIT = ((2, 2), (3, 2), (2, 4))
"""Rows and context of what is taken; one row alone is no rule, since torch leaves out steps for it."""


class Family:
    """Footprints of one stretch, whole or split along its sequence."""

    def __init__(self, take: Take, is_split: bool) -> None:
        self._taken = [take(*point) for point in (SPLIT if is_split else WHOLE)]
        self._is_split = is_split

    @property
    def is_regular(self) -> bool:
        """Whether all of those that were taken do the same operations; else nothing follows from them."""
        shapes = {
            (work.names, work.num_views, tuple((message.kind, message.axis) for message in work.messages))
            for footprint in self._taken
            for work in (footprint.forward, footprint.backward)
        }
        lengths = {(len(each.forward_levels), len(each.backward_levels)) for each in self._taken}
        flags = {(footprint.keeps_input, footprint.keeps_output) for footprint in self._taken}
        return len(shapes) <= 2 and len(flags) == len(lengths) == 1

    def at(self, num_rows: int, context: int) -> Footprint:
        """For so many rows on one of so many workers that share each sequence."""
        weights = _split_weights(num_rows, context) if self._is_split else _whole_weights(num_rows)

        return mixed(self._taken, weights)


def mixed(footprints: Sequence[Footprint], weights: Sequence[float]) -> Footprint:
    """Every number the sum of so much of each footprint's; all of them do the same operations."""

    def summed(values: list[Any]) -> Any:
        return sum(weight * value for weight, value in zip(weights, values, strict=True))

    return replace(
        footprints[0],
        forward=_mixed_work([each.forward for each in footprints], summed),
        backward=_mixed_work([each.backward for each in footprints], summed),
        **{
            name: round(summed([getattr(each, name) for each in footprints])) for name in ("output_bytes", "kept_bytes")
        },
        forward_levels=summed([each.forward_levels for each in footprints]),
        backward_levels=summed([each.backward_levels for each in footprints]),
    )


def tensor_weights(size: int) -> tuple[float, float]:
    """How much of the footprints of tensor groups of two and of four: a + b / size goes through both."""
    return 4 / size - 1, 2 - 4 / size


def _whole_weights(num_rows: int) -> tuple[float, ...]:
    """How much of each footprint of `WHOLE`."""
    return 3 - num_rows, num_rows - 2


def _split_weights(num_rows: int, context: int) -> tuple[float, ...]:
    """How much of each footprint of `SPLIT`: a + b x + c y goes through (2, 1), (3, 3/2) and (2, 1/2)."""
    share = num_rows / context
    return 3 - 2 * num_rows + 2 * share, num_rows - 2, num_rows - 2 * share


def _mixed_work(works: list[Work], summed: Callable[[list[Any]], Any]) -> Work:
    messages = zip(*(work.messages for work in works), strict=True)
    return replace(
        works[0],
        flops=summed([work.flops for work in works]),
        moved=summed([work.moved for work in works]),
        messages=tuple(replace(each[0], bytes=round(summed([message.bytes for message in each]))) for each in messages),
    )
