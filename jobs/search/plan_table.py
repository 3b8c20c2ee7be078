"""plan table: a ranking of layouts as people read it, and a drawing of where each worker of one stands."""

from collections import Counter
from collections.abc import Sequence

from cluster.layout import AXES, Layout
from jobs.search.device import Device
from jobs.search.forecast import Forecast, Forecasts

HEADS = ("layout", "step s", "rows/s", "GiB", "weights", "optimizer", "gradients", "activations", "messages", "waits")
UNFIT_SHOWN = 3
DRAWN_NODES = 4


def table(forecasts: Forecasts, num_shown: int, batch_size: int, device: Device) -> str:
    """The fastest layouts, a line each, then why others are none.

    Args:
        num_shown: of those that fit.
    """
    shown = forecasts.fits[:num_shown]
    lines = [_columns([HEADS, *(_cells(forecast, batch_size) for forecast in shown)])] if shown else []
    more = len(forecasts.fits) - len(shown)
    counts = (
        f"{len(forecasts.fits)} layouts fit, {len(forecasts.unfit)} do not, {len(forecasts.refused)} shapes are refused"
    )
    lines.append(f"{counts}{f'; {more} slower ones are not shown' if more else ''}")
    lines += [f"too large: {one.layout.line()}: {one.reason}" for one in forecasts.unfit[:UNFIT_SHOWN]]
    if len(forecasts.unfit) > UNFIT_SHOWN:
        lines.append(f"too large: {len(forecasts.unfit) - UNFIT_SHOWN} more, which take more")
    lines += _refusals(forecasts)
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


def _refusals(forecasts: Forecasts) -> list[str]:
    """Each reason once, with how many shapes it is given to."""
    counts = Counter(refused.reason for refused in forecasts.refused)
    return [
        f"refused: {reason}" + (f" ({count} shapes)" if count > 1 else "") for reason, count in counts.most_common()
    ]


def drawing(layout: Layout, devices_a_node: int) -> str:
    """Which places of each axis stand on every node, a line a node; of many nodes the first ones and the last."""
    nodes = [
        range(first, min(first + devices_a_node, layout.num_workers))
        for first in range(0, layout.num_workers, devices_a_node)
    ]
    lines = [f"node {number}: {_places(layout, ranks)}" for number, ranks in enumerate(nodes)]
    if len(lines) > DRAWN_NODES:
        lines[DRAWN_NODES - 1 : -1] = [f"... {len(lines) - DRAWN_NODES} nodes more"]
    return "\n".join(lines)


def _places(layout: Layout, ranks: range) -> str:
    """Of each axis that is split the places that these ranks have."""
    places = [layout.coordinate(rank) for rank in ranks]
    told = []
    for axis in AXES:
        if getattr(layout, axis) > 1:
            on_axis = sorted({int(getattr(place, axis)) for place in places})
            told.append(f"{axis} {on_axis[0]}" + (f"-{on_axis[-1]}" if len(on_axis) > 1 else ""))
    return ", ".join(told) or "the whole model"
