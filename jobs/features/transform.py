"""Transform: fitted steps in their order and the lookup tables of a workload, as plain JSON and Arrow.

transform.json    kind and settings of each step
transform.arrow   one row; one column a step or lookup, holding its fitted table as a list of structs

Steps are fitted in as few scans of the training rows as their order allows: one that reads what another makes, or comes
after one that leaves rows out or adds some, waits until that one is fitted; all others are fitted together. Steps of
one kind that leave rows out and stand side by side are fitted on the same rows.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from cluster.errors import DataError
from jobs.features.arrays import one_array
from jobs.features.split import SPLIT, TrainRows
from jobs.features.step import Step
from jobs.features.steps import step_of

RAW = "raw:"
"""Before the name of a column that a step puts another in the place of: what it was before."""
FORMAT = 3
"""Of `transform.json`; a change that old code cannot read raises it."""


@dataclass(frozen=True)
class Transform:
    """Steps by the order they apply in, and tables that serving looks things up in."""

    steps: tuple[Step, ...]
    lookups: dict[str, pa.Table] = field(default_factory=dict)

    @cached_property
    def _lengths_from(self) -> dict[int, int]:
        """The places of steps that learn nothing but a length, and of the steps that settle it once they are fitted."""
        found: dict[int, int] = {}
        makers: dict[str, int] = {}
        for place, step in enumerate(self.steps):
            maker = makers.get(step.takes_length_of or "")
            if maker is not None and type(self.steps[maker]).length is not Step.length and self.steps[maker].learns:
                found[place] = maker
            makers |= dict.fromkeys(step.makes, place)
        return found

    @cached_property
    def _ready(self) -> tuple[int, ...]:
        """After how many scans each step can be applied."""
        ready: list[int] = []
        writers: dict[str, int] = {}
        before = after = 0
        side_by_side = ""
        for place, step in enumerate(self.steps):
            if step.leaves_out and step.kind != side_by_side:
                before = after
            side_by_side = step.kind if step.leaves_out else ""
            barrier = before if step.leaves_out else after
            scans = step.learns and place not in self._lengths_from
            ready.append(max([barrier, *(writers.get(name, 0) for name in step.reads)]) + scans)
            writers |= dict.fromkeys(step.makes, ready[-1])
            if step.leaves_out or step.adds:
                after = max(after, ready[-1])
        return tuple(ready)

    def alike(self, other: "Transform") -> bool:
        """Whether the other has the same steps, and these have learned the same."""
        return len(self.steps) == len(other.steps) and all(
            step.settings() == twin.settings() and step.state().equals(twin.state())
            for step, twin in zip(self.steps, other.steps, strict=True)
        )

    @property
    def scans(self) -> list[list[Step]]:
        """The steps that each scan of the training rows fits."""
        num_scans = max(self._ready, default=0)
        return [[self.steps[place] for place in self._fitted_in(scan)] for scan in range(1, num_scans + 1)]

    def statistics(self, scan: int, train: TrainRows) -> list[pa.Table]:
        """One table a step that this scan fits, from one part of the training rows.

        Args:
            scan: from 1 on; the scans before it are done.
            train: as they were read.
        """
        found, rows = [], _Rows(train.table)
        fitted_now = set(self._fitted_in(scan))
        for place, (step, ready) in enumerate(zip(self.steps, self._ready, strict=True)):
            if place in fitted_now:
                train = train if train.table is rows.table else TrainRows(rows.table)
                found.append(step.statistics(train))
            elif ready < scan:
                rows.change(step)
        return found

    def merged(self, scan: int, parts: Sequence[Sequence[pa.Table]]) -> list[pa.Table]:
        """What several parts of the training rows say in this scan as one; in any order and grouping the same."""
        steps = [self.steps[place] for place in self._fitted_in(scan)]
        return [step.merge([part[number] for part in parts]) for number, step in enumerate(steps)]

    def fitted(self, scan: int, parts: Sequence[Sequence[pa.Table]]) -> "Transform":
        """With the steps of this scan fitted on all parts' statistics."""
        steps = list(self.steps)
        for place, statistics in zip(self._fitted_in(scan), self.merged(scan, parts), strict=True):
            steps[place] = steps[place].fitted(statistics)
        for place, maker in self._lengths_from.items():
            length = steps[maker].length if self._ready[maker] == scan else None
            if length is not None:
                steps[place] = steps[place].with_length(length)
        return Transform(tuple(steps), self.lookups)

    def fit(self, parts: Sequence[TrainRows]) -> "Transform":
        """The transform fitted on rows in memory, in any parts."""
        transform = self
        for scan in range(1, len(self.scans) + 1):
            transform = transform.fitted(scan, [transform.statistics(scan, part) for part in parts])
        return transform

    def _fitted_in(self, scan: int) -> list[int]:
        """The places of the steps that a scan fits."""
        return [
            place
            for place, (step, ready) in enumerate(zip(self.steps, self._ready, strict=True))
            if ready == scan and step.learns and place not in self._lengths_from
        ]

    def with_lookups(self, lookups: dict[str, pa.Table]) -> "Transform":
        """The same steps with these tables."""
        return Transform(self.steps, lookups)

    def step(self, output: str) -> Step:
        """The last step that makes a column."""
        return next(step for step in reversed(self.steps) if output in step.makes)

    def only(self, outputs: Iterable[str]) -> "Transform":
        """The steps that these columns need of a row that is served; those of the label are not among them."""
        needed, kept = set(outputs), list[Step]()
        for step in reversed(self.steps):
            if needed & set(step.makes):
                needed = needed - set(step.makes) | set(step.reads_served)
                kept.append(step)
        return Transform(tuple(reversed(kept)), self.lookups)

    @property
    def reads_served(self) -> tuple[str, ...]:
        """The columns that the steps take of a row that is served and do not make themselves."""
        made: set[str] = set()
        names: dict[str, None] = {}
        for step in self.steps:
            names |= dict.fromkeys(name for name in step.reads_served if name not in made)
            made |= set(step.makes)
        return tuple(names)

    def raw(self, applied: pa.Table) -> pa.Table:
        """The columns that the steps take of a row that is served, as they were before `apply`."""
        names = {name: RAW + name if RAW + name in applied.column_names else name for name in self.reads_served}
        return pa.table({name: applied.column(place) for name, place in names.items()})

    def apply(self, table: pa.Table) -> pa.Table:
        """The rows with the columns of every step. All rows stay, and what a step replaces stays as `raw:<name>`."""
        table = self._with_raw(table)
        for step in self.steps:
            table = step.apply(table)
        return table

    def prepare(self, table: pa.Table) -> pa.Table:
        """Like `apply`, less the training rows that steps leave out, with those that they add.

        `table` says in `split` which rows train.
        """
        return self.counted(table)[0]

    def counted(self, table: pa.Table) -> tuple[pa.Table, int, int]:
        """What `prepare` makes of the rows, and how many training rows steps left out and added."""
        rows = _Rows(table, self._replaced(table))
        for step in self.steps:
            rows.change(step)
        return rows.table, rows.num_left_out, rows.num_added

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """One row of plain Python values with what every step makes; equal to what `apply` makes of it."""
        made = dict(row)
        for step in self.steps:
            made |= step.apply_row(made)
        return made

    def told(self) -> str:
        """What each step does and has learned, a line each, for people."""
        lines = []
        for number, step in enumerate(self.steps, start=1):
            lines += [
                f"{number}. {step.kind}  {settings_told(step)}",
                *([f"     {step.told()}"] if step.told() else []),
            ]
        return "\n".join(lines)

    def _replaced(self, table: pa.Table) -> set[str]:
        """The columns that steps put others in the place of."""
        return {name for step in self.steps for name in step.makes} & set(table.column_names)

    def _with_raw(self, table: pa.Table) -> pa.Table:
        for name in sorted(self._replaced(table)):
            table = table.append_column(RAW + name, table.column(name))
        return table

    def save(self, folder: Path) -> None:
        """Write `transform.json` and `transform.arrow`."""
        names = {"format": FORMAT, "steps": [step.settings() for step in self.steps], "lookups": [*self.lookups]}
        (folder / "transform.json").write_text(json.dumps(names, indent=1))
        tables = {f"step:{number}": step.state() for number, step in enumerate(self.steps)}
        tables |= {f"lookup:{name}": table for name, table in self.lookups.items()}
        columns = {name: _as_one_row(table) for name, table in tables.items()}
        row = pa.table(columns)
        with pa.ipc.new_file(str(folder / "transform.arrow"), row.schema) as writer:
            writer.write_table(row)

    @classmethod
    def load(cls, folder: Path) -> "Transform":
        """The inverse of `save`."""
        names = json.loads((folder / "transform.json").read_text())
        with pa.memory_map(str(folder / "transform.arrow")) as source:
            row = pa.ipc.open_file(source).read_all()
        if names.get("format") != FORMAT:
            raise DataError(
                f"'{folder / 'transform.json'}' has format {names.get('format', 1)}, this code reads {FORMAT}; "
                "make it again with jobs.prepare and jobs.train"
            )
        steps = tuple(
            step_of(settings).with_state(_as_table(row.column(f"step:{number}")))
            for number, settings in enumerate(names["steps"])
        )
        return cls(steps, {name: _as_table(row.column(f"lookup:{name}")) for name in names["lookups"]})


