"""Page: a report as one HTML file that needs nothing else: no script, no address, no font."""

from collections.abc import Sequence
from html import escape

from jobs.features.column_profile import ColumnProfile
from jobs.features.survey import SAMPLE_ROWS
from jobs.report.cards import card, side, value_shown
from jobs.report.drift import CLEAR, Drift
from jobs.report.plots import meter, pairs, stacked
from jobs.report.quarantine import Reason
from jobs.report.report import RawTable, Report, StepChange
from jobs.report.shown import counted, share, size
from jobs.report.style import STYLE

MAX_REASONS = 20
MAX_DRIFTS = 12


def page(report: Report) -> str:
    """The whole page. Every name, value and reason is escaped."""
    sections = [
        _head(report),
        _findings(report),
        *(_table(table, len(report.tables) > 1) for table in report.tables),
        _steps(report.steps),
        _drifts(report.drifts),
        *(_quarantine(table) for table in report.tables),
        _how(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(report.name)}: what was prepared</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def _head(report: Report) -> str:
    num_read = sum(table.num_rows for table in report.tables)
    num_bad = sum(table.num_bad for table in report.tables)
    num_prepared = sum(report.splits.values())
    cards = [
        (f"{num_read:,}", "rows read"),
        (f"{num_bad:,}", f"in quarantine ({share(num_bad / num_read if num_read else 0)})"),
        *([(f"{report.num_left_out:,}", "training rows left out by steps")] if report.num_left_out else []),
        (f"{num_prepared:,}", "rows prepared"),
        (f"{len(report.findings):,}", "things worth a look"),
    ]
    numbers = "".join(f'<div class="number"><b>{value}</b><span>{what}</span></div>' for value, what in cards)
    said = ", ".join(f"{name} {count:,} rows" for name, count in report.splits.items())
    legend = "".join(
        f'<li><svg viewBox="0 0 10 10" aria-hidden="true"><rect class="part{place}" width="10" height="10"/></svg>'
        f"{escape(name)} {count:,} ({share(count / num_prepared if num_prepared else 0)})</li>"
        for place, (name, count) in enumerate(report.splits.items())
    )
    files = "; ".join(
        f"<code>{escape(table.path)}</code>, {counted(table.num_files, 'file')}, {size(table.num_bytes)}"
        for table in report.tables
    )
    return (
        f'<header><h1>{escape(report.name)}</h1><p class="quiet">Prepared {escape(report.created_at)} from {files} '
        f'into <code>{escape(report.folder)}</code></p></header><div class="numbers">{numbers}</div>'
        f'{stacked(list(report.splits.items()), f"Rows of each split: {said}")}<ul class="legend">{legend}</ul>'
        '<nav aria-label="Parts of this page"><a href="#columns">What came in</a><a href="#steps">What was changed</a>'
        '<a href="#quarantine">What was refused</a></nav>'
    )


def _findings(report: Report) -> str:
    if not report.findings:
        return _section("Worth a look", "<p>Nothing stands out.</p>", "findings")
    items = "".join(f"<li><b>{escape(each.column)}</b> {escape(each.what)}</li>" for each in report.findings)
    return _section("Worth a look", f'<ul class="findings">{items}</ul>', "findings")


def _table(table: RawTable, is_one_of_several: bool) -> str:
    of = f" in {table.name}" if is_one_of_several else ""
    cards = "".join(map(card, table.columns))
    intro = f"{len(table.columns)} columns of {table.num_rows - table.num_bad:,} rows that passed every check."
    return _section(
        f"What came in{of}",
        f'<p class="quiet">{intro}</p><div class="cards">{cards}</div>{_numbers(table)}',
        "columns" if table.name == "events" else "",
    )


def _numbers(table: RawTable) -> str:
    """All numbers of all columns, for who wants them."""
    names = ["column", "rows", "missing", "lowest", "10 %", "median", "90 %", "highest", "mean", "sd", "different"]
    head = "".join(f'<th scope="col"{_words(place)}>{name}</th>' for place, name in enumerate(names))
    rows = "".join(
        f'<tr><th scope="row" class="words">{escape(column.name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(column))
        + "</tr>"
        for column in table.columns
    )
    caption = "<caption>Of text, lists and bytes the numbers are of their lengths; quantiles are of values.</caption>"
    return (
        f'<details><summary>All numbers as a table</summary><div class="scroll"><table>{caption}<thead><tr>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div></details>"
    )


def _cells(column: ColumnProfile) -> list[str]:
    def shown(value: float | None) -> str:
        return "" if value is None else value_shown(column, value)

    quantiles = [column.deciles[place] for place in (1, 5, 9)] if column.deciles else [None] * 3
    sd = None if column.kind == "time" else column.sd
    sizes = [shown(value) for value in (column.low, *quantiles, column.high, column.mean, sd)]
    different = f"{column.num_distinct:,}" if column.num_distinct else ""
    return [f"{column.count:,}", f"{column.num_null:,} ({share(column.missing_share)})", *sizes, different]


def _steps(steps: Sequence[StepChange]) -> str:
    if not steps:
        return ""
    intro = (
        '<p class="quiet">Each step with the columns that it takes, as they were before, and the columns that it '
        "makes, as they are in the training rows when all steps are done.</p>"
    )
    return _section("What was changed", intro + "".join(map(_step, steps)), "steps")


def _step(step: StepChange) -> str:
    learned = f"<p>{escape(step.learned)}</p>" if step.learned else ""
    others = " and ".join(map(str, step.shared_with))
    shared = f'<p class="quiet">Changed by step {others} too; the picture shows all.</p>' if step.shared_with else ""
    sides = [f'<div class="side">{"".join(map(side, columns))}</div>' for columns in (step.before, step.after)]
    arrow = '<div class="arrow" role="img" aria-label="becomes">→</div>'
    change = f'<div class="change">{sides[0]}{arrow}{sides[1]}</div>' if step.after else sides[0]
    return (
        f'<article class="step"><div class="head"><h3>{step.number}. {escape(step.kind)}</h3>'
        f"<code>{escape(step.given)}</code></div>{learned}{shared}{change}</article>"
    )


def _drifts(drifts: Sequence[Drift]) -> str:
    if not drifts:
        return ""
    intro = (
        f'<p class="quiet">Columns whose population stability index against the training rows is above {CLEAR:g}. '
        "Grey: train; blue: the other split. Numbers are parted at the deciles of the training rows. Where the split "
        "is by time, what changes with time shows here.</p>"
    )
    cards = "".join(map(_drift, drifts[:MAX_DRIFTS]))
    return _section("What differs between the splits", f'{intro}<div class="cards">{cards}</div>', "drifts")


def _drift(drift: Drift) -> str:
    parts = zip(drift.labels, drift.train, drift.other, strict=True)
    said = "; ".join(f"{label}: train {share(one)}, {drift.split} {share(other)}" for label, one, other in parts)
    ends = f"<span>{escape(drift.labels[0])}</span><span>{escape(drift.labels[-1])}</span>"
    return (
        f'<article class="card"><div class="head"><h3>{escape(drift.column)}</h3><span class="kind">{drift.split}, '
        f"index {drift.index:.2f}</span></div><figure>{pairs(drift.train, drift.other, f'{drift.column}: {said}')}"
        f"<figcaption>{ends}</figcaption></figure></article>"
    )


def _quarantine(table: RawTable) -> str:
    title = f"What was refused of {table.path}"
    anchor = "quarantine" if table.name == "events" else ""
    if not table.num_bad:
        return _section(title, f"<p>All {table.num_rows:,} rows passed every check.</p>", anchor)
    shown = list(table.reasons[:MAX_REASONS])
    rest = table.reasons[MAX_REASONS:]
    if rest:
        shown.append(Reason(f"{len(rest):,} other reasons", sum(each.num_rows for each in rest), ()))
    rows = "".join(_reason(reason, table.num_bad) for reason in shown)
    head = '<th scope="col" class="words">reason</th><th scope="col">rows</th><th scope="col">share</th>'
    head += '<th scope="col" class="words">such as</th>'
    caption = f"{table.num_bad:,} of {table.num_rows:,} rows are in quarantine, each with its reason."
    return _section(
        title,
        f'<div class="scroll"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        "</table></div>",
        anchor,
    )


def _reason(reason: Reason, num_bad: int) -> str:
    part = reason.num_rows / num_bad
    examples = ", ".join(f"<code>'{escape(example)}'</code>" for example in reason.examples)
    return (
        f'<tr><td class="words">{escape(reason.rule)}</td><td>{reason.num_rows:,}</td><td class="picture">'
        f'{meter(part, f"{share(part)} of the refused rows")}{share(part)}</td><td class="words">{examples}</td></tr>'
    )


def _how(report: Report) -> str:
    bound = 0.5 / max(report.num_sampled, 1) ** 0.5
    is_whole = report.num_sampled == report.splits.get("train")
    error = (
        "The training rows are few enough for all of them to be in it."
        if is_whole
        else f"A share p in a sample of n rows has a standard error of √(p (1 - p) / n), here at most "
        f"{100 * bound:.2f} percentage points."
    )
    return _section(
        "How these numbers were made",
        '<p class="quiet">Counts, what is missing, lowest, highest, mean and sd (standard deviation) are of all rows. '
        f"Quantiles, pictures, frequent values and how many differ are of a sample of up to {SAMPLE_ROWS:,} rows, "
        "those with the lowest hashes of their keys: the same rows whatever the number of workers. "
        f"{error} Pictures run from the 1st to the 99th percentile; what lies beyond stands in grey at the sides.</p>",
    )


def _section(title: str, content: str, anchor: str = "") -> str:
    name = f' id="{anchor}"' if anchor else ""
    return f"<section{name}><h2>{escape(title)}</h2>{content}</section>"


def _words(place: int) -> str:
    return ' class="words"' if place == 0 else ""
