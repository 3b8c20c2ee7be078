"""The page of a training run: how it went, what was out of order, and which worker stood on which node."""

import math
from collections.abc import Callable, Sequence
from html import escape

from cluster.layout import Layout
from cluster.storage import Storage
from jobs.anomalies import Anomaly
from jobs.fit import EpochReport
from jobs.report.plots import lines
from jobs.report.style import STYLE
from jobs.run_log import LoggedEpoch, RunLog, Start
from jobs.spec import RingSpec
from jobs.usage import Usage

MAX_POINTS = 240
"""Of a curve; of more steps, the mean of neighbours is drawn."""
BOX, GAP = 54, 8
RANKS_A_ROW = 8


def _used(read: Callable[[Usage], float | None]) -> Callable[[EpochReport], float | None]:
    return lambda report: read(report.usage) if report.usage else None


OTHERS: dict[str, Callable[[EpochReport], float | None]] = {
    "gradient norm": lambda report: report.gradient_norm,
    "learning rate": lambda report: report.learning_rate,
    "rows/s": lambda report: report.rows_per_s,
    "tokens/s": _used(lambda usage: usage.tokens_per_s),
    "TFLOP/s": _used(lambda usage: usage.flops_per_s and usage.flops_per_s / 1e12),
    "MFU": _used(lambda usage: usage.mfu),
    "share of time without rows": lambda report: report.stall,
    "share of time with messages": _used(lambda usage: usage.communication if len(usage.peak_bytes) > 1 else None),
    "peak memory of a worker, GiB": _used(lambda usage: max(usage.peak_bytes) / 2**30),
}
"""Curves besides those of losses and metrics; one of which there is no value is not drawn."""


def write_run_page(spec: RingSpec, storage: Storage, checkpoints: str) -> str:
    """Write the page of the run with these checkpoints, as far as it got; returns its path in the storage."""
    log, path = RunLog(storage, checkpoints), f"{checkpoints}/report.html"
    storage.write(path, run_page(spec, log.epochs(), log.starts(), log.failure()).encode())
    return storage.path(path)


def run_page(spec: RingSpec, epochs: Sequence[LoggedEpoch], starts: Sequence[Start], failure: str = "") -> str:
    """The whole page, which needs nothing else. Every name and value is escaped."""
    reports = [epoch.report for epoch in epochs]
    found = [anomaly for epoch in epochs for anomaly in epoch.anomalies]
    peaks = [report.usage.peak_bytes for report in reports if report.usage][-1:] or [()]
    sections = [
        *(_head(spec, reports, found), _findings(found, failure), _curves(reports), _table(reports)),
        _starts(starts),
        *(_layout(start.layout, start.nodes, peaks[0]) for start in starts[-1:]),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(spec.name)}: how training went</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def _head(spec: RingSpec, reports: Sequence[EpochReport], found: Sequence[Anomaly]) -> str:
    train, watched = spec.train, spec.train.early_stopping.metric
    best = next((report for report in reversed(reports) if report.is_best), None)
    cards = [(f"{len(reports):,} of {train.num_epochs:,}", "epochs"), (f"{len(found):,}", "things worth a look")]
    if best:
        cards.insert(0, (f"{best.metrics[watched]:.4f}", f"best {watched}, after epoch {best.epoch}"))
    if reports:
        cards.append((f"{reports[-1].rows_per_s:,.0f}", "rows/s in the last epoch"))
    numbers = "".join(
        f'<div class="number"><b>{escape(value)}</b><span>{escape(what)}</span></div>' for value, what in cards
    )
    told = (
        f"{train.optimizer.name}, learning rate {train.optimizer.learning_rate:g} ({train.schedule}), global batch "
        f"{train.batch_size:,}, {spec.layout.num_workers} workers ({spec.layout.line()}), {spec.layout.precision}"
    )
    title = f'<header><h1>{escape(spec.name)}</h1><p class="quiet">{escape(told)}</p></header>'
    return f'{title}<div class="numbers">{numbers}</div>'


def _findings(found: Sequence[Anomaly], failure: str) -> str:
    if not found and not failure:
        return "<section><h2>Worth a look</h2><p>Nothing stands out.</p></section>"
    items = f"<li><b>failed</b>: {escape(failure)}</li>" if failure else ""
    items += "".join(
        f"<li><b>{escape(each.kind)}</b> at step {each.step:,}: {escape(each.seen)}. {escape(each.advice)}</li>"
        for each in found
    )
    return f'<section id="findings"><h2>Worth a look</h2><ul class="findings">{items}</ul></section>'


def _curves(reports: Sequence[EpochReport]) -> str:
    if not reports:
        return "<section><h2>How it went</h2><p>No epoch came to its end.</p></section>"
    steps = [
        (float(step), loss)
        for report in reports
        for step, loss in enumerate(report.step_losses, report.step - len(report.step_losses) + 1)
    ]
    pictures = [_card("training loss", _thinned(steps), [(report.step, report.loss) for report in reports])]
    pictures += [
        _card(f"validation {name}", [], [(report.step, report.metrics[name]) for report in reports])
        for name in reports[-1].metrics
    ]
    for name, read in OTHERS.items():
        points = [(float(report.step), value) for report in reports if (value := read(report)) is not None]
        pictures += [_card(name, [], points)] if points else []
    intro = '<p class="quiet">Over steps; the pale curve is of steps, the other one of epochs.</p>'
    return f'<section id="curves"><h2>How it went</h2>{intro}<div class="cards">{"".join(pictures)}</div></section>'


