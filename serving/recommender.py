"""recommender: the items that a user wants next, each with a reason, and what users say about them.

GET  /health      which version answers, and how good it is
POST /recommend   a user -> items; an unknown user gets a flagged cold start
POST /feedback    a rating, durable before the answer
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated
from uuid import uuid4

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints
from ray import serve

from cluster.registry import Registry
from cluster.storage import Storage
from jobs.spec import RingSpec
from jobs.workloads.ranker import Query
from jobs.workloads.ranking import K
from serving.ask import Question
from serving.batcher import Batcher
from serving.endpoint import Body, Health, as_text, endpoint, serving_version
from serving.feedback import Event, FeedbackLog
from serving.line_files import now
from serving.measures import Measures
from serving.problem import fault
from serving.recommendation import Item, Recommendations
from serving.replica_device import device_of_replica

MAX_ITEMS = 100
MAX_EXCLUDED = 1000
LAST_SECOND = 253_402_300_799  # of the year 9999; milliseconds given for seconds are beyond it

Id = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=256),
    BeforeValidator(as_text, json_schema_input_type=str | int),
]


class RecommendRequest(Body):
    """Whom to recommend to, how much, and what to leave out."""

    user_id: Id
    k: int = Field(10, ge=1, le=MAX_ITEMS)
    """How many items."""
    exclude: list[Id] = Field([], max_length=MAX_EXCLUDED)
    """Ids of items to leave out, besides those that the user rated before training."""


class Recommended(BaseModel):
    """The items for a user, best first; fewer than asked where the catalogue ends."""

    user_id: str
    version: str
    cold_start: bool
    """Whether the user was unknown in training, so that these are what all users want."""
    items: list[Item]


class FeedbackRequest(Body):
    """A rating that a user gave an item."""

    user_id: Id
    item_id: Id
    rating: float = Field(allow_inf_nan=False)
    """Within the bounds that the version was trained with."""
    event_id: Id | None = None
    """Sending the same id again does not count twice; made up where it is absent."""
    timestamp: int | None = Field(None, ge=0, le=LAST_SECOND)
    """When, in seconds since 1970; now where it is absent."""
    prediction_id: str = Field("", max_length=64)
    """Of the header `X-Prediction` of the answer that the item was in."""


class Accepted(BaseModel):
    """The event is durable."""

    event_id: str
    timestamp: int


def web(recommendations: Recommendations, feedback: FeedbackLog, max_body_bytes: int, release: str) -> FastAPI:
    """The application over a loaded version, as plain ASGI; `release` is what its health names it."""
    health = Health(
        version=recommendations.version,
        release=release,
        created_at=recommendations.created_at,
        metrics=recommendations.metrics,
    )
    description = f"Recommendations by version `{recommendations.version}`."
    application = endpoint(recommendations.spec.name, description, health, max_body_bytes)
    measures = Measures(recommendations.spec.name)
    note = partial(measures.batch, recommendations.version)
    batcher = Batcher(recommendations.top, recommendations.most_at_once, note)

    @application.post("/recommend")
    async def recommend(request: RecommendRequest) -> Recommended:
        """The best items for a user that it has not rated yet."""
        [items] = await batcher.ask([Query(request.user_id, request.k, request.exclude)])
        return Recommended(
            user_id=request.user_id,
            version=recommendations.version,
            cold_start=not recommendations.knows(request.user_id),
            items=items,
        )

    @application.post("/feedback", status_code=202)
    async def accept(request: FeedbackRequest) -> Accepted:
        """Keep a rating; answered once it is durable."""
        low, high = recommendations.workload.min_rating, recommendations.workload.max_rating
        if not low <= request.rating <= high:
            rule = f"Rating must be from {low:g} to {high:g}"
            raise RequestValidationError([fault(("body", "rating"), rule, request.rating)])
        received = now()
        event = Event(
            event_id=request.event_id or uuid4().hex,
            user_id=request.user_id,
            item_id=request.item_id,
            rating=request.rating,
            timestamp=int(received.timestamp()) if request.timestamp is None else request.timestamp,
            received_at=received.isoformat(timespec="microseconds"),
            version=recommendations.version,
            prediction_id=request.prediction_id,
        )
        await feedback.append(event)
        return Accepted(event_id=event.event_id, timestamp=event.timestamp)

    return application


def load(spec: RingSpec, storage: Storage, version: str, release: str) -> FastAPI:
    """The application of a version.

    Raises:
        RegistryError: it is not what was published, or answers unlike it did in training.
        ClusterError: see `device_of_replica`.
    """
    recommendations = Recommendations.load(Registry(storage, spec.name), version, device_of_replica(spec.serving))
    return web(recommendations, FeedbackLog(storage, spec.name), spec.serving.max_body_bytes, release)


def build(spec: RingSpec, storage: Storage) -> serve.Application:
    """See `serving_version`."""
    return serving_version(spec, storage, load)


def questions(spec: RingSpec, storage: Storage) -> Sequence[Question]:
    """Three that show what it can do: health, a user of the training rows, and a stranger."""
    registry = Registry(storage, spec.name)
    known = Recommendations.load(registry, registry.resolve(spec.serving.version)).most_active_user()
    return (
        Question("health", "/health"),
        Question(f"user {known}", "/recommend", {"user_id": known, "k": 5}),
        Question("a user never seen", "/recommend", {"user_id": "a stranger", "k": 5}),
    )


def golden(spec: RingSpec, storage: Storage) -> Sequence[Question]:
    """Each golden user by itself, a stranger among them."""
    registry = Registry(storage, spec.name)
    users = Recommendations.load(registry, registry.resolve(spec.serving.version)).golden_users
    return [
        Question(f"golden user {number}", "/recommend", {"user_id": user, "k": K}) for number, user in enumerate(users)
    ]
