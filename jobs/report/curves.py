"""The learning curves of a search, and of a population who took over whose weights."""

import math
from collections.abc import Mapping
from html import escape

from jobs.report.framed import EDGE, HIGH, WIDE, framed, scale
from jobs.search.plan import Plan, show_values
from jobs.search.trial import Stint, Trial

Line = list[tuple[float, float]]
"""Epochs and the metric after each."""


def is_best(plan: Plan, trial: Trial) -> bool:
    """Whether it is the trial that was chosen."""
    return trial.number == plan.lineage[-1].member if plan.lineage else trial.best == plan.best


def colour(is_chosen: bool) -> str:
    """The class of its curve."""
    return "curve1" if is_chosen else "curve0"


def curves(plan: Plan) -> str:
    """The metric over epochs, a line a trial; a member that takes over goes on, after a dot, from the other's line."""
    by_number = {trial.number: _line(plan.metric, trial) for trial in plan.trials}
    points = [point for line in by_number.values() for point in line]
    if not points:
        return ""
    across, up = scale([x for x, _ in points], EDGE, WIDE - 6), scale([y for _, y in points], HIGH - EDGE, 6)
    drawn = []
    for trial in sorted(plan.trials, key=lambda each: is_best(plan, each)):
        for line in _parts(by_number, trial):
            path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
            drawn.append(f'<polyline class="curve {colour(is_best(plan, trial))}" points="{path}"/>')
    for trial in plan.trials:
        for stint in _takeovers(trial):
            x, y = _at(by_number[stint.source], stint.epoch)
            told = f"after epoch {stint.epoch} member {trial.number} took over from member {stint.source}"
            drawn.append(
                f'<circle class="bar" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3"><title>{told}</title></circle>'
            )
    return framed(f"{plan.metric} over epochs", "epochs", plan.metric, points, drawn)


def lineage_table(plan: Plan) -> str:
    """The values that the weights of the plan were trained with; nothing where it has none."""
    if not plan.lineage:
        return ""
    ends = [*(each.epoch for each in plan.lineage[1:]), plan.num_epochs]
    rows = "".join(
        f"<tr><td>{each.epoch + 1} to {end}</td><td>{each.member}</td><td>{escape(show_values(each.values))}</td></tr>"
        for each, end in zip(plan.lineage, ends, strict=True)
    )
    head = "<tr><th>epochs</th><th>member</th><th>values</th></tr>"
    return f'<table id="lineage"><caption>What the weights of the plan were trained with</caption>{head}{rows}</table>'


def _line(metric: str, trial: Trial) -> Line:
    points = [(point["num_epochs"], point[metric]) for point in trial.curve if metric in point]
    return [point for point in points if math.isfinite(point[1])]


def _takeovers(trial: Trial) -> list[Stint]:
    return [stint for stint in trial.stints if stint.source != trial.number]


def _at(line: Line, epoch: int) -> tuple[float, float]:
    return next(point for point in line if point[0] == epoch)


def _parts(by_number: Mapping[int, Line], trial: Trial) -> list[Line]:
    """Its line, which begins anew where it takes over; none without a point."""
    parts: list[Line] = [[]]
    begins = {stint.epoch: _at(by_number[stint.source], stint.epoch) for stint in _takeovers(trial)}
    for point in by_number[trial.number]:
        passed = [epoch for epoch in begins if epoch < point[0]]
        for epoch in passed:
            parts.append([begins.pop(epoch)])
        parts[-1].append(point)
    return [part for part in parts if part]
