"""Files: what a report takes from the storage, and what it leaves there: the page and `profile.json`."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Storage
from jobs.features.column_profile import describe
from jobs.features.columns import Column
from jobs.features.survey import Survey
from jobs.prepared import PROFILE
from jobs.report.page import page
from jobs.report.quarantine import Reason, count_reasons, merge_reasons
from jobs.report.report import RawTable, Report, Roles
from jobs.spec import RingSpec, event_columns
from jobs.workloads import WORKLOADS

PAGE = "report.html"


def roles(spec: RingSpec) -> Roles:
    """What columns are to the spec's workload."""
    workload = WORKLOADS[spec.workload.kind]
    label = getattr(spec.workload, "label", None)
    names = (column.name for column in workload.event_columns(spec.workload))
    features = tuple(name for name in names if name not in (*workload.ties, label))
    return Roles(workload.ties, features, label, {column.name: column.kind for column in event_columns(spec)})


def keys_of(spec: RingSpec, columns: tuple[Column, ...]) -> tuple[str, ...]:
    """The columns that tell the rows of a raw table apart; all where the workload knows none of them."""
    names = [column.name for column in columns]
    return tuple(name for name in WORKLOADS[spec.workload.kind].ties if name in names) or tuple(names)


def raw_table(
    name: str,
    path: str,
    columns: tuple[Column, ...],
    files: tuple[int, int],
    rows: tuple[int, int],
    found: Survey,
    reasons: tuple[Reason, ...],
) -> RawTable:
    """One raw table of the report.

    Args:
        files: how many, and their bytes.
        rows: how many were read, and how many of them are bad.
        found: the survey of its good rows.
    """
    profiles = describe(found, {column.name: column.kind for column in columns})
    return RawTable(name, path, *files, *rows, tuple(profiles.values()), reasons)


def read_reasons(storage: Storage, quarantine: str) -> tuple[Reason, ...]:
    """Why rows are in a folder of quarantine."""
    paths = [info.path for info in storage.files(quarantine)]
    return merge_reasons([count_reasons(_reasons_in(storage, path)) for path in paths])


def _reasons_in(storage: Storage, path: str) -> pa.ChunkedArray:
    with storage.open(path) as file:
        return pq.read_table(file, columns=["reason"]).column("reason")


def write(storage: Storage, folder: str, report: Report) -> None:
    """The page for people, and the same numbers for programs."""
    storage.write(f"{folder}/{PAGE}", page(report).encode())
    storage.write(f"{folder}/{PROFILE}", json.dumps(report.as_json(), indent=1, allow_nan=False).encode())


def local_page(storage: Storage, folder: str, name: str) -> Path:
    """The page of a prepared folder on this machine; where the storage is elsewhere a copy in the working folder."""
    if storage.is_local:
        return Path(storage.path(f"{folder}/{PAGE}"))
    copy = Path(f"{name}-{PAGE}").absolute()
    copy.write_bytes(storage.read(f"{folder}/{PAGE}"))
    return copy
