"""Step: one change of the rows, fitted on the training rows; what every step shares."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
import pyarrow as pa
from pydantic import PrivateAttr

from cluster.spec import Spec
from jobs.features.split import TrainRows
from jobs.features.values import ColumnKind

NOTHING = pa.table({})


class Step(Spec):
    """A step as the spec gives it, and, once `fitted`, what it learned: the same object applies to a table and to one
    row.

    A number that it reads is finite or missing (null, None); text is not empty. A step of its own says in its fields
    what a user may choose, and overrides `reads`, `makes`, `apply` and `apply_row`; one that learns also `statistics`,
    `merge`, `fitted` and `told`.
    """

    kind: str
    _state: pa.Table = PrivateAttr(default_factory=lambda: NOTHING)

    @property
    def learns(self) -> bool:
        """Whether it is fitted; a step that is not never costs a scan."""
        return True

    @property
    def leaves_out(self) -> bool:
        """Whether `keeps` may leave out training rows."""
        return False

    @property
    def adds(self) -> bool:
        """Whether `added` may add training rows."""
        return False

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The columns that it takes, and of what kind each must be."""
        raise NotImplementedError

    @property
    def reads_served(self) -> dict[str, ColumnKind]:
        """Those of them that `apply` and `apply_row` take of a row that is served; a target is not among them."""
        return self.reads

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The columns that it adds, or puts in the place of those of the same name."""
        raise NotImplementedError

    @property
    def length(self) -> int | None:
        """Of a fitted step that makes lists which all have so many entries; None of any other step."""
        return None

    @property
    def takes_length_of(self) -> str | None:
        """The column whose lists' length is all that the step learns, where that is so."""
        return None

    def with_length(self, length: int) -> Self:
        """The step fitted on lists of this length; asked only where `takes_length_of` names a column."""
        raise NotImplementedError

    def statistics(self, train: TrainRows) -> pa.Table:
        """What one part of the training rows says; parts are seen on different machines."""
        return NOTHING

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """Several parts' statistics as one; in any order and grouping the same. At least one part."""
        return NOTHING

    def fitted(self, statistics: pa.Table) -> Self:
        """The step that these statistics make.

        Raises:
            DataError: they do not suffice, for example because all values are missing.
        """
        return self

    def keeps(self, table: pa.Table) -> pa.Array | None:
        """Which rows stay in training [rows], bool without nulls, of the table before `apply`; None where all do.

        Rows of other splits and rows that are served are never left out. Asked only where `leaves_out`.
        """
        return None

    def added(self, table: pa.Table) -> pa.Table:
        """New training rows with the columns of the table after `apply`, made from its training rows one by one.

        A row that is served adds none. Asked only where `adds`.
        """
        return table.slice(0, 0)

    def apply(self, table: pa.Table) -> pa.Table:
        """The table with the columns of `makes`; as many rows as before, in their order."""
        raise NotImplementedError

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of `makes` of one row of plain Python values; equal to what `apply` makes of it."""
        raise NotImplementedError

    def told(self) -> str:
        """What was learned, in a line for people; empty where nothing was."""
        return ""

    def settings(self) -> dict[str, Any]:
        """JSON data to build the unfitted step with."""
        content: dict[str, Any] = json.loads(self.model_dump_json())
        return content

    def state(self) -> pa.Table:
        """What was fitted, for `with_state`."""
        return self._state

    def with_state(self, state: pa.Table) -> Self:
        """The step with what was fitted before; `state` is kept by columns alone, without metadata."""
        step = cast(Self, type(self).model_construct(**dict(self)))
        step._state = state.combine_chunks()
        return step


def put(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The table with `values` as its column `name`, in the place of one of that name where there is one."""
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def put_lists(table: pa.Table, name: str, values: Sequence[Sequence[int]]) -> pa.Table:
    """The table with lists of whole numbers as its column `name`, in int32."""
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in values], dtype=np.int64)])
    flat = pa.array([number for each in values for number in each], pa.int32())
    return put(table, name, pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat))
