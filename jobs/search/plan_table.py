"""plan table: a ranking of layouts as people read it, and a drawing of where each worker of one stands."""

from collections import Counter
from collections.abc import Sequence

from cluster.layout import AXES, Layout
from jobs.search.device import Device
from jobs.search.forecast import Forecast, Ranking

HEADS = ("layout", "step s", "rows/s", "GiB", "weights", "optimizer", "gradients", "activations", "messages", "waits")
UNFIT_SHOWN = 3
DRAWN_NODES = 4


def table(ranking: Ranking, num_shown: int, batch_size: int, device: Device) -> str:
    """The fastest layouts, a line each, then why others are none.

    Args:
        num_shown: of those that fit.
    """
    shown = ranking.fits[:num_shown]
    lines = [_columns([HEADS, *(_cells(forecast, batch_size) for forecast in shown)])] if shown else []
    more = len(ranking.fits) - len(shown)
    counts = f"{len(ranking.fits)} layouts fit, {len(ranking.unfit)} do not, {len(ranking.refused)} shapes are refused"
    lines.append(f"{counts}{f'; {more} slower ones are not shown' if more else ''}")
    lines += [f"too large: {one.layout.line()}: {one.reason}" for one in ranking.unfit[:UNFIT_SHOWN]]
    if len(ranking.unfit) > UNFIT_SHOWN:
        lines.append(f"too large: {len(ranking.unfit) - UNFIT_SHOWN} more, which take more")
    lines += _refusals(ranking)
    lines.append(f"rates: {device.source}")
    return "\n".join(lines)


def _cells(forecast: Forecast, batch_size: int) -> tuple[str, ...]:
    memory, time = forecast.memory, forecast.time
    parts = (memory.weights, memory.optimizer, memory.gradients, memory.activations, memory.messages)
    waits = (time.messages + time.idle) / time.total
    return (
        forecast.layout.line(),
        f"{time.total:.3g}",
        f"{batch_size / time.total:,.0f}" if batch_size >= time.total else f"{batch_size / time.total:.2g}",
        f"{memory.total / 2**30:.2f}",
        *(f"{size / 2**30:.2f}" for size in parts),
        f"{waits:.0%}",
    )


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _refusals(ranking: Ranking) -> list[str]:
    """Each reason once, with how many shapes it is given to."""
    counts = Counter(refused.reason for refused in ranking.refused)
    return [
        f"refused: {reason}" + (f" ({count} shapes)" if count > 1 else "") for reason, count in counts.most_common()
    ]


def drawing(layout: Layout, devices_a_node: int) -> str:
    """Which place of each axis every worker has, a line a device; of many nodes the first ones and the last."""
    nodes = [
        range(first, min(first + devices_a_node, layout.num_workers))
        for first in range(0, layout.num_workers, devices_a_node)
    ]
    shown = nodes if len(nodes) <= DRAWN_NODES else [*nodes[: DRAWN_NODES - 1], nodes[-1]]
    lines = []
    for ranks in shown:
        number = ranks.start // devices_a_node
        if number and number != shown[0].start and ranks is shown[-1] and len(nodes) > len(shown):
            lines.append(f"  ... {len(nodes) - len(shown)} nodes more")
        lines.append(f"node {number}")
        lines += [f"  device {rank - ranks.start}: {_place(layout, rank)}" for rank in ranks]
    return "\n".join(lines)


def _place(layout: Layout, rank: int) -> str:
    place = layout.coordinate(rank)
    axes = [axis for axis in AXES if getattr(layout, axis) > 1]
    return ", ".join(f"{axis} {getattr(place, axis)}" for axis in axes) or "the whole model"
