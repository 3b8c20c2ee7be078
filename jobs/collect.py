"""collect: feedback -> raw events, each one exactly once, with Ray Data.

    python -m jobs.collect jobs/specs/recommender.yaml

Each run adds one file, `collected-<number>.parquet`, to the raw events. The file itself says which feedback files
it was made of, so the events and the record that they were taken appear in one step: a run that dies leaves
nothing, and one that comes second finds nothing left to take.
"""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.command import run as run_command
from cluster.errors import DataError, SpecError, StorageError
from cluster.lifecycle import connected
from cluster.storage import Storage
from jobs.dataset import as_table, each
from jobs.features.arrays import one_array
from jobs.features.columns import Column, rename
from jobs.lineage import Made
from jobs.raw import COLLECTED_AT, read_blocks
from jobs.raw_block import Part, RawBlock
from jobs.spec import RingSpec, event_columns
from jobs.stage import main as stage_main

EVENT_ID = "event_id"
RECEIVED_AT = "received_at"
SOURCES = b"rayline.sources"
COLLECTED = re.compile(r"/collected-(\d{6})\.parquet$")


def run(spec: RingSpec, storage: Storage) -> Made:
    """Add the feedback that was not yet collected to the raw events.

    Raises:
        DataError: a feedback file or one that an earlier run added is damaged or gone.
        StorageError: another collect added a file at the same moment; nothing was lost, run it again.
    """
    collected = _collected(spec, storage)
    waiting = _waiting(spec, storage, collected)
    if not waiting:
        return Made("collect", "", False, "no new feedback")
    name = _next_name(spec, storage, collected)
    columns = _columns(spec)
    names = _raw_names(spec, columns)
    storage.check_shared()
    with connected():
        events = _distinct(_read(storage, waiting, columns), _known_ids(storage, collected))
    try:
        storage.create(name, _as_parquet(events.rename_columns(names), waiting))
    except FileExistsError:
        raise StorageError(f"another collect wrote '{name}' at the same moment; run collect again") from None
    return Made("collect", name, True, f"{_files(waiting)} of new feedback", f"{events.num_rows:,} new events")


def plan(spec: RingSpec, storage: Storage) -> str:
    """What `run` would do."""
    collected = _collected(spec, storage)
    waiting = _waiting(spec, storage, collected)
    if not waiting:
        return "collect: skip, no new feedback"
    name = _next_name(spec, storage, collected)
    return f"collect: run\n  read {_files(waiting)} of new feedback\n  write {name}"


def _files(paths: Sequence[str]) -> str:
    return f"{len(paths):,} file{'s' if len(paths) != 1 else ''}"


def _next_name(spec: RingSpec, storage: Storage, collected: Sequence[str]) -> str:
    path = spec.raw.events.path
    if any(str(info.path) == storage.path(path) for info in storage.files(path)):
        raise SpecError(f"raw.events.path='{path}' is a file, feedback is added to a folder; name the folder it is in")
    return f"{path}/collected-{len(collected) + 1:06d}.parquet"


def _collected(spec: RingSpec, storage: Storage) -> list[str]:
    """The filesystem's paths of what earlier runs added, in order."""
    if not storage.exists(spec.raw.events.path):
        return []
    paths = [info.path for info in storage.files(spec.raw.events.path) if COLLECTED.search(info.path)]
    numbers = [int(COLLECTED.search(path).group(1)) for path in paths]  # type: ignore[union-attr]
    if numbers != [*range(1, len(numbers) + 1)]:
        raise DataError(
            f"'{spec.raw.events.path}' holds collected files {numbers}; one is missing, and with it the record of "
            "what was collected. Put it back, so that no feedback is taken twice"
        )
    return paths


def _waiting(spec: RingSpec, storage: Storage, collected: Sequence[str]) -> list[str]:
    """The feedback files that no earlier run took, relative to the storage."""
    folder = f"feedback/{spec.name}"
    if not storage.exists(folder):
        return []
    root = storage.path("")
    taken = {source for path in collected for source in _sources(storage, path)}
    files = [str(info.path).removeprefix(root).lstrip("/") for info in storage.files(folder)]
    return [path for path in files if path not in taken]


