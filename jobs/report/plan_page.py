"""The page of a search: which layouts and values it chose, what it chose them from, and what was foreseen of each."""

import math
from collections.abc import Callable, Sequence
from html import escape

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import create_trial

from cluster.storage import Storage
from jobs.report.curves import colour, curves, is_best, lineage_table
from jobs.report.framed import EDGE, HIGH, WIDE, framed, scale, svg
from jobs.report.plots import categories
from jobs.report.shown import counted
from jobs.report.style import STYLE
from jobs.search.plan import Plan, read_plan, show_values
from jobs.search.space import Values
from jobs.search.trial import LayoutTrial, Trial, layout_of

FEWEST_FOR_IMPORTANCE = 6
"""Trials; of fewer nothing is said."""
MAX_ROWS = 40


def write_plan_page(storage: Storage, name: str, key: str) -> str:
    """Write the page of a plan; returns its path in the storage.

    Raises:
        FileNotFoundError: nothing was searched with these inputs.
    """
    found = read_plan(storage, name, key)
    if found is None:
        raise FileNotFoundError(f"plans/{name}/{key}")
    path = f"plans/{name}/{key}.html"
    storage.write(path, plan_page(name, found).encode())
    return storage.path(path)


def plan_page(name: str, plan: Plan) -> str:
    """The whole page, which needs nothing else. Every name and value is escaped."""
    sections = [_head(name, plan), _layouts(plan), _trials(plan), _left_out(plan)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(name)}: what the search found</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def _head(name: str, plan: Plan) -> str:
    cards = [(f"{plan.device_s / 60:.1f}", "device-minutes"), (str(len(plan.trials)), "trials")]
    cards += [(str(len(plan.layouts)), "layouts measured")] if plan.layouts else []
    if plan.best is not None:
        cards.insert(0, (f"{plan.best:.4f}", f"best {plan.metric}"))
    numbers = "".join(
        f'<div class="number"><b>{escape(value)}</b><span>{escape(what)}</span></div>' for value, what in cards
    )
    title = f'<header><h1>{escape(name)}</h1><p class="quiet">{escape(plan.line())}</p></header>'
    seen = f'<p class="quiet">The forecast so far: {escape(plan.forecast_error)}</p>' if plan.forecast_error else ""
    return f'{title}<div class="numbers">{numbers}</div><p>{escape(plan.why)}</p>{seen}'


def _layouts(plan: Plan) -> str:
    if not plan.layouts:
        return ""
    foreseen = [
        (each.predicted_bytes / 2**30, each.predicted_step_s, layout_of(each.layout).line())
        for each in plan.ranking
        if each.predicted_bytes is not None and each.predicted_step_s is not None
    ]
    measured = [each for each in plan.layouts if each.step_s]
    pictures = [
        _scatter("memory and time of every layout that fits", "GiB", "s a step", foreseen, _taken(measured)),
        _agreement("a step", "s", measured, lambda each: each.predicted_step_s, lambda each: each.median_s),
        _agreement(
            "memory",
            "GiB",
            measured,
            lambda each: None if each.predicted_bytes is None else each.predicted_bytes / 2**30,
            lambda each: max(each.peak_bytes) / 2**30,
        ),
    ]
    rows = "".join(_layout_row(each) for each in plan.layouts)
    head = "<tr><th>layout</th><th>foreseen ms</th><th>ms</th><th>foreseen MiB</th><th>MiB</th><th>ended</th></tr>"
    intro = '<p class="quiet">Grey is foreseen, coloured measured; on the diagonal both agree.</p>'
    drawn = "".join(f"<figure>{picture}</figure>" for picture in pictures if picture)
    return (
        f'<section id="layouts"><h2>Layouts</h2>{intro}<div class="cards">{drawn}</div>'
        f"<table>{head}{rows}</table></section>"
    )


def _layout_row(each: LayoutTrial) -> str:
    cells = [
        layout_of(each.layout).line(),
        "" if each.predicted_step_s is None else f"{each.predicted_step_s * 1e3:.1f}",
        f"{each.median_s * 1e3:.1f}" if each.step_s else "",
        "" if each.predicted_bytes is None else f"{each.predicted_bytes / 2**20:.0f}",
        f"{max(each.peak_bytes) / 2**20:.0f}" if each.peak_bytes else "",
        f"{each.outcome}{f': {each.said}' if each.said else ''}",
    ]
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _taken(measured: Sequence[LayoutTrial]) -> list[tuple[float, float, str]]:
    return [(max(each.peak_bytes) / 2**30, each.median_s, layout_of(each.layout).line()) for each in measured]


def _agreement(
    what: str,
    unit: str,
    measured: Sequence[LayoutTrial],
    foresees: Callable[[LayoutTrial], float | None],
    takes: Callable[[LayoutTrial], float],
) -> str:
    """Foreseen over measured, one dot a layout."""
    points = [
        (takes(each), value, layout_of(each.layout).line())
        for each in measured
        if (value := foresees(each)) is not None
    ]
    if not points:
        return ""
    return _scatter(f"{what}, measured and foreseen", f"measured {unit}", f"foreseen {unit}", [], points, diagonal=True)


def _trials(plan: Plan) -> str:
    if not plan.trials:
        return ""
    scored = [trial for trial in plan.trials if trial.best is not None]
    pictures = [
        curves(plan),
        _coordinates(plan, scored),
        categories(importance(scored, plan.mode), f"what {plan.metric} depends on"),
    ]
    drawn = "".join(f"<figure>{picture}</figure>" for picture in pictures if picture)
    ordered = sorted(scored, key=lambda each: each.best or 0.0, reverse=plan.mode == "max")
    others = [trial for trial in plan.trials if trial.best is None]
    rows = "".join(_trial_row(each) for each in [*ordered, *others][:MAX_ROWS])
    head = f"<tr><th>trial</th><th>{escape(plan.metric)}</th><th>epochs</th><th>values</th><th>ended</th></tr>"
    intro = '<p class="quiet">The best trial is coloured.</p>'
    return (
        f'<section id="trials"><h2>Trials</h2>{intro}<div class="cards">{drawn}</div>'
        f"<table>{head}{rows}</table>{lineage_table(plan)}</section>"
    )


