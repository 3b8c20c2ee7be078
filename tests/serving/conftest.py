import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pyarrow as pa
import pytest
import torch
from fastapi import FastAPI
from starlette.types import ASGIApp

from cluster.registry import Registry
from cluster.storage import Storage
from jobs.features.split import TrainRows, split_by_time
from jobs.features.transform import Transform
from jobs.spec import RingSpec
from jobs.version import write
from jobs.workloads import recommender as workload
from serving.classifier import Classifier
from serving.feedback import FeedbackLog
from serving.language_model import LanguageModel
from serving.recommendation import Recommendations
from serving.recommender import web
from serving.tagger import Tagger
from tests.serving import pictures as gan_pictures
from tests.serving import tables, tagged, texts

NUM_USERS, NUM_ITEMS, NUM_RATINGS = 30, 60, 900
GENRES = ("Comedy", "Drama", "War")
MAX_BODY_BYTES = 100_000


class Published(NamedTuple):
    """A version that was fitted on generated ratings and published for real."""

    storage: Storage
    spec: RingSpec
    version: str
    ratings: pa.Table
    """Of the training rows: user_id, item_id, rating."""


def make_spec(storage: Path, **serving: Any) -> RingSpec:
    return RingSpec.model_validate(
        {
            "name": "recommender",
            "storage": str(storage),
            "raw": {"events": {"path": "raw/ratings"}, "items": {"path": "raw/movies"}},
            "prepare": {"split": {"within": "user_id"}},
            "workload": {"kind": "recommender", "embedding_dim": 8, "num_negatives": 32},
            "train": {"early_stopping": {"metric": "ndcg_at_10"}},
            "serving": {"access": "open", **serving},
        }
    )


def make_ratings(seed: int = 0) -> pa.Table:
    """Users of an odd number like odd items, the others even ones."""
    generator = np.random.default_rng(seed)
    pairs = generator.choice(NUM_USERS * NUM_ITEMS, NUM_RATINGS, replace=False)
    users, items = pairs // NUM_ITEMS, pairs % NUM_ITEMS
    ratings = np.where(users % 2 == items % 2, 4.0, 1.5) + generator.integers(0, 3, NUM_RATINGS) / 2
    return pa.table(
        {
            "user_id": [str(user) for user in users],
            "item_id": [f"m{item}" for item in items],
            "rating": ratings,
            "timestamp": 1_600_000_000 + np.arange(NUM_RATINGS),
        }
    )


def make_items() -> pa.Table:
    return pa.table(
        {
            "item_id": [f"m{item}" for item in range(NUM_ITEMS)],
            "title": [f"Film {item}" if item % 10 else None for item in range(NUM_ITEMS)],
            "genres": [[GENRES[item % 2], "War"] if item % 7 else None for item in range(NUM_ITEMS)],
        }
    )


def fit(spec: RingSpec, transform: Transform, train: TrainRows) -> workload.Recommender:
    torch.manual_seed(0)
    model = workload.build(spec.workload, transform)
    batch = {**workload.tensors(train.table), "key": torch.arange(train.table.num_rows)}
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        inputs = {**batch, **workload.draw(spec.workload, transform, generator)}
        optimizer.zero_grad()
        workload.loss(spec.workload, model(inputs), batch).sum().backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    root = tmp_path_factory.mktemp("storage")
    spec = make_spec(root)
    rows = split_by_time(make_ratings(), spec.prepare.split, workload.time, workload.ties)
    unfitted = Transform(workload.steps(spec.workload))
    fitted = unfitted.fit([TrainRows.of(rows)])
    train = TrainRows(fitted.apply(TrainRows.of(rows).table))
    transform = fitted.with_lookups(workload.lookups(fitted, make_items(), lambda: train))
    test = transform.apply(rows.filter(pa.compute.equal(rows.column("split"), "test")))
    folder = tmp_path_factory.mktemp("version")
    write(folder, spec, transform, fit(spec, transform, train), train, test, {})
    storage = Storage(str(root))
    registry = Registry(storage, spec.name)
    version = registry.publish(folder, {"run": "generated"})
    registry.promote(version)
    return Published(storage, spec, version, train.table.select(["user_id", "item_id", "rating"]))


@pytest.fixture(scope="session")
def recommendations(published: Published) -> Recommendations:
    return Recommendations.load(Registry(published.storage, published.spec.name), published.version)


@pytest.fixture(scope="session")
def loans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, RingSpec, str]:
    """Storage, spec and name of a published tabular version."""
    return tables.publish(tmp_path_factory.mktemp("loans"), tmp_path_factory.mktemp("version"))


@pytest.fixture(scope="session")
def classifier(loans: tuple[Storage, RingSpec, str]) -> Classifier:
    storage, spec, version = loans
    return Classifier.load(Registry(storage, spec.name), version)


@pytest.fixture(scope="session")
def published_texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, RingSpec, str]:
    """Storage, spec and name of a published language model."""
    return texts.publish(tmp_path_factory.mktemp("texts"), tmp_path_factory.mktemp("version"))


@pytest.fixture(scope="session")
def language_model(published_texts: tuple[Storage, RingSpec, str]) -> LanguageModel:
    storage, spec, version = published_texts
    return LanguageModel.load(Registry(storage, spec.name), version)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> gan_pictures.Pictures:
    """A published GAN."""
    return gan_pictures.publish(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def tagged_texts(tmp_path_factory: pytest.TempPathFactory) -> tagged.TaggedTexts:
    """A published tagger."""
    return tagged.publish(tmp_path_factory.mktemp("tagged"))


@pytest.fixture(scope="session")
def tagger(tagged_texts: tagged.TaggedTexts) -> Tagger:
    return Tagger.load(Registry(tagged_texts.storage, tagged_texts.spec.name), tagged_texts.version)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "feedback-storage"))


@pytest.fixture
def application(recommendations: Recommendations, storage: Storage) -> FastAPI:
    return web(recommendations, FeedbackLog(storage, "recommender"), MAX_BODY_BYTES, "0123456789ab")


def request(application: ASGIApp, method: str, path: str, **options: Any) -> httpx.Response:
    """One request to an ASGI application; an error that it raises after answering is its own affair."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


@pytest.fixture
def to() -> Callable[..., httpx.Response]:
    """`to(application, method, path, **of httpx)`: one request without a server."""
    return request


@pytest.fixture
def send(application: FastAPI) -> Callable[..., httpx.Response]:
    """`send(method, path, **of httpx)`: one request to the recommender."""
    return lambda method, path, **options: request(application, method, path, **options)


def check_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = response.json()
    assert content["type"] == "about:blank"
    assert content["title"]
    assert content["detail"]
    assert content["status"] == status
    assert len(response.content) < 20_000
    assert "Traceback" not in response.text
    return content


@pytest.fixture
def problem_in() -> Callable[[httpx.Response, int], dict[str, Any]]:
    """`problem_in(response, status)`: the content, once it is a whole RFC 9457 problem of this status."""
    return check_problem
