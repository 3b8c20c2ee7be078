"""tagging: what each word of a text is.

GET  /health   which version answers, and how good it is
POST /tag      texts -> of each its words, a tag each, and how likely that is
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, Field, StringConstraints
from ray import serve

from cluster.registry import Registry
from cluster.storage import Storage
from jobs.spec import RingSpec
from serving.ask import Question
from serving.batcher import Batcher
from serving.endpoint import Body, Health, endpoint, serving_version
from serving.measures import Measures
from serving.replica_device import device_of_replica
from serving.tagger import TaggedWord, Tagger

MAX_TEXTS = 256


class TagRequest(Body):
    """The texts."""

    texts: list[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]] = Field(
        min_length=1, max_length=MAX_TEXTS, examples=[["the ship sailed to London"]]
    )
    """Words are what white space parts."""


class Tagged(BaseModel):
    """An answer for each text, in their order."""

    version: str
    texts: list[list[TaggedWord]]
    """Of each text its words."""


def web(tagger: Tagger, max_body_bytes: int, release: str) -> FastAPI:
    """The application over a loaded version, as plain ASGI; `release` is what its health names it."""
    health = Health(
        version=tagger.version,
        release=release,
        created_at=tagger.created_at,
        metrics=tagger.metrics,
    )
    tags = ", ".join(tagger.tags)
    description = f"Words tagged by version `{tagger.version}`: {tags}."
    application = endpoint(tagger.spec.name, description, health, max_body_bytes)

    measures = Measures(tagger.spec.name)
    batcher = Batcher(tagger.tag, MAX_TEXTS, partial(measures.batch, tagger.version))

    @application.post("/tag")
    async def tag(request: TagRequest) -> Tagged:
        """The most likely tag of each word."""
        return Tagged(version=tagger.version, texts=await batcher.ask(request.texts))

    return application


def load(spec: RingSpec, storage: Storage, version: str, release: str) -> FastAPI:
    """The application of a version.

    Raises:
        RegistryError: it is not what was published, or answers unlike it did in training.
        ClusterError: see `device_of_replica`.
    """
    return web(
        Tagger.load(Registry(storage, spec.name), version, device_of_replica(spec.serving)),
        spec.serving.max_body_bytes,
        release,
    )


def build(spec: RingSpec, storage: Storage) -> serve.Application:
    """See `serving_version`."""
    return serving_version(spec, storage, load)


def questions(spec: RingSpec, storage: Storage) -> Sequence[Question]:
    """Three that show what it can do: health, one text of the test split, and several."""
    registry = Registry(storage, spec.name)
    texts = Tagger.load(registry, registry.resolve(spec.serving.version)).examples or ["an example"]
    return (
        Question("health", "/health"),
        Question("one text", "/tag", {"texts": texts[:1]}),
        Question(f"{len(texts[:5])} texts", "/tag", {"texts": texts[:5]}),
    )


def golden(spec: RingSpec, storage: Storage) -> Sequence[Question]:
    """Each golden text by itself."""
    registry = Registry(storage, spec.name)
    texts = Tagger.load(registry, registry.resolve(spec.serving.version)).examples
    return [Question(f"golden text {number}", "/tag", {"texts": [text]}) for number, text in enumerate(texts)]
