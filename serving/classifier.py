"""Classifier: a loaded version of a workload that names a row's class, ready to answer raw rows."""

from base64 import b64encode
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from cluster.errors import RegistryError
from jobs.features.columns import Column
from jobs.spec import event_columns
from jobs.version import Version
from jobs.workloads import WORKLOADS, classification
from serving.endpoint import Body
from serving.problem import fault
from serving.published import TOLERANCE, Published
from serving.raw_row import plain_row, row_model, typed_rows

FEW_ROWS = 64
"""From more on, transforming a table is faster than transforming rows one by one."""
WAY_OUT = "Serve another version, or train this one again with the code that runs here."


class Prediction(BaseModel):
    """What the model says of one row."""

    label: str
    """The most likely one."""
    probabilities: dict[str, float]
    """Of every label, the most frequent one in training first."""


class Classifier(Published):
    """Answers of one version."""

    def __init__(self, version: str, created_at: str, content: Version) -> None:
        super().__init__(version, created_at, content)
        self._workload = WORKLOADS[content.spec.workload.kind]
        steps = self._workload.steps(content.spec.workload)
        self._outputs = [name for step in steps for name in step.makes if name != classification.CLASS]
        self._transform = content.transform.only(self._outputs)
        asked = {column.name: column for column in event_columns(content.spec)}
        self.columns: tuple[Column, ...] = tuple(asked[name] for name in self._transform.reads_served)
        self.labels = classification.labels(content.transform)

    @cached_property
    def row(self) -> type[Body]:
        """What a row of a request must be."""
        return row_model(self.columns)

    @property
    def examples(self) -> list[dict[str, Any]]:
        """The golden rows, as a request could name them."""
        rows = self._content.golden.select([column.name for column in self.columns]).to_pylist()
        return [{name: _as_json(value) for name, value in row.items()} for row in rows]

    def predict(self, rows: Sequence[Body]) -> list[Prediction]:
        """What the model says of each row.

        Raises:
            RequestValidationError: a value breaks a rule, or is so large that the model's numbers overflow.
        """
        made = self._made(rows)
        no_class = pa.array([0] * made.num_rows, pa.int64())
        with torch.inference_mode():
            batch = self._workload.tensors(made.append_column(classification.CLASS, no_class))
            given = classification.probabilities(self._content.model, batch)
        if not given.isfinite().all():
            row = int((~given.isfinite()).any(1).nonzero()[0])
            rule = "the model has no answer to this row: its values lie too far from those of training"
            raise RequestValidationError([fault(("body", "rows", row), rule)])
        return [
            Prediction(label=self.labels[best], probabilities=dict(zip(self.labels, shares, strict=True)))
            for best, shares in zip(given.argmax(1).tolist(), given.tolist(), strict=True)
        ]

    def _made(self, rows: Sequence[Body]) -> pa.Table:
        """What the steps make of the rows: of a few one by one, which costs microseconds each, of many together."""
        if len(rows) > FEW_ROWS:
            return self._transform.apply(typed_rows(rows, self.columns)).select(self._outputs)
        plain = [found for row in rows if (found := plain_row(row, self.columns)) is not None]
        typed = plain if len(plain) == len(rows) else typed_rows(rows, self.columns).to_pylist()
        made = [self._transform.apply_row(row) for row in typed]
        return pa.table({name: [row[name] for row in made] for name in self._outputs}, schema=self._made_schema)

    @cached_property
    def _made_schema(self) -> pa.Schema:
        """The types of what the steps make, as a batch of golden rows has them."""
        rows = [self.row.model_validate(row) for row in self.examples]
        return self._transform.apply(typed_rows(rows, self.columns)).select(self._outputs).schema

    def check_golden(self) -> None:
        """Raise RegistryError unless each golden row, alone and among the others, is answered as in training."""
        try:
            rows = [self.row.model_validate(row) for row in self.examples]
            together, alone = self.predict(rows), [self.predict([row])[0] for row in rows]
        except (ValidationError, RequestValidationError) as error:
            first = error.errors()[0]
            place = " ".join(map(str, first["loc"]))
            raise RegistryError(
                f"version {self.version} refuses its own golden rows: {place} {first['msg']}. {WAY_OUT}"
            ) from None
        expected = self._content.golden.column(classification.PROBABILITIES).to_pylist()
        for given in (together, alone):
            for number, (prediction, shares) in enumerate(zip(given, expected, strict=True)):
                self._compare(number, prediction, dict(zip(self.labels, shares, strict=True)))

    def _compare(self, row: int, given: Prediction, expected: dict[str, float]) -> None:
        for label, share in expected.items():
            if not abs(given.probabilities[label] - share) <= TOLERANCE:  # so that NaN is refused, too
                raise RegistryError(
                    f"version {self.version} answers golden row {row} unlike it did in training: the probability of "
                    f"'{label}' is {given.probabilities[label]:.6g}, was {share:.6g}, and may differ by {TOLERANCE:g}. "
                    f"{WAY_OUT}"
                )


def _as_json(value: Any) -> Any:
    """A value of a file as a request names it: bytes, of an image, in base64."""
    return b64encode(value).decode() if isinstance(value, bytes) else value
