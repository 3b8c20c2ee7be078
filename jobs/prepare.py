"""prepare: raw rows -> checked, cleaned, split and transformed rows, with Ray Data or, where they are few, without.

    python -m jobs.prepare jobs/specs/recommender.yaml
    python -m jobs.prepare describe jobs/specs/recommender.yaml
    python -m jobs.prepare report jobs/specs/recommender.yaml
    python -m jobs.prepare columns jobs/specs/tabular.yaml

Writes prepared/<name>/<key>/{train,valid,test}/*.parquet, the fitted transform beside them, report.html and
profile.json, and the rows that were refused to quarantine/<name>/<key>/.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.command import run as run_command
from cluster.errors import DataError
from cluster.lifecycle import connected
from cluster.storage import Storage
from jobs.blocks import Blocks
from jobs.features.columns import Column, rename
from jobs.features.split import SPLIT, TrainRows
from jobs.features.step import Step
from jobs.features.survey import Survey, bound_for, survey
from jobs.features.transform import RAW, Transform
from jobs.first_look import look_at
from jobs.lineage import Made, prepare_inputs, raw_files, why_new
from jobs.prepared import read_train, read_transform
from jobs.prepared_files import Written, by_split, merge_written, write_block
from jobs.raw import check_headers
from jobs.raw_columns import describe_columns
from jobs.raw_rows import Quarantine, RawTable, check_quarantine, good_rows, quarantined
from jobs.repeats import losers
from jobs.report.files import PAGE, keys_of, local_page, raw_table, read_reasons, roles
from jobs.report.files import write as write_report
from jobs.report.report import RawTable as ToldTable
from jobs.report.report import Report
from jobs.report.report import report as report_of
from jobs.spec import RingSpec, SourceSpec, event_columns, item_columns, transform_of
from jobs.split_rows import split_rows
from jobs.stage import main as stage_main
from jobs.stage import spec_of
from jobs.step_files import with_files
from jobs.workloads import WORKLOADS, event_keys


def run(spec: RingSpec, storage: Storage) -> Made:
    """Prepare the raw data, unless that has been done for the same data, spec and code.

    Raises:
        DataError: a file or column is missing, or more rows are bad than the spec allows.
    """
    inputs = prepare_inputs(spec, storage)
    parent = f"prepared/{spec.name}"
    folder = f"{parent}/{inputs.key}"
    if storage.is_published(folder):
        return Made("prepare", folder, False, "unchanged", _summary(storage, folder, storage.manifest(folder)))
    why = why_new(storage, parent, inputs)
    tables = _tables(spec, storage, inputs.key)
    for table in tables.values():
        check_headers(storage, table.files, table.columns)
    num_bytes = sum(size for table in tables.values() for size in table.sizes)
    is_small = num_bytes <= spec.prepare.in_process_bytes
    if not is_small:
        storage.check_shared()
    transform = with_files(transform_of(spec))
    with _system_memory() if is_small else connected():
        bad_items, items = _items(spec, tables, is_small)
        rows = good_rows(tables["events"], is_small)
        seen = look_at(rows, event_keys(spec.workload))
        bad = quarantined(tables["events"])
        check_quarantine(tables["events"], seen.num_rows, bad, spec.prepare.max_bad_fraction)
        staged = storage.stage(folder)
        repeats = _repeats(rows, spec, seen.repeated)
        prepare, keys = spec.prepare, event_keys(spec.workload)
        split = split_rows(rows, prepare.split, prepare.history, _time(spec), keys, repeats)
        transform = _fitted(split, transform)
        num_rows = seen.num_rows - sum(map(len, repeats.values()))
        written = _write(spec, storage, split, transform, num_rows, staged)
        _save(spec, storage, transform, items, staged)
    created_at = datetime.now(UTC)
    raw = [_told(tables["events"], "events", written.read, seen.num_rows, bad)]
    if spec.raw.items:
        found = survey(items, keys_of(spec, tables["items"].columns))
        raw.append(_told(tables["items"], "items", found, items.num_rows, bad_items))
    write_report(storage, staged, _report(spec, folder, created_at, raw, transform, written))
    manifest = {
        **inputs.as_manifest(),
        "created_at": created_at.isoformat(),
        "num_rows": written.num_rows,
        "num_left_out": written.num_left_out,
        "num_added": written.num_added,
        "num_repeated": sum(map(len, repeats.values())),
        "num_read": seen.num_rows + bad.num_rows,
        "num_bad": bad.num_rows,
        "num_bad_items": bad_items.num_rows,
        "files": dict(sorted(written.sha256.items())),
    }
    storage.commit(staged, folder, manifest)
    return Made("prepare", folder, True, why, _summary(storage, folder, manifest))


def plan(spec: RingSpec, storage: Storage) -> str:
    """What `run` would do."""
    inputs = prepare_inputs(spec, storage)
    folder = f"prepared/{spec.name}/{inputs.key}"
    if storage.is_published(folder):
        return f"prepare: skip, {folder} is there and unchanged"
    files = {source.path: raw_files(storage, source.path) for source in _sources(spec)}
    read = [f"  read {path}: {len(found)} files, {sum(f[1] for f in found):,} bytes" for path, found in files.items()]
    split = spec.prepare.split
    scans = [
        f"  scan {number} of the training rows fits {', '.join(map(_named, steps))}"
        for number, steps in enumerate(transform_of(spec).scans, start=1)
    ]
    return "\n".join(
        [
            f"prepare: run ({why_new(storage, f'prepared/{spec.name}', inputs)})",
            *read,
            f"  split by {split.told(event_keys(spec.workload))}: {1 - split.valid - split.test:.0%} train, "
            f"{split.valid:.0%} valid, {split.test:.0%} test; fit on train only",
            *scans,
            f"  write {folder}",
        ]
    )


@contextmanager
def _system_memory() -> Iterator[None]:
    """Arrow's memory from the system's allocator: blocks that come and go cost half the time they do with its own."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def _sources(spec: RingSpec) -> list[SourceSpec]:
    return [source for source in (spec.raw.events, spec.raw.items) if source]


