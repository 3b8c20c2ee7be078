from collections.abc import Mapping
from typing import Any, Literal

import pyarrow as pa
import pytest
from pydantic import ValidationError

from jobs.features.split import TrainRows
from jobs.features.step import NOTHING, Step, put
from jobs.features.values import ColumnKind


class Double(Step):
    """A step with nothing to learn."""

    kind: Literal["double"] = "double"
    column: str
    factor: float = 2.0

    @property
    def reads(self) -> dict[str, ColumnKind]:
        return {self.column: "number"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        return {self.column: "number"}

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {self.column: row[self.column] * self.factor}


def test_a_step_is_what_it_was_built_with_and_what_it_learned() -> None:
    step = Double(column="x")
    assert step.settings() == {"kind": "double", "column": "x", "factor": 2.0}
    learned = step.with_state(pa.table({"a": [1]}))
    assert learned.state() == pa.table({"a": [1]})
    assert learned.settings() == step.settings()
    assert learned != step
    assert step.state() == NOTHING
    assert learned.with_state(pa.table({"a": [2]})).state() == pa.table({"a": [2]})


def test_a_step_that_learns_nothing_needs_no_methods_for_it() -> None:
    step = Double(column="x")
    train = TrainRows(pa.table({"x": [1.0], "split": ["train"]}))
    assert step.fitted(step.merge([step.statistics(train)])) == step
    assert (step.told(), step.leaves_out, step.keeps(train.table)) == ("", False, None)


def test_a_step_is_frozen_and_knows_its_keys() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Double(column="x").column = "y"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="colum"):
        Double.model_validate({"colum": "x"})


def test_put_replaces_a_column_in_its_place_or_appends_it() -> None:
    table = pa.table({"a": [1], "b": [2]})
    assert put(table, "a", pa.array([3])) == pa.table({"a": [3], "b": [2]})
    assert put(table, "c", pa.array([3])) == pa.table({"a": [1], "b": [2], "c": [3]})
