"""Small pictures with two axes, as SVG."""

from collections.abc import Callable, Sequence
from html import escape

WIDE, HIGH, EDGE = 360, 220, 34


def framed(title: str, x_name: str, y_name: str, points: Sequence[tuple[float, float]], drawn: Sequence[str]) -> str:
    """With the axes' names and ends."""
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*points, strict=True))
    axes = [
        f'<path class="axis" d="M{EDGE} 6V{HIGH - EDGE}H{WIDE - 6}"/>',
        text(EDGE, HIGH - EDGE + 12, f"{left:.3g}"),
        text(WIDE - 6, HIGH - EDGE + 12, f"{right:.3g}", "end"),
        text((WIDE + EDGE) / 2, HIGH - EDGE + 24, x_name, "middle"),
        text(EDGE - 3, HIGH - EDGE, f"{low:.3g}", "end"),
        text(EDGE - 3, 14, f"{high:.3g}", "end"),
        text(EDGE + 4, 14, y_name),
    ]
    return svg(title, [*axes, *drawn])


def svg(title: str, parts: Sequence[str]) -> str:
    """A picture of these parts, with its title below."""
    said = escape(title)
    return (
        f'<svg class="plot" role="img" aria-label="{said}" viewBox="0 0 {WIDE} {HIGH}"><title>{said}</title>'
        f"{''.join(parts)}</svg><figcaption>{said}</figcaption>"
    )


def text(x: float, y: float, said: str, anchor: str = "start") -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="9">{escape(said)}</text>'


def scale(values: Sequence[float], first: float, last: float) -> Callable[[float], float]:
    """From the smallest and the largest value to two places."""
    low, high = min(values), max(values)
    wide = (high - low) or 1.0
    return lambda value: first + (value - low) / wide * (last - first)
