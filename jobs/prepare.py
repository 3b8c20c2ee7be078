"""prepare: raw rows -> checked, cleaned, split and transformed rows, with Ray Data or, where they are few, without.

    python -m jobs.prepare jobs/specs/recommender.yaml
    python -m jobs.prepare describe jobs/specs/recommender.yaml

Writes prepared/<name>/<key>/{train,valid,test}/*.parquet, the fitted transform beside them, and the rows that were
refused to quarantine/<name>/<key>/.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.command import run as run_command
from cluster.errors import DataError
from cluster.lifecycle import connected
from cluster.storage import Storage
from jobs.dataset import Blocks, ClusterBlocks, LocalBlocks
from jobs.features.columns import REASON, Column, check_rows, rename
from jobs.features.distinct import last_of_each
from jobs.features.split import SPLIT, SPLITS, TrainRows, split_by_hash, split_by_time
from jobs.features.step import Step
from jobs.features.transform import Transform
from jobs.lineage import Made, prepare_inputs, raw_files, why_new
from jobs.prepared import read_train, read_transform
from jobs.raw import RawBlock, check_headers, read_blocks
from jobs.spec import RingSpec, SourceSpec, event_columns, item_columns, transform_of
from jobs.stage import main as stage_main
from jobs.stage import spec_of
from jobs.workloads import WORKLOADS, event_keys

PARTITION_BYTES = 64 * 1024 * 1024
ROW_GROUP_ROWS = 4096
"""Rows of a file that are read together: few, since training takes pages of rows from all over a split."""
NUM_REASONS_SHOWN = 3


def run(spec: RingSpec, storage: Storage) -> Made:
    """Prepare the raw data, unless that has been done for the same data, spec and code.

    Raises:
        DataError: a file or column is missing, or more rows are bad than the spec allows.
    """
    inputs = prepare_inputs(spec, storage)
    parent = f"prepared/{spec.name}"
    folder = f"{parent}/{inputs.key}"
    if storage.is_published(folder):
        return Made("prepare", folder, False, "unchanged", _summary(storage.manifest(folder)))
    why = why_new(storage, parent, inputs)
    tables = _tables(spec, storage, inputs.key)
    for table in tables.values():
        check_headers(storage, table.paths, table.columns)
    is_small = sum(_num_bytes(storage, source.path) for source in _sources(spec)) <= spec.prepare.in_process_bytes
    with nullcontext() if is_small else connected():
        read = {name: _read(storage, table, spec, is_small) for name, table in tables.items()}
        events, items = read["events"], read.get("items")
        staged = storage.stage(folder)
        written = _write(spec, storage, events.rows, items.rows.table() if items else pa.table({}), staged)
    manifest = {
        **inputs.as_manifest(),
        "created_at": datetime.now(UTC).isoformat(),
        "num_rows": written.num_rows,
        "num_left_out": written.num_left_out,
        "num_read": events.num_rows,
        "num_bad": events.num_bad,
        "num_bad_items": items.num_bad if items else 0,
    }
    storage.commit(staged, folder, manifest)
    return Made("prepare", folder, True, why, _summary(manifest))


def plan(spec: RingSpec, storage: Storage) -> str:
    """What `run` would do."""
    inputs = prepare_inputs(spec, storage)
    folder = f"prepared/{spec.name}/{inputs.key}"
    if storage.is_published(folder):
        return f"prepare: skip, {folder} is there and unchanged"
    files = {source.path: raw_files(storage, source.path) for source in _sources(spec)}
    read = [f"  read {path}: {len(found)} files, {sum(f[1] for f in found):,} bytes" for path, found in files.items()]
    split = spec.prepare.split
    over = f"within each {split.within}" if split.within else "over all rows"
    how = f"time {over}" if split.by == "time" else f"a hash of {', '.join(event_keys(spec.workload))}"
    scans = [
        f"  scan {number} of the training rows fits {', '.join(map(_named, steps))}"
        for number, steps in enumerate(transform_of(spec).scans, start=1)
    ]
    return "\n".join(
        [
            f"prepare: run ({why_new(storage, f'prepared/{spec.name}', inputs)})",
            *read,
            f"  split by {how}: {1 - split.valid - split.test:.0%} train, {split.valid:.0%} valid, "
            f"{split.test:.0%} test; fit on train only",
            *scans,
            f"  write {folder}",
        ]
    )


def _sources(spec: RingSpec) -> list[SourceSpec]:
    return [source for source in (spec.raw.events, spec.raw.items) if source]


def _num_bytes(storage: Storage, path: str) -> int:
    return sum(size for _, size, _ in raw_files(storage, path))


@dataclass(frozen=True)
class _RawTable:
    """One raw table and where its bad rows go."""

    path: str
    paths: tuple[str, ...]
    columns: tuple[Column, ...]
    quarantine: str


@dataclass(frozen=True)
class _Read:
    rows: Blocks
    num_rows: int
    num_bad: int


def _tables(spec: RingSpec, storage: Storage, key: str) -> dict[str, _RawTable]:
    def table(name: str, source: SourceSpec, columns: tuple[Column, ...]) -> _RawTable:
        paths = tuple(path for path, size, _ in raw_files(storage, source.path) if size)
        quarantine = f"quarantine/{spec.name}/{key}/{name}"
        return _RawTable(source.path, paths, rename(columns, source.columns), quarantine)

    tables = {"events": table("events", spec.raw.events, event_columns(spec))}
    if spec.raw.items:
        tables["items"] = table("items", spec.raw.items, item_columns(spec))
    return tables


def _read(storage: Storage, table: _RawTable, spec: RingSpec, is_small: bool) -> _Read:
    """The good rows of a table; the bad ones are in quarantine.

    Raises:
        DataError: there are no rows, or too many bad ones.
    """

    def read(path: str) -> Iterator[pa.Table]:
        for number, block in enumerate(read_blocks(storage, path, table.columns)):
            yield _good_rows(storage, table, path, number, block)

    print(f"prepare: reading {table.path}, {len(table.paths)} files", flush=True)
    storage.remove(table.quarantine)
    rows: Blocks = (LocalBlocks if is_small else ClusterBlocks).of_each(table.paths, read)
    num_good = rows.num_rows
    num_bad, reasons = _quarantined(storage, table.quarantine)
    num_rows = num_good + num_bad
    if num_rows == 0:
        raise DataError(f"raw data '{table.path}' in '{storage.uri}' has a header but no rows")
    if num_good == 0 or num_bad > spec.prepare.max_bad_fraction * num_rows:
        raise DataError(
            f"{num_bad:,} of {num_rows:,} rows of '{table.path}' ({num_bad / num_rows:.1%}) are bad, "
            f"prepare.max_bad_fraction={spec.prepare.max_bad_fraction:g} allows {spec.prepare.max_bad_fraction:.1%}. "
            f"First: {'; '.join(reasons)}. All are in '{storage.path(table.quarantine)}' with the reason; "
            "mend them, or raise the limit"
        )
    return _Read(rows, num_rows, num_bad)


def _good_rows(storage: Storage, table: _RawTable, path: str, number: int, block: RawBlock) -> pa.Table:
    """Check one block; its bad rows are written under a name that a second try of the task writes again."""
    checked = check_rows(block.rows, table.columns)
    is_bad = pc.is_valid(checked.column(REASON))
    raw_bad = block.rows.filter(is_bad)
    texts = [str(row) for row in raw_bad.to_pylist()] + [text for text, _ in block.unreadable]
    reasons = checked.column(REASON).filter(is_bad).to_pylist() + [reason for _, reason in block.unreadable]
    if reasons:
        sources = pa.array([path] * len(reasons), pa.string())
        bad = pa.table({"source": sources, "reason": reasons, "row": texts})
        name = f"{hashlib.sha256(path.encode()).hexdigest()[:12]}-{number:06d}"
        _write_parquet(storage, f"{table.quarantine}/{name}.parquet", bad)
    return checked.filter(pc.invert(is_bad)).drop_columns([REASON])


def _quarantined(storage: Storage, folder: str) -> tuple[int, list[str]]:
    """How many rows are in quarantine, and the reasons of the first few."""
    files = storage.files(folder)
    counts = [pq.read_metadata(info.path, filesystem=storage.filesystem).num_rows for info in files]
    reasons: list[str] = []
    if files:
        first = pq.read_table(files[0].path, columns=["reason"], filesystem=storage.filesystem)
        reasons = first.column("reason").slice(0, NUM_REASONS_SHOWN).to_pylist()
    return sum(counts), reasons


@dataclass(frozen=True)
class _Written:
    num_rows: dict[str, int]
    """Of each split."""
    num_left_out: int
    """Raw rows of the training split that steps left out."""


def _write(spec: RingSpec, storage: Storage, events: Blocks, items: pa.Table, staged: str) -> _Written:
    """Clean, split, fit, transform and write."""
    workload = WORKLOADS[spec.workload.kind]
    print(f"prepare: splitting and transforming {events.num_rows:,} rows", flush=True)
    split = _split(events, spec)
    transform = _fitted(split, transform_of(spec))

    def write_block(block: pa.Table, fitted: Transform) -> tuple[int, list[int]]:
        kept = fitted.prepare(block)
        rows = workload.unfold(spec.workload, kept).sort_by([(name, "ascending") for name in workload.ties])
        with ThreadPoolExecutor(len(SPLITS)) as threads:  # Arrow compresses without Python's lock
            counts = list(threads.map(lambda name: _write_split(storage, staged, rows, name), SPLITS))
        return block.num_rows - kept.num_rows, counts

    left_out, counts = zip(*split.collect(write_block, transform), strict=True)
    num_rows = {name: sum(of_split) for name, of_split in zip(SPLITS, zip(*counts, strict=True), strict=True)}
    if not all(num_rows.values()):
        raise DataError(f"too few rows to split: {num_rows}; give more data or larger shares in prepare.split")
    train = read_train(storage, staged, workload.ties)
    lookups = workload.lookups(transform, items, train)
    with TemporaryDirectory() as scratch:
        transform.with_lookups(lookups).save(Path(scratch))
        storage.upload(Path(scratch), staged)
    return _Written(num_rows, sum(left_out))


def _split(events: Blocks, spec: RingSpec) -> Blocks:
    """Keep the latest of rows that say the same thing twice, and mark each row's split."""
    workload, split, keys = WORKLOADS[spec.workload.kind], spec.prepare.split, event_keys(spec.workload)

    def clean_and_split(block: pa.Table) -> pa.Table:
        rows = last_of_each(block, keys, workload.time)
        if split.by == "hash":
            return split_by_hash(rows, split, keys)
        time = workload.time or split.column
        assert time is not None  # load_ring has checked it
        return split_by_time(rows, split, time, keys)

    together = [split.within] if split.within else [*keys] if split.by == "hash" else None
    return events.together(together, PARTITION_BYTES).map(clean_and_split)