def _tables(spec: RingSpec, storage: Storage, key: str) -> dict[str, RawTable]:
    def table(name: str, source: SourceSpec, columns: tuple[Column, ...]) -> RawTable:
        found = [(path, size) for path, size, _ in raw_files(storage, source.path) if size]
        files, sizes = tuple(path for path, _ in found), tuple(size for _, size in found)
        quarantine = f"quarantine/{spec.name}/{key}/{name}"
        return RawTable(storage, source.path, files, sizes, rename(columns, source.columns), quarantine)

    tables = {"events": table("events", spec.raw.events, event_columns(spec))}
    if spec.raw.items:
        tables["items"] = table("items", spec.raw.items, item_columns(spec))
    return tables


def _items(spec: RingSpec, tables: dict[str, RawTable], in_process: bool) -> tuple[Quarantine, pa.Table]:
    """All items; no columns where the workload has none."""
    if "items" not in tables:
        return Quarantine(0, ()), pa.table({})
    rows = good_rows(tables["items"], in_process).table()
    bad = quarantined(tables["items"])
    check_quarantine(tables["items"], rows.num_rows, bad, spec.prepare.max_bad_fraction)
    return bad, rows


def _repeats(rows: Blocks, spec: RingSpec, candidates: np.ndarray) -> dict[int, np.ndarray]:
    """The places of rows whose key another row has, by the number of their block."""
    if not len(candidates):
        return {}
    time = WORKLOADS[spec.workload.kind].time
    return losers(rows, candidates, event_keys(spec.workload), time, "prepare: comparing repeated rows")


def _time(spec: RingSpec) -> str | None:
    """The column that orders the rows."""
    return WORKLOADS[spec.workload.kind].time or spec.prepare.split.column


def _told(table: RawTable, name: str, found: Survey, num_good: int, bad: Quarantine) -> ToldTable:
    """A raw table as the report tells it."""
    files = len(table.files), sum(table.sizes)
    reasons = read_reasons(table.storage, table.quarantine)
    return raw_table(name, table.path, table.columns, files, (num_good + bad.num_rows, bad.num_rows), found, reasons)


def _report(
    spec: RingSpec, folder: str, made_at: datetime, raw: Sequence[ToldTable], transform: Transform, written: Written
) -> Report:
    """What the page shows."""
    when = f"{made_at:%Y-%m-%d %H:%M} UTC"
    return report_of(spec.name, folder, when, raw, transform, written.surveys, roles(spec), written.num_left_out)


def _write(spec: RingSpec, storage: Storage, rows: Blocks, transform: Transform, num_rows: int, staged: str) -> Written:
    """Transform all rows and write them, each split's side by side."""
    workload, keys = WORKLOADS[spec.workload.kind], event_keys(spec.workload)
    bound = bound_for(num_rows)

    def write(block: pa.Table, number: int) -> Written:
        read = survey(block.drop_columns([SPLIT]), keys, bound)
        changed, num_left_out, num_added = transform.counted(block)
        made = by_split(workload.unfold(spec.workload, changed))
        files = write_block(storage, staged, _kept(spec, transform, made), number)
        surveys = {name: survey(of_split, workload.ties, bound) for name, of_split in made.items()}
        return Written(files, read, surveys, num_left_out, num_added)

    print("prepare: writing", flush=True)
    written = rows.collect("prepare: writing", write, merge_written)
    if written is None or not all(written.num_rows.values()):
        found = written.num_rows if written else "none"
        raise DataError(f"too few rows to split: {found}; give more data or larger shares in prepare.split")
    return written