def _trial_row(each: Trial) -> str:
    cells = [
        str(each.number),
        "" if each.best is None else f"{each.best:.4f}",
        str(each.num_epochs),
        show_values(each.values),
        f"{each.outcome}{f': {each.said}' if each.said else ''}",
    ]
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def importance(trials: Sequence[Trial], mode: str) -> list[tuple[str, float]]:
    """Each key's share of what makes trials good (PED-ANOVA; Watanabe et al., 2023), the largest first.

    Only of keys that all trials drew, and where there are enough trials.
    """
    shared = [key for key in (trials[0].values if trials else ()) if all(key in trial.values for trial in trials)]
    varied = [key for key in shared if len({trial.values[key] for trial in trials}) > 1]
    if len(trials) < FEWEST_FOR_IMPORTANCE or not varied:
        return []
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    distributions = {key: _distribution([trial.values[key] for trial in trials]) for key in varied}
    for trial in trials:
        params = {key: trial.values[key] for key in varied}
        study.add_trial(create_trial(params=params, distributions=distributions, value=trial.best))
    found = optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return sorted(found.items(), key=lambda pair: -pair[1])


def _distribution(values: Sequence[bool | int | float | str]) -> BaseDistribution:
    if all(isinstance(value, float) for value in values):
        numbers = [float(value) for value in values]
        return FloatDistribution(min(numbers), max(numbers), log=min(numbers) > 0)
    return CategoricalDistribution(sorted(set(values), key=str))


def _coordinates(plan: Plan, trials: Sequence[Trial]) -> str:
    """Parallel coordinates (Inselberg, 1985): an axis a key, and a line a trial."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    if not keys or len(trials) < 2:
        return ""
    places = {key: _places([trial.values.get(key) for trial in trials]) for key in keys}
    places[plan.metric] = _places([trial.best for trial in trials])
    step = (WIDE - 20) / (len(places) - 1)
    drawn = []
    for number, trial in sorted(enumerate(trials), key=lambda pair: is_best(plan, pair[1])):
        path = " ".join(
            f"{10 + step * axis:.1f},{20 + (HIGH - 50) * (1 - place[number]):.1f}"
            for axis, place in enumerate(places.values())
        )
        drawn.append(f'<polyline class="curve {colour(is_best(plan, trial))}" points="{path}"/>')
    for axis, key in enumerate(places):
        x = 10 + step * axis
        drawn.append(f'<path class="axis" d="M{x:.1f} 20V{HIGH - 30}"/>')
        anchor = "start" if axis == 0 else "end" if axis == len(places) - 1 else "middle"
        drawn.append(
            f'<text x="{x:.1f}" y="{HIGH - 16 + 11 * (axis % 2)}" text-anchor="{anchor}" font-size="8">'
            f"{escape(key.rpartition('.')[2])}</text>"
        )
    return svg("the values of every trial", drawn)


def _places(values: Sequence[bool | int | float | str | None]) -> list[float]:
    """From 0 to 1: numbers by size, other values by name, what is not there at 0."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        place = scale([float(value or 0) for value in values], 0.0, 1.0)
        return [place(float(value or 0)) for value in values]
    names = sorted({str(value) for value in values if value is not None})
    return [0.0 if value is None else (names.index(str(value)) + 1) / len(names) for value in values]


def _left_out(plan: Plan) -> str:
    if not plan.left_out:
        return ""
    reasons: dict[str, list[Values]] = {}
    for each in plan.left_out:
        reasons.setdefault(each.reason, []).append(each.layout)
    items = "".join(
        f"<li>{escape(layout_of(layouts[0]).line())}{_more(layouts)}: {escape(reason)}</li>"
        for reason, layouts in list(reasons.items())[:MAX_ROWS]
    )
    return f'<section id="left-out"><h2>Layouts that were none</h2><ul>{items}</ul></section>'


def _more(layouts: Sequence[Values]) -> str:
    return f" and {counted(len(layouts) - 1, 'other')}" if len(layouts) > 1 else ""


def _scatter(
    title: str,
    x_name: str,
    y_name: str,
    pale: Sequence[tuple[float, float, str]],
    points: Sequence[tuple[float, float, str]],
    diagonal: bool = False,
) -> str:
    """Dots of x, y and what they are, in the logarithm."""
    every = [(x, y) for x, y, _ in (*pale, *points) if x > 0 and y > 0]
    if not every:
        return ""
    xs, ys = ([math.log(value) for value in values] for values in zip(*every, strict=True))
    if diagonal:
        xs = ys = [*xs, *ys]
    across, up = scale(xs, EDGE, WIDE - 6), scale(ys, HIGH - EDGE, 6)
    drawn = [f'<path class="axis" d="M{EDGE} {HIGH - EDGE}L{WIDE - 6} 6"/>'] if diagonal else []
    for kind, dots in (("tail", pale), ("bar", points)):
        drawn += [
            f'<circle class="{kind}" cx="{across(math.log(x)):.1f}" cy="{up(math.log(y)):.1f}" r="3">'
            f"<title>{escape(what)}: {x:.3g}, {y:.3g}</title></circle>"
            for x, y, what in dots
            if x > 0 and y > 0
        ]
    return framed(title, x_name, y_name, every, drawn)