def _fitted(split: Blocks, transform: Transform) -> Transform:
    """Fit on the training rows, each block where it lies, in as few scans as the steps allow."""

    def statistics(block: pa.Table, fitted_so_far: Transform, scan: int) -> list[pa.Table]:
        return fitted_so_far.statistics(scan, TrainRows.of(block))

    for scan, steps in enumerate(transform.scans, start=1):
        print(f"prepare: scan {scan} of {len(transform.scans)} fits {', '.join(map(_named, steps))}", flush=True)
        transform = transform.fitted(scan, split.collect(statistics, transform, scan))
    return transform


def _named(step: Step) -> str:
    return f"{step.kind} of {', '.join(step.reads)}"


def _write_split(storage: Storage, staged: str, rows: pa.Table, name: str) -> int:
    """Write a block's rows of one split, named by what they are, so that a second try writes the same file."""
    kept = rows.filter(pc.equal(rows.column(SPLIT), name)).drop_columns([SPLIT])
    if kept.num_rows:
        digest = hashlib.sha256()
        for batch in kept.combine_chunks().to_batches():
            digest.update(batch.serialize())
        _write_parquet(storage, f"{staged}/{name}/{digest.hexdigest()[:16]}.parquet", kept)
    return int(kept.num_rows)


def _write_parquet(storage: Storage, relative: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=ROW_GROUP_ROWS)
    storage.write(relative, sink.getvalue().to_pybytes())


