"""Findings: what is worth a look before a model is trained, from profiles and samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from jobs.features.column_profile import ColumnProfile
from jobs.report.drift import CLEAR, Drift
from jobs.report.leak import suspicion
from jobs.report.shown import share

MOSTLY_MISSING = 0.5
DOMINATES = 0.95
MIN_ROWS = 100
"""Of fewer rows nothing is said that chance alone could make."""


@dataclass(frozen=True)
class Finding:
    """One thing to look at."""

    column: str
    what: str


def of_columns(profiles: Sequence[ColumnProfile], keys: Sequence[str]) -> list[Finding]:
    """What the profiles of columns as they came in say; `keys` tell rows apart and may look like it."""
    return [Finding(profile.name, what) for profile in profiles if profile.name not in keys for what in _odd(profile)]


def of_drifts(drifts: Sequence[Drift]) -> list[Finding]:
    """Columns that are clearly not the same in another split."""
    return [
        Finding(
            drift.column,
            f"is not distributed in {drift.split} as in train: population stability index {drift.index:.2f}, "
            f"above {CLEAR:g}",
        )
        for drift in drifts
    ]


def of_leaks(train: pa.Table, features: Sequence[str], label: str | None) -> list[Finding]:
    """Features that nearly equal the label on a sample of training rows."""
    if label is None or label not in train.column_names:
        return []
    found = {name: suspicion(train.column(name), train.column(label)) for name in features if name != label}
    return [Finding(name, f"{what}: is it known when '{label}' is asked for?") for name, what in found.items() if what]


def _looks_like_key(profile: ColumnProfile) -> bool:
    """Whether a column of numbers is of whole ones that all differ."""
    return (
        profile.kind == "number"
        and profile.num_sampled >= MIN_ROWS
        and profile.num_distinct == profile.num_sampled
        and profile.is_whole
    )


def _odd(profile: ColumnProfile) -> list[str]:
    found = []
    if profile.num_null == profile.count:
        return ["has no value in any row"] if profile.count else []
    if profile.missing_share > MOSTLY_MISSING:
        found.append(f"is missing in {share(profile.missing_share)} of the rows")
    if profile.kind in ("number", "time", "category") and profile.num_distinct == 1:
        if profile.kind == "category" or profile.low == profile.high:
            return [*found, "has one value only"]
    elif profile.kind == "category" and profile.top_shares and profile.num_sampled >= MIN_ROWS:
        value, part = profile.top_shares[0]
        if part > DOMINATES:
            found.append(f"is '{value}' in {share(part)} of the rows that have it")
    if _looks_like_key(profile):
        found.append("holds whole numbers that all differ, like a key: a model would learn rows by heart")
    return found
