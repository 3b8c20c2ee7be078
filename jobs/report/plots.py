"""Plots: small pictures as SVG, in the colours of the page's style sheet; every one says in words what it shows."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from jobs.features.column_profile import Histogram
from jobs.report.shown import share

WIDTH, HEIGHT = 240, 64
_TAIL = 7.0
"""Width of a bar that holds all beyond the first or the last edge."""
_LABEL_CHARACTERS = 22
_ROW = 18


def histogram(shape: Histogram, title: str) -> str:
    """Bars of a distribution; what lies beyond the edges stands apart at the sides, in a fainter colour."""
    left, right = (_TAIL + 3 if side else 0.0 for side in (shape.below, shape.above))
    highest = max([*shape.counts, shape.below, shape.above, 1])
    step = (WIDTH - left - right) / len(shape.counts)
    gap = min(1.0, step / 6)
    bars = [
        _bar("bar", left + place * step, count / highest, step - gap)
        for place, count in enumerate(shape.counts)
        if count
    ]
    bars += [_bar("tail", 0, shape.below / highest, _TAIL)] if shape.below else []
    bars += [_bar("tail", WIDTH - _TAIL, shape.above / highest, _TAIL)] if shape.above else []
    return _picture(WIDTH, HEIGHT, title, [*bars, f'<path class="axis" d="M0 {HEIGHT - 0.5}H{WIDTH}"/>'])


def categories(top: Sequence[tuple[str, float]], title: str) -> str:
    """A bar a value, with the value and its share; the bars are drawn in proportion to the largest."""
    largest = max((part for _, part in top), default=1.0) or 1.0
    parts = []
    for place, (value, part) in enumerate(top):
        y = place * _ROW
        shown = value if len(value) <= _LABEL_CHARACTERS else f"{value[: _LABEL_CHARACTERS - 1]}…"
        parts += [
            f'<rect class="soft" x="0" y="{y + 1}" width="{max(part / largest * WIDTH, 1):.1f}" height="{_ROW - 3}" '
            'rx="2"/>',
            f'<text x="5" y="{y + 12.5}">{escape(shown)}</text>',
            f'<text class="end" x="{WIDTH - 4}" y="{y + 12.5}">{share(part)}</text>',
        ]
    return _picture(WIDTH, _ROW * max(len(top), 1), title, parts)


def meter(part: float, title: str, colour: str = "warn") -> str:
    """One bar that is filled to a share."""
    width = max(part * 100, 0.8) if part else 0
    fill = f'<rect class="{colour}" width="{width:.2f}" height="6" rx="1"/>'
    track = '<rect class="track" width="100" height="6" rx="1"/>'
    return _picture(100, 6, title, [track, fill], ' class="meter" preserveAspectRatio="none"')


def stacked(parts: Sequence[tuple[str, int]], title: str) -> str:
    """One bar of several colours, as wide as each part's share."""
    total = sum(count for _, count in parts) or 1
    drawn, x = [], 0.0
    for place, (_, count) in enumerate(parts):
        width = count / total * 100
        drawn.append(f'<rect class="part{place}" x="{x:.2f}" width="{width:.2f}" height="8"/>')
        x += width
    return _picture(100, 8, title, drawn, ' class="stacked" preserveAspectRatio="none"')


def pairs(first: Sequence[float], second: Sequence[float], title: str) -> str:
    """Two distributions side by side, a pair of bars a part; the first in grey."""
    highest = max([*first, *second, 1e-9])
    step = WIDTH / max(len(first), 1)
    bars = []
    for place, (one, other) in enumerate(zip(first, second, strict=True)):
        bars.append(_bar("tail", place * step + step * 0.1, one / highest, step * 0.4))
        bars.append(_bar("bar", place * step + step * 0.5, other / highest, step * 0.4))
    return _picture(WIDTH, HEIGHT, title, [*bars, f'<path class="axis" d="M0 {HEIGHT - 0.5}H{WIDTH}"/>'])


def lines(curves: Mapping[str, Sequence[tuple[float, float]]], title: str) -> str:
    """Curves of x and y over one axis, in the colours `curve0` and `curve1`; what is not finite is left out."""
    points = [point for curve in curves.values() for point in curve if math.isfinite(point[1])]
    if not points:
        return _picture(WIDTH, HEIGHT, f"{title}: nothing to draw", [])
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*points, strict=True))
    wide, tall = (right - left) or 1.0, (high - low) or 1.0
    drawn = []
    for place, curve in enumerate(curves.values()):
        path = " ".join(
            f"{(x - left) / wide * (WIDTH - 2) + 1:.1f},{HEIGHT - 2 - (y - low) / tall * (HEIGHT - 4):.1f}"
            for x, y in curve
            if math.isfinite(y)
        )
        drawn.append(f'<polyline class="curve curve{place}" points="{path}"/>')
    said = f"{title}; from {low:.4g} to {high:.4g}"
    return _picture(WIDTH, HEIGHT, said, [*drawn, f'<path class="axis" d="M0 {HEIGHT - 0.5}H{WIDTH}"/>'])


def _bar(kind: str, x: float, height: float, width: float) -> str:
    """What is there at all is seen."""
    drawn = max(height * (HEIGHT - 3), 1.0) if height else 0.0
    return (
        f'<rect class="{kind}" x="{x:.2f}" y="{HEIGHT - 1 - drawn:.2f}" width="{max(width, 0.5):.2f}" '
        f'height="{drawn:.2f}"/>'
    )


def _picture(width: float, height: float, title: str, parts: Sequence[str], more: str = ' class="plot"') -> str:
    said = escape(title)
    return (
        f'<svg{more} role="img" aria-label="{said}" viewBox="0 0 {width} {height}"><title>{said}</title>'
        f"{''.join(parts)}</svg>"
    )