def _card(name: str, pale: Sequence[tuple[float, float]], curve: Sequence[tuple[float, float]]) -> str:
    values = [value for _, value in curve]
    ends = f"<span>{values[0]:.4g}</span><span>{values[-1]:.4g}</span>"
    picture = lines({"steps": pale, "epochs": curve}, name)
    return (
        f'<article class="card"><div class="head"><h3>{escape(name)}</h3></div><figure>{picture}'
        f"<figcaption>{ends}</figcaption></figure></article>"
    )


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MAX_POINTS`, each the mean of neighbours."""
    size = math.ceil(len(points) / MAX_POINTS) if points else 1
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _table(reports: Sequence[EpochReport]) -> str:
    if not reports:
        return ""
    names = ["epoch", "step", "loss", *reports[-1].metrics, "gradient norm", "learning rate", "rows/s", "stall"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(report))}</tr>" for report in reports)
    return (
        '<section><details><summary>All epochs as a table</summary><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details></section>"
    )


def _cells(report: EpochReport) -> list[str]:
    mark = " *" if report.is_best else ""
    return [
        f"{report.epoch}{mark}",
        f"{report.step:,}",
        f"{report.loss:.4f}",
        *(f"{value:.4f}" for value in report.metrics.values()),
        f"{report.gradient_norm:.3g}",
        f"{report.learning_rate:.3g}",
        f"{report.rows_per_s:,.0f}",
        f"{report.stall:.1%}",
    ]


def _starts(starts: Sequence[Start]) -> str:
    """Which workers trained from which step on, where they were not always the same."""
    told = [start for number, start in enumerate(starts) if not number or start.layout != starts[number - 1].layout]
    if len(told) < 2:
        return ""
    items = "".join(
        f"<li>from step {start.step:,} on {start.layout.num_workers} workers, {escape(start.layout.line())}"
        f"{f' ({escape(start.why)})' if start.why else ''}</li>"
        for start in told
    )
    return f'<section id="starts"><h2>Workers came and went</h2><ul>{items}</ul></section>'


def _layout(layout: Layout, places: Sequence[str], peaks: Sequence[int]) -> str:
    """A box a node, in it its ranks with their coordinates and the memory of each."""
    nodes = list(dict.fromkeys(places))
    drawn, y = [], 0
    for number, node in enumerate(nodes):
        ranks = [rank for rank, place in enumerate(places) if place == node]
        height = math.ceil(len(ranks) / RANKS_A_ROW) * (BOX + GAP) + GAP + 18
        width = RANKS_A_ROW * (BOX + GAP) + GAP
        drawn.append(f'<rect class="node" x="0.5" y="{y + 0.5}" width="{width}" height="{height - GAP}" rx="6"/>')
        drawn.append(f'<text x="{GAP}" y="{y + 15}">node {number + 1}, {escape(node[:8])}</text>')
        peak = dict(enumerate(peaks))
        drawn += [_rank(layout, rank, peak.get(rank), place, y + 20) for place, rank in enumerate(ranks)]
        y += height
    said = f"{len(places)} workers on {len(nodes)} nodes"
    view = f"0 0 {RANKS_A_ROW * (BOX + GAP) + GAP + 1} {y + 1}"
    inside = f"<title>{said}</title>{''.join(drawn)}"
    picture = f'<svg class="nodes" role="img" aria-label="{said}" viewBox="{view}">{inside}</svg>'
    told = "Each worker by its rank, with its peak memory in GiB and its place on the axes that the layout splits."
    intro = f'<p class="quiet">{told}</p>'
    return f'<section id="layout"><h2>Which worker stood where</h2>{intro}{picture}</section>'


def _rank(layout: Layout, rank: int, peak: int | None, place: int, y: int) -> str:
    x, y = GAP + place % RANKS_A_ROW * (BOX + GAP), y + place // RANKS_A_ROW * (BOX + GAP)
    coordinate = layout.coordinate(rank)
    axes = [
        f"{name[0].upper()}{getattr(coordinate, name)}"
        for name in ("replicate", "shard", "context", "pipeline", "tensor")
        if getattr(layout, name) > 1
    ]
    texts = [f'<text x="{x + 6}" y="{y + 16}" font-weight="600">{rank}</text>']
    if peak is not None:
        texts.append(f'<text class="end" x="{x + BOX - 4}" y="{y + 16}">{peak / 2**30:.1f}</text>')
    texts += [
        f'<text x="{x + 6}" y="{y + 31 + 12 * line}">{" ".join(axes[2 * line : 2 * line + 2])}</text>'
        for line in (0, 1)
    ]
    return f'<rect class="rank" x="{x}" y="{y}" width="{BOX}" height="{BOX}" rx="4"/>{"".join(texts)}'
