"""Report: all that the page of a preparation shows, as plain data, gathered from surveys and the fitted transform."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.features.column_profile import ColumnProfile, describe
from jobs.features.split import SPLIT
from jobs.features.survey import Survey
from jobs.features.transform import RAW, Transform, settings_told
from jobs.features.values import ColumnKind
from jobs.report.drift import CLEAR, Drift, drift
from jobs.report.findings import Finding, of_columns, of_drifts, of_leaks
from jobs.report.quarantine import Reason


@dataclass(frozen=True)
class RawTable:
    """One raw table, as it was read."""

    name: str
    """`events` or `items`."""
    path: str
    num_files: int
    num_bytes: int
    num_rows: int
    num_bad: int
    columns: tuple[ColumnProfile, ...]
    """Of the good rows."""
    reasons: tuple[Reason, ...]
    """Why rows are in quarantine."""


@dataclass(frozen=True)
class StepChange:
    """A step, and the columns that it takes and makes as they are in the training rows."""

    number: int
    kind: str
    given: str
    learned: str
    before: tuple[ColumnProfile, ...]
    after: tuple[ColumnProfile, ...]
    """As they are once all steps are done."""
    shared_with: tuple[int, ...] = ()
    """Other steps that make one of the same columns, so that the change shown is of all of them."""


@dataclass(frozen=True)
class Roles:
    """What columns are to the workload."""

    keys: tuple[str, ...]
    """They tell rows apart."""
    features: tuple[str, ...]
    label: str | None = None
    kinds: Mapping[str, ColumnKind] | None = None
    """Of those as they are read."""


@dataclass(frozen=True)
class Report:
    """What came in, what was changed, what was refused."""

    name: str
    folder: str
    created_at: str
    tables: tuple[RawTable, ...]
    steps: tuple[StepChange, ...]
    splits: dict[str, int]
    """Rows of each."""
    num_left_out: int
    """Training rows that steps left out."""
    train: tuple[ColumnProfile, ...]
    """The prepared columns in the training rows."""
    drifts: tuple[Drift, ...]
    findings: tuple[Finding, ...]
    num_sampled: int
    """Of the training rows."""

    def as_json(self) -> dict[str, Any]:
        """As `profile.json` beside the page holds it."""
        return {
            "num_rows": self.splits,
            "num_left_out": self.num_left_out,
            "raw": {
                table.name: {
                    "num_rows": table.num_rows,
                    "num_bad": table.num_bad,
                    "columns": {column.name: column.as_json() for column in table.columns},
                }
                for table in self.tables
            },
            "train": {column.name: column.as_json() for column in self.train},
            "findings": [f"{finding.column} {finding.what}" for finding in self.findings],
        }


def report(
    name: str,
    folder: str,
    created_at: str,
    tables: Sequence[RawTable],
    transform: Transform,
    splits: Mapping[str, Survey],
    roles: Roles,
    num_left_out: int = 0,
) -> Report:
    """Put together what the page shows.

    Args:
        tables: with `columns` from `describe` of the survey of their good rows.
        transform: fitted.
        splits: the survey of each split's prepared rows; `train` is there.
    """
    train = splits["train"]
    profiles = describe(train, roles.kinds)
    compared = [name for name in (*roles.features, roles.label) if name and name in profiles]
    drifts = tuple(_drifts(splits, compared))
    return Report(
        name,
        folder,
        created_at,
        tuple(tables),
        tuple(_steps(transform, profiles)),
        {split: survey.num_rows for split, survey in splits.items()},
        num_left_out,
        tuple(profile for column, profile in profiles.items() if column != SPLIT),
        drifts,
        (
            *(finding for table in tables for finding in of_columns(table.columns, roles.keys)),
            *of_leaks(train.sample, [name for name in roles.features if name in profiles], roles.label),
            *of_drifts(drifts),
        ),
        train.sample.num_rows,
    )


def _drifts(splits: Mapping[str, Survey], columns: Sequence[str]) -> list[Drift]:
    """The clear ones, the clearest first."""
    train = splits["train"].sample
    found = [
        drift(name, split, train.column(name), survey.sample.column(name))
        for name in columns
        for split, survey in splits.items()
        if split != "train"
    ]
    return sorted((each for each in found if each and each.index > CLEAR), key=lambda each: -each.index)


def _steps(transform: Transform, profiles: Mapping[str, ColumnProfile]) -> list[StepChange]:
    """Each step beside the columns that it takes, as they were read where it puts others in their place, and makes."""
    changes = []
    made: set[str] = set()
    for number, step in enumerate(transform.steps, start=1):
        before = [name if name in made - set(step.makes) else _as_read(name, profiles) for name in step.reads]
        shared = (other for other, each in enumerate(transform.steps, start=1) if set(each.makes) & set(step.makes))
        made |= set(step.makes)
        changes.append(
            StepChange(
                number,
                step.kind,
                settings_told(step),
                step.told(),
                tuple(profiles[name] for name in before if name in profiles),
                tuple(profiles[name] for name in step.makes if name in profiles),
                tuple(other for other in shared if other != number),
            )
        )
    return changes


def _as_read(name: str, profiles: Mapping[str, ColumnProfile]) -> str:
    return RAW + name if RAW + name in profiles else name
