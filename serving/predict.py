"""predict: the label of each row of a table, and how likely every label is.

GET  /health    which version answers, and how good it is
GET  /drift     how far the rows that are asked lie from those of training
POST /predict   raw rows, as prepare reads them less the label -> a label and probabilities each
"""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
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
from serving.raw_row import as_asked

MAX_ROWS = 2000
NUM_ASKED = 5
"""Rows that `questions` sends together."""


class Predicted(BaseModel):
    """An answer for each row, in their order."""

    version: str
    predictions: list[Prediction]


class Changed(BaseModel):
    """What is asked now, beside what the version was trained on."""

    version: str
    columns: list[ColumnDrift]
    """Of numbers and categories of which enough was asked, the one that changed most first."""


def web(classifier: Classifier, max_body_bytes: int, release: str) -> FastAPI:
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

    def answer(rows: list[Body]) -> list[Prediction]:
        predictions = classifier.predict(rows)
        drift.add(as_asked(row, classifier.columns) for row in rows)
        return predictions

    batcher = Batcher(answer, ROWS_AT_ONCE)

    async def predict(request: Any) -> Predicted:
        """The most likely label of each row, and the probability of every label."""
        return Predicted(version=classifier.version, predictions=await batcher.ask(request.rows))

    predict.__annotations__["request"] = asked  # a model of this version's own columns, so no name in the source
    application.post("/predict")(predict)

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
    """
    return web(Classifier.load(Registry(storage, spec.name), version), spec.serving.max_body_bytes, release)


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