class _Rows:
    """A table that steps change one after another; rows that they leave out go when the next one needs to know."""

    def __init__(self, table: pa.Table, as_read: Iterable[str] = ()) -> None:
        """`as_read` are columns that stay as `raw:<name>` once a step puts another in their place."""
        self._table = table
        self._as_read = set(as_read)
        self._kept: pa.ChunkedArray | pa.Array | None = None
        self.num_left_out = 0
        self.num_added = 0

    def change(self, step: Step) -> None:
        """Put in what the step makes, and note the training rows that it leaves out."""
        if not step.leaves_out:
            self._table = self._applied(step, self.table)
            if step.adds:
                added = step.added(self._table)
                self._table = pa.concat_tables([self._table, added])
                self.num_added += added.num_rows
            return
        kept = step.keeps(self._table)
        self._table = self._applied(step, self._table)
        if kept is not None:
            self._kept = kept if self._kept is None else pc.and_(self._kept, kept)

    def _applied(self, step: Step, table: pa.Table) -> pa.Table:
        for name in sorted(self._as_read & set(step.makes)):  # no sooner: rows that are left out go from fewer columns
            table = table.append_column(RAW + name, table.column(name))
            self._as_read.remove(name)
        return step.apply(table)

    @property
    def table(self) -> pa.Table:
        """The rows that are left."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            left = self._table.filter(pc.or_(kept, pc.not_equal(self._table.column(SPLIT), "train")))
            self.num_left_out += self._table.num_rows - left.num_rows
            self._table = left
        return self._table


def settings_told(step: Step) -> str:
    """What a step was given, in a line for people."""
    given = {key: value for key, value in step.settings().items() if key != "kind" and value not in ("", None)}
    return "  ".join(f"{key}={_plain(value)}" for key, value in given.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _as_one_row(table: pa.Table) -> pa.Array:
    structs = pa.StructArray.from_arrays(
        [one_array(table.column(name)) for name in table.column_names], names=table.column_names
    )
    return pa.LargeListArray.from_arrays(pa.array([0, len(structs)], pa.int64()), structs)


def _as_table(column: pa.ChunkedArray) -> pa.Table:
    structs = column.chunk(0).values
    return pa.table(structs.flatten(), names=[field.name for field in structs.type])