def _kept(spec: RingSpec, transform: Transform, made: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """The rows of each split with the columns that are read again: by training, and of test rows by golden ones."""
    columns = WORKLOADS[spec.workload.kind].trains_on(spec.workload)
    if columns is None:
        return made
    as_read = {kept for name in transform.reads_served for kept in (name, RAW + name)}
    wanted = {"train": {*columns}, "valid": {*columns}, "test": {*columns, *as_read}}
    return {
        name: rows.select([column for column in rows.column_names if column in wanted[name]])
        for name, rows in made.items()
    }


def _save(spec: RingSpec, storage: Storage, transform: Transform, items: pa.Table, staged: str) -> None:
    """Write what was fitted, and the workload's lookup tables."""
    workload = WORKLOADS[spec.workload.kind]
    lookups = workload.lookups(transform, items, lambda: read_train(storage, staged, workload.ties))
    with TemporaryDirectory() as scratch:
        transform.with_lookups(lookups).save(Path(scratch))
        storage.upload(Path(scratch), staged)


def _fitted(rows: Blocks, transform: Transform) -> Transform:
    """Fit on the training rows, each block where it lies, in as few scans as the steps allow."""
    for scan, steps in enumerate(transform.scans, start=1):
        what = f"prepare: scan {scan} of {len(transform.scans)}"
        print(f"{what} fits {', '.join(map(_named, steps))}", flush=True)
        statistics = _scanned(rows, transform, scan, what)
        transform = transform.fitted(scan, [statistics])
    return transform


def _scanned(rows: Blocks, transform: Transform, scan: int, what: str) -> list[pa.Table]:
    """What all training rows say in a scan."""

    def statistics(block: pa.Table, number: int) -> list[pa.Table]:
        return transform.statistics(scan, TrainRows.of(block))

    def merge(parts: Sequence[list[pa.Table]]) -> list[pa.Table]:
        return transform.merged(scan, parts)

    found = rows.collect(what, statistics, merge)
    assert found is not None  # there are rows
    return found


def _named(step: Step) -> str:
    return f"{step.kind} of {', '.join(step.reads)}"


def _summary(storage: Storage, folder: str, manifest: dict[str, Any]) -> str:
    rows = ", ".join(f"{name} {count:,}" for name, count in manifest["num_rows"].items())
    bad = f"{manifest['num_bad']:,} of {manifest['num_read']:,} rows in quarantine"
    repeated = f"; {manifest['num_repeated']:,} repeated a key" if manifest["num_repeated"] else ""
    left_out = f"; steps left out {manifest['num_left_out']:,} training rows" if manifest["num_left_out"] else ""
    added = f"; steps added {manifest['num_added']:,} training rows" if manifest["num_added"] else ""
    page = f"{storage.uri.rstrip('/')}/{folder}/{PAGE}"
    return f"{rows}; {bad}{repeated}{left_out}{added}\nwhat came in and what was changed: {page}"


def describe(spec: RingSpec, storage: Storage) -> str:
    """What each step does to a row, and what it learned from the training rows.

    Raises:
        DataError: the rows of this spec are not prepared yet.
    """
    folder = _prepared(spec, storage)
    return f"{folder}\n{read_transform(storage, folder).told()}"


def report(spec: RingSpec, storage: Storage) -> str:
    """Where the page about the prepared rows lies on this machine; a copy of it, where the storage is elsewhere.

    Raises:
        DataError: the rows of this spec are not prepared yet.
    """
    return str(local_page(storage, _prepared(spec, storage), spec.name))


def _prepared(spec: RingSpec, storage: Storage) -> str:
    folder = f"prepared/{spec.name}/{prepare_inputs(spec, storage).key}"
    if not storage.is_published(folder):
        raise DataError(
            f"the rows of '{spec.name}' in '{storage.uri}' are not prepared as this spec says, so there is nothing "
            "to show; run python -m jobs.prepare SPEC first"
        )
    return folder


def main(arguments: Sequence[str]) -> int:
    """Run the stage from the command line, or show what it made or would read."""
    shows = {"describe": describe, "report": report, "columns": describe_columns}
    if arguments and (show := shows.get(arguments[0])):
        spec = spec_of(show.__doc__ or "", arguments[1:])
        print(show(spec, Storage(spec.storage)))
        return 0
    return stage_main(__doc__ or "", run, plan, arguments)


if __name__ == "__main__":
    run_command(main)
