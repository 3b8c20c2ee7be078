"""Raw columns: what the files of a spec hold, what that suggests, and how the spec reads it."""

import json
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa

from cluster.errors import DataError
from cluster.storage import Storage
from jobs.features.columns import Column, check_header, rename
from jobs.features.infer import Guess, infer
from jobs.lineage import raw_files
from jobs.raw import read_blocks, read_header
from jobs.raw_block import Part
from jobs.spec import RingSpec, event_columns
from jobs.workloads.tabular import CATEGORY, NUMBER, RESERVED, VECTOR, TabularSpec

NUM_ROWS = 10_000
LONGEST_EXAMPLE = 24
_PLAIN = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null|nan|inf)$)[a-z_][a-z0-9_.-]*", re.IGNORECASE)
"""A name that YAML takes for text without quotes."""


def describe_columns(spec: RingSpec, storage: Storage) -> str:
    """What the first rows of the raw events suggest that each column is, and how the spec reads it.

    Raises:
        DataError: there are no raw events, or no row of the first file can be read.
    """
    path = next(path for path, size, _ in raw_files(storage, spec.raw.events.path) if size)
    table, nested = _first_rows(storage, path)
    guesses = infer(table)
    read = {column.in_files: column for column in rename(event_columns(spec), spec.raw.events.columns)}
    rows = [("column", "suggests", "missing", "read as", "examples"), *(_row(guess, read) for guess in guesses)]
    rows += [(name, "nested", "", _read_as(name, read), "") for name in nested]
    lines = [f"the first {table.num_rows:,} rows of '{path}'", "", *_aligned(rows)]
    if isinstance(spec.workload, TabularSpec):
        lines += ["", *_block(spec, spec.workload, guesses, read)]
    return "\n".join(lines)


def _first_rows(storage: Storage, path: str) -> tuple[pa.Table, list[str]]:
    """The first rows with all columns that can be told, and the names of the others: objects in JSON lines."""
    names, nested = read_header(storage, path).names, list[str]()
    check_header(names, [Column(name, "labels") for name in names], f"'{path}'")
    while True:
        read = [Column(name, "labels", required=False) for name in names if name not in nested]
        table, faults = _read(storage, path, read)
        found = {_nested_in(fault, names) for fault in faults} - {None, *nested}
        if not found:
            break
        nested += [name for name in names if name in found]
    if not table.num_rows:
        why = f": {faults[0]}" if faults else ""
        raise DataError(f"no row of raw file '{path}' can be read{why}; mend it, or take it out of the folder")
    return table, nested


def _read(storage: Storage, path: str, read: Sequence[Column]) -> tuple[pa.Table, list[str]]:
    """So many rows, and what is wrong with the lines beside them."""
    tables, faults, num_rows = list[pa.Table](), list[str](), 0
    for block in read_blocks(storage, Part(path), read):
        tables.append(block.rows.slice(0, NUM_ROWS - num_rows))
        faults += [reason for _, reason in block.unreadable]
        num_rows += tables[-1].num_rows
        if num_rows == NUM_ROWS:
            break
    return pa.concat_tables(tables) if tables else pa.table({}), faults


def _nested_in(fault: str, names: Sequence[str]) -> str | None:
    """The column that a fault calls nested."""
    found = [name for name in names if fault.startswith(f"{name} ")]
    return max(found, key=len) if found and fault.endswith(" is nested") else None


def _row(guess: Guess, read: dict[str, Column]) -> tuple[str, ...]:
    suggested: str = guess.kind
    if guess.kind in ("text", "labels"):
        suggested += f", {guess.num_distinct:,} different"
    if guess.num_other:
        suggested += f", {guess.num_other:,} are none"
    examples = ", ".join(_short(example) for example in guess.examples)
    return guess.name, suggested, f"{guess.share_missing:.1%}", _read_as(guess.name, read), examples


def _read_as(name: str, read: dict[str, Column]) -> str:
    if name not in read:
        return "-"
    column = read[name]
    return column.kind if column.name == name else f"{column.kind} {column.name}"


def _short(example: str) -> str:
    line = _on_one_line(example)
    return line if len(line) <= LONGEST_EXAMPLE else f"{line[:LONGEST_EXAMPLE]}..."


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _block(spec: RingSpec, workload: TabularSpec, guesses: Sequence[Guess], read: dict[str, Column]) -> Iterator[str]:
    """The workload's columns as the spec has them, and those besides that it could read."""
    named = {workload.label, *workload.numeric, *workload.categorical, *workload.vectors}
    made = {name for step in spec.prepare.steps for name in step.makes} | {one.output for one in spec.prepare.history}
    others = [guess for guess in guesses if guess.name not in read or read[guess.name].name not in named]
    why_not = {guess.name: _why_not(guess, read, named | made) for guess in others}
    free = [guess for guess in others if not why_not[guess.name]]
    numeric = [*workload.numeric, *(guess.name for guess in free if guess.kind == "number")]
    categorical = [*workload.categorical, *(guess.name for guess in free if guess.kind != "number")]
    present = {read[guess.name].name for guess in guesses if guess.name in read}
    yield "workload:"
    yield "  kind: tabular"
    yield f"  label: {_as_yaml(workload.label) if workload.label in present | made else '?'}"
    yield f"  numeric: {_as_yaml(numeric)}"
    yield f"  categorical: {_as_yaml(categorical)}"
    if workload.vectors:
        yield f"  vectors: {_as_yaml(list(workload.vectors))}"
    for name, why in why_not.items():
        if why:
            yield f"  # without {_as_yaml(name)}: {_on_one_line(why)}"


def _why_not(guess: Guess, read: dict[str, Column], taken: set[str]) -> str | None:
    if guess.left_out:
        return guess.left_out
    if guess.name in read:
        return f"the spec reads it already, as {_read_as(guess.name, read)}"
    if guess.name in taken:
        return "the spec has another column of that name"
    if guess.name in RESERVED or guess.name.startswith((NUMBER, CATEGORY, VECTOR)):
        return "prepare makes a column of that name; name it anew in raw.events.columns"
    return None


def _as_yaml(value: str | list[str]) -> str:
    """On one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_as_yaml, value))}]"
    return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def _on_one_line(text: str) -> str:
    return " ".join(text.split())
