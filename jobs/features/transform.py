"""Transform: fitted steps in their order and the lookup tables of a workload, as plain JSON and Arrow.

transform.json    kind and settings of each step
transform.arrow   one row; one column a step or lookup, holding its fitted table as a list of structs

Steps are fitted in as few scans of the training rows as their order allows: one that reads what another makes, or comes
after one that leaves rows out or adds some, waits until that one is fitted; all others are fitted together.
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
    def _ready(self) -> tuple[int, ...]:
        """After how many scans each step can be applied."""
        ready: list[int] = []
        writers: dict[str, int] = {}
        after = 0
        for step in self.steps:
            needed = max([after, *(writers.get(name, 0) for name in step.reads)])
            ready.append(needed + step.learns)
            writers |= dict.fromkeys(step.makes, ready[-1])
            if step.leaves_out or step.adds:
                after = ready[-1]
        return tuple(ready)

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
        found = []
        for step, ready in zip(self.steps, self._ready, strict=True):
            if ready == scan and step.learns:
                found.append(step.statistics(train))
            elif ready < scan:
                train = TrainRows(_changed(step, train.table))
        return found

    def fitted(self, scan: int, parts: Sequence[Sequence[pa.Table]]) -> "Transform":
        """With the steps of this scan fitted on all parts' statistics."""
        steps = list(self.steps)
        for number, place in enumerate(self._fitted_in(scan)):
            steps[place] = steps[place].fitted(steps[place].merge([part[number] for part in parts]))
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
            if ready == scan and step.learns
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

    def raw(self, applied: pa.Table) -> pa.Table:
        """The columns that the steps take of a row that is served, as they were before `apply`."""
        made: set[str] = set()
        columns: dict[str, pa.ChunkedArray] = {}
        for step in self.steps:
            for name in step.reads_served:
                if name not in made:
                    columns[name] = applied.column(RAW + name if RAW + name in applied.column_names else name)
            made |= set(step.makes)
        return pa.table(columns)

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
        table = self._with_raw(table)
        for step in self.steps:
            table = _changed(step, table)
        return table

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
            given = {key: value for key, value in step.settings().items() if key != "kind" and value != ""}
            settings = "  ".join(f"{key}={_plain(value)}" for key, value in given.items())
            lines += [f"{number}. {step.kind}  {settings}", *([f"     {step.told()}"] if step.told() else [])]
        return "\n".join(lines)

    def _with_raw(self, table: pa.Table) -> pa.Table:
        for name in sorted({name for step in self.steps for name in step.makes} & set(table.column_names)):
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


def _changed(step: Step, table: pa.Table) -> pa.Table:
    """The table with what a step makes, less the training rows that it leaves out, with those that it adds."""
    kept = step.keeps(table) if step.leaves_out else None
    table = step.apply(table)
    if kept is not None:
        table = table.filter(pc.or_(kept, pc.not_equal(table.column(SPLIT), "train")))
    return pa.concat_tables([table, step.added(table)]) if step.adds else table


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _as_one_row(table: pa.Table) -> pa.Array:
    structs = pa.StructArray.from_arrays(
        [table.column(name).combine_chunks() for name in table.column_names], names=table.column_names
    )
    return pa.LargeListArray.from_arrays(pa.array([0, len(structs)], pa.int64()), structs)


def _as_table(column: pa.ChunkedArray) -> pa.Table:
    structs = column.chunk(0).values
    return pa.table(structs.flatten(), names=[field.name for field in structs.type])