def _sources(storage: Storage, path: str) -> list[str]:
    try:
        with storage.open(path) as file:
            sources: list[str] = json.loads(pq.read_metadata(file).metadata[SOURCES])
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise DataError(
            f"'{path}' does not say which feedback it was made of ({error}); put back the file that collect wrote, "
            "or give a file of your own another name"
        ) from None
    return sources


def _known_ids(storage: Storage, collected: Sequence[str]) -> pa.Array:
    """The event ids of all earlier runs."""
    tables = [pq.read_table(storage.open(path), columns=[EVENT_ID]) for path in collected]
    ids = [one_array(table.column(EVENT_ID)) for table in tables]
    return pa.concat_arrays([chunk for array in ids for chunk in _chunks(array)] or [pa.array([], pa.string())])


def _chunks(array: Any) -> list[pa.Array]:
    return list(array.chunks) if isinstance(array, pa.ChunkedArray) else [array]


def _columns(spec: RingSpec) -> list[Column]:
    """What is kept of an event."""
    ours = [Column(name, "text") for name in (EVENT_ID, RECEIVED_AT)]
    return ours + list(event_columns(spec))


def _raw_names(spec: RingSpec, columns: Sequence[Column]) -> list[str]:
    """The names that the columns have in the raw files."""
    for ours in (EVENT_ID, RECEIVED_AT):
        if ours in spec.raw.events.columns.values():
            raise SpecError(
                f"raw.events.columns names a column '{ours}', which collect adds of its own; rename it in the raw files"
            )
    return [column.in_files for column in rename(columns, spec.raw.events.columns)]


def _read(storage: Storage, waiting: Sequence[str], columns: Sequence[Column]) -> pa.Table:
    """All events of these files, as text."""
    nothing = pa.table({column.name: pa.array([], pa.string()) for column in columns})

    def read(path: str) -> Iterator[pa.Table]:
        yield nothing  # so that an empty file has the columns, too
        for block in read_blocks(storage, Part(path), columns):
            fault = _fault(block)
            if fault:
                raise DataError(f"feedback file '{path}' is damaged: {fault}; mend or remove it")
            yield block.rows

    return as_table(each([storage.path(path) for path in waiting], read))


def _fault(block: RawBlock) -> str | None:
    """What no service writes; the values of an event are for prepare to check."""
    if block.unreadable:
        return block.unreadable[0][1]
    missing = [name for name in (EVENT_ID, RECEIVED_AT) if block.rows.column(name).null_count]
    return f"{missing[0]} is missing" if missing else None


def _distinct(events: pa.Table, known_ids: pa.Array) -> pa.Table:
    """The first of each event id, in the order received, without those that are known."""
    ordered = events.sort_by([(EVENT_ID, "ascending"), (RECEIVED_AT, "ascending")])
    ids = one_array(ordered.column(EVENT_ID))
    first = pc.index_in(ids, ids)  # the place of the first row with the same id
    is_first = pc.equal(first, pa.array(range(len(ids)), pa.int32()))
    return ordered.filter(pc.and_(is_first, pc.invert(pc.is_in(ids, known_ids)))).sort_by(RECEIVED_AT)


def _as_parquet(events: pa.Table, sources: Sequence[str]) -> bytes:
    metadata = {SOURCES: json.dumps(list(sources)), COLLECTED_AT: datetime.now(UTC).isoformat()}
    sink = pa.BufferOutputStream()
    pq.write_table(events.replace_schema_metadata(metadata), sink)
    return bytes(sink.getvalue().to_pybytes())


def main(arguments: Sequence[str]) -> int:
    """Run the stage from the command line."""
    return stage_main(__doc__ or "", run, plan, arguments)


if __name__ == "__main__":
    run_command(main)
