"""Cards: one column each, as a picture and a few numbers."""

from html import escape

from jobs.features.column_profile import ColumnProfile
from jobs.features.transform import RAW
from jobs.report.plots import categories, histogram, meter
from jobs.report.shown import counted, moment, number, share

TOP_SHOWN = 5
_KINDS = {"category": "text", "numbers": "list of numbers", "labels": "list of labels", "bytes": "bytes"}


def shown_name(name: str) -> str:
    """A column's name; one that a step put another in the place of is told as that."""
    return f"{name.removeprefix(RAW)}, as read" if name.startswith(RAW) else name


def card(profile: ColumnProfile) -> str:
    """A column as it came in."""
    kind = _KINDS.get(profile.kind, profile.kind)
    head = f'<div class="head"><h3>{escape(profile.name)}</h3><span class="kind">{kind}</span></div>'
    return f'<article class="card">{head}{picture(profile)}{_missing(profile)}<dl>{_facts(profile)}</dl></article>'


def side(profile: ColumnProfile) -> str:
    """A column before or after a step."""
    return f"<div><h3>{escape(shown_name(profile.name))}</h3>{picture(profile)}{_missing(profile)}</div>"


def picture(profile: ColumnProfile) -> str:
    """The distribution of a column, or why there is none to draw."""
    name = shown_name(profile.name)
    if profile.low is None or not profile.num_sampled:
        return '<p class="quiet">No value to draw.</p>'
    if profile.top_shares:
        if profile.kind == "category" and profile.num_distinct == profile.num_sampled > TOP_SHOWN:
            return '<p class="quiet">All values in the sample differ.</p>'
        top = profile.top_shares[:TOP_SHOWN]
        said = ", ".join(f"{value} {share(part)}" for value, part in top)
        rest = profile.num_distinct - len(top)
        caption = f"<figcaption><span>and {counted(rest, 'more value')}</span></figcaption>" if rest > 0 else ""
        return f"<figure>{categories(top, f'Most frequent values of {name}: {said}')}{caption}</figure>"
    if profile.histogram is None:
        return ""
    edges = profile.histogram.edges
    ends = [value_shown(profile, edge) for edge in (edges[0], edges[-1])]
    if profile.is_whole and len(edges) > 1 and edges[1] - edges[0] == 1:  # a bin a whole number
        ends = [value_shown(profile, edges[0] + 0.5), value_shown(profile, edges[-1] - 0.5)]
    drawn = histogram(profile.histogram, f"Distribution of {name} from {ends[0]} to {ends[1]}")
    caption = f"<figcaption><span>{ends[0]}</span><span>{ends[1]}</span></figcaption>"
    return f"<figure>{drawn}{caption}</figure>"


def value_shown(profile: ColumnProfile, value: float) -> str:
    """A value of the column, or a length."""
    return moment(value) if profile.kind == "time" else number(value)


def _missing(profile: ColumnProfile) -> str:
    if not profile.num_null:
        return ""
    said = f"{share(profile.missing_share)} missing"
    text = f"<figcaption><span>{said}</span><span>{counted(profile.num_null, 'row')}</span></figcaption>"
    return f"<figure>{meter(profile.missing_share, f'{shown_name(profile.name)}: {said}')}{text}</figure>"


def _facts(profile: ColumnProfile) -> str:
    if profile.low is None or profile.high is None or profile.mean is None:
        return ""
    low, high = value_shown(profile, profile.low), value_shown(profile, profile.high)
    is_number = profile.kind in ("number", "time")
    facts = [("from" if is_number else "length", low if low == high else f"{low} to {high}")]
    if is_number:
        facts.append(("mean", value_shown(profile, profile.mean)))
    if profile.kind == "number" and profile.sd is not None:
        facts.append(("sd", number(profile.sd)))
    if is_number and profile.deciles:
        facts.append(("median", value_shown(profile, profile.deciles[len(profile.deciles) // 2])))
    if profile.num_distinct:
        facts.append(("different", f"{profile.num_distinct:,} of {profile.num_sampled:,}"))
    return "".join(f"<dt>{term}</dt><dd>{escape(fact)}</dd>" for term, fact in facts)
