"""Transform: the fitted steps of a workload and its lookup tables, as plain JSON and Arrow.

transform.json    kind and settings of each step
transform.arrow   one row; one column a step or lookup, holding its fitted table as a list of structs
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import pyarrow as pa
import pyarrow.ipc

from jobs.features.scaling import Scaling
from jobs.features.split import TrainRows
from jobs.features.vocabulary import Vocabulary


class Step(Protocol):
    """One fitted column: the same object applies to a table and to one row."""

    kind: ClassVar[str]

    @property
    def output(self) -> str:
        """The column that it adds."""

    def statistics(self, train: TrainRows) -> pa.Table:
        """What one part of the training rows says; parts are seen on different machines."""

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """Several parts' statistics as one; in any order and grouping the same."""

    def fitted(self, statistics: pa.Table) -> Self:
        """The step that these statistics make."""

    def apply(self, table: pa.Table) -> pa.Table:
        """The table with `output` appended."""

    def apply_row(self, row: Mapping[str, Any]) -> Any:
        """The `output` of one row."""

    def settings(self) -> dict[str, Any]:
        """JSON data to build the unfitted step with."""

    def state(self) -> pa.Table:
        """What was fitted."""

    def with_state(self, state: pa.Table) -> Self:
        """The step with what was fitted before."""


STEPS: dict[str, Callable[..., Step]] = {Vocabulary.kind: Vocabulary, Scaling.kind: Scaling}


@dataclass(frozen=True)
class Transform:
    """Fitted steps by the order they apply in, and tables that serving looks things up in."""

    steps: tuple[Step, ...]
    lookups: dict[str, pa.Table] = field(default_factory=dict)

    def statistics(self, train: TrainRows) -> list[pa.Table]:
        """One table a step, from one part of the training rows."""
        return [step.statistics(train) for step in self.steps]

    def fitted(self, parts: Sequence[Sequence[pa.Table]]) -> "Transform":
        """The transform of all parts' statistics."""
        merged = [step.merge([part[i] for part in parts]) for i, step in enumerate(self.steps)]
        steps = tuple(step.fitted(statistics) for step, statistics in zip(self.steps, merged, strict=True))
        return Transform(steps, self.lookups)

    def with_lookups(self, lookups: dict[str, pa.Table]) -> "Transform":
        """The same steps with these tables."""
        return Transform(self.steps, lookups)

    def step(self, output: str) -> Step:
        """The step that makes a column."""
        return next(step for step in self.steps if step.output == output)

    def apply(self, table: pa.Table) -> pa.Table:
        """Append the column of every step."""
        for step in self.steps:
            table = step.apply(table)
        return table

    def save(self, folder: Path) -> None:
        """Write `transform.json` and `transform.arrow`."""
        steps = [{"kind": step.kind, "settings": step.settings()} for step in self.steps]
        (folder / "transform.json").write_text(json.dumps({"steps": steps, "lookups": [*self.lookups]}, indent=1))
        tables = {f"step:{step.output}": step.state() for step in self.steps}
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
        unfitted = [STEPS[step["kind"]](**step["settings"]) for step in names["steps"]]
        steps = tuple(step.with_state(_as_table(row.column(f"step:{step.output}"))) for step in unfitted)
        return cls(steps, {name: _as_table(row.column(f"lookup:{name}")) for name in names["lookups"]})


def _as_one_row(table: pa.Table) -> pa.Array:
    structs = pa.StructArray.from_arrays(
        [table.column(name).combine_chunks() for name in table.column_names], names=table.column_names
    )
    return pa.LargeListArray.from_arrays(pa.array([0, len(structs)], pa.int64()), structs)


def _as_table(column: pa.ChunkedArray) -> pa.Table:
    structs = column.chunk(0).values
    return pa.table(structs.flatten(), names=[field.name for field in structs.type])
