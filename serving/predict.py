"""predict: the label of each row of a table, and how likely every label is.

GET  /health    which version answers, and how good it is
GET  /drift     how far the rows that are asked lie from those of training
POST /predict   raw rows, as prepare reads them less the label -> a label and probabilities each
POST /feedback  the right label of a row of an earlier answer, durable before the answer
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, create_model
from ray import serve

from cluster.registry import Registry
from cluster.storage import Storage
from jobs.spec import RingSpec
from jobs.workloads.classification import ROWS_AT_ONCE
from serving.ask import Question
from serving.batcher import Batcher
from serving.classifier import Classifier, Prediction
from serving.drift import ColumnDrift, LiveDrift
from serving.endpoint import Body, Health, endpoint, serving_version
from serving.feedback import FeedbackLog, Label
from serving.line_files import now
from serving.measures import Measures
from serving.problem import fault
from serving.raw_row import as_asked
from serving.replica_device import device_of_replica

MAX_ROWS = 2000
DRIFT_EVERY_S = 30.0
"""Prometheus is told of drift as often."""
NUM_ASKED = 5
"""Rows that `questions` sends together."""


class Predicted(BaseModel):
    """An answer for each row, in their order."""

    version: str
    predictions: list[Prediction]


class FeedbackRequest(Body):
    """The right answer to a row, which became known later."""

    prediction_id: str = Field(min_length=1, max_length=64)
    """Of the header `X-Prediction` of the answer."""
    row: int = Field(0, ge=0, lt=MAX_ROWS)
    """Which one of the request."""
    label: str
    """One of those that the version knows."""
    event_id: str | None = Field(None, min_length=1, max_length=256)
    """Sending the same id again does not count twice; made up where it is absent."""


class Accepted(BaseModel):
    """The label is durable."""

    event_id: str


class Changed(BaseModel):
    """What is asked now, beside what the version was trained on."""

    version: str
    columns: list[ColumnDrift]
    """Of numbers and categories of which enough was asked, the one that changed most first."""


def web(classifier: Classifier, feedback: FeedbackLog, max_body_bytes: int, release: str) -> FastAPI:
    """The application over a loaded version, as plain ASGI; `release` is what its health names it."""
    health = Health(
        version=classifier.version,
        release=release,
        created_at=classifier.created_at,
        metrics=classifier.metrics,
    )
    description = f"Predictions by version `{classifier.version}`."
    application = endpoint(classifier.spec.name, description, health, max_body_bytes)
    asked, drift = _request_model(classifier), LiveDrift(classifier.profile, classifier.columns)
    measures, told_at = Measures(classifier.spec.name), time.monotonic()

    def answer(rows: list[Body]) -> list[Prediction]:
        predictions = classifier.predict(rows)
        drift.add(as_asked(row, classifier.columns) for row in rows)
        nonlocal told_at
        if time.monotonic() - told_at > DRIFT_EVERY_S:
            told_at = time.monotonic()
            measures.drift(classifier.version, {one.column: one.index for one in drift.told()})
        return predictions

    batcher = Batcher(answer, ROWS_AT_ONCE, partial(measures.batch, classifier.version))

    async def predict(request: Any) -> Predicted:
        """The most likely label of each row, and the probability of every label."""
        return Predicted(version=classifier.version, predictions=await batcher.ask(request.rows))

    predict.__annotations__["request"] = asked  # a model of this version's own columns, so no name in the source
    application.post("/predict")(predict)

    @application.post("/feedback", status_code=202)
    async def accept(request: FeedbackRequest) -> Accepted:
        """Keep the right label of a row; answered once it is durable."""
        if request.label not in classifier.labels:
            rule = f"Label must be one of {', '.join(classifier.labels)}"
            raise RequestValidationError([fault(("body", "label"), rule, request.label)])
        event_id = request.event_id or uuid4().hex
        received_at = now().isoformat(timespec="microseconds")
        await feedback.append(Label(event_id, request.prediction_id, request.row, request.label, received_at))
        return Accepted(event_id=event_id)

    @application.get("/drift")
    async def changed() -> Changed:
        """How far the last rows that this replica was asked lie from those of training, column by column."""
        return Changed(version=classifier.version, columns=drift.told())

    return application


def _request_model(classifier: Classifier) -> type[Body]:
    rows: Any = list[classifier.row]  # type: ignore[name-defined]
    return create_model(
        "PredictRequest",
        __base__=Body,
        __doc__="Raw rows, each by the names of its columns.",
        rows=(rows, Field(min_length=1, max_length=MAX_ROWS, examples=[classifier.examples[:1]])),
    )


def load(spec: RingSpec, storage: Storage, version: str, release: str) -> FastAPI:
    """The application of a version.

    Raises:
        RegistryError: it is not what was published, or answers unlike it did in training.
        ClusterError: see `device_of_replica`.
    """
    classifier = Classifier.load(Registry(storage, spec.name), version, device_of_replica(spec.serving))
    return web(classifier, FeedbackLog(storage, spec.name, folder="labels"), spec.serving.max_body_bytes, release)


def build(spec: RingSpec, storage: Storage) -> serve.Application:
    """See `serving_version`."""
    return serving_version(spec, storage, load)


def questions(spec: RingSpec, storage: Storage) -> Sequence[Question]:
    """Three that show what it can do: health, one row of the test split, and several."""
    registry = Registry(storage, spec.name)
    rows = Classifier.load(registry, registry.resolve(spec.serving.version)).examples
    return (
        Question("health", "/health"),
        Question("one row", "/predict", {"rows": rows[:1]}),
        Question(f"{len(rows[:NUM_ASKED])} rows", "/predict", {"rows": rows[:NUM_ASKED]}),
    )


def golden(spec: RingSpec, storage: Storage) -> Sequence[Question]:
    """Each golden row by itself, and all together."""
    registry = Registry(storage, spec.name)
    rows = Classifier.load(registry, registry.resolve(spec.serving.version)).examples
    alone = (Question(f"golden row {number}", "/predict", {"rows": [row]}) for number, row in enumerate(rows))
    return (*alone, Question("all golden rows", "/predict", {"rows": rows}))