def _summary(manifest: dict[str, Any]) -> str:
    rows = ", ".join(f"{name} {count:,}" for name, count in manifest["num_rows"].items())
    bad = f"{manifest['num_bad']:,} of {manifest['num_read']:,} rows in quarantine"
    left_out = f"; steps left out {manifest['num_left_out']:,} training rows" if manifest["num_left_out"] else ""
    return f"{rows}; {bad}{left_out}"


def describe(spec: RingSpec, storage: Storage) -> str:
    """What each step does to a row, and what it learned from the training rows.

    Raises:
        DataError: the rows of this spec are not prepared yet.
    """
    folder = f"prepared/{spec.name}/{prepare_inputs(spec, storage).key}"
    if not storage.is_published(folder):
        raise DataError(
            f"the rows of '{spec.name}' in '{storage.uri}' are not prepared as this spec says, so there is nothing "
            "learned to describe; run python -m jobs.prepare SPEC first"
        )
    return f"{folder}\n{read_transform(storage, folder).told()}"


def main(arguments: Sequence[str]) -> int:
    """Run the stage from the command line, or describe what it made."""
    if arguments[:1] == ["describe"]:
        spec = spec_of(describe.__doc__ or "", arguments[1:])
        print(describe(spec, Storage(spec.storage)))
        return 0
    return stage_main(__doc__ or "", run, plan, arguments)


if __name__ == "__main__":
    run_command(main)
