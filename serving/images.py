"""images: new images like those that a GAN was trained on.

GET  /health     which version answers, and how good it is
POST /generate   a seed and how many -> PNG files in base64; the same seed always makes the same ones
"""

import asyncio
from base64 import b64encode
from collections.abc import Sequence

from fastapi import FastAPI
from pydantic import BaseModel, Field
from ray import serve

from cluster.registry import Registry
from cluster.storage import Storage
from jobs.spec import RingSpec
from serving.ask import Question
from serving.endpoint import Body, Health, endpoint, serving_version
from serving.image_generator import ImageGenerator
from serving.replica_device import device_of_replica

MAX_SEED = 2**31 - 1
MAX_IMAGES = 64


class GenerateRequest(Body):
    """Which images."""

    seed: int = Field(ge=0, le=MAX_SEED, examples=[1])
    """The same one makes the same images."""
    num_images: int = Field(1, ge=1, le=MAX_IMAGES)
    """The first ones of a seed are the same however many are asked for."""


class Generated(BaseModel):
    """The images."""

    version: str
    images: list[str]
    """PNG files in base64."""


def web(generator: ImageGenerator, max_body_bytes: int, release: str) -> FastAPI:
    """The application over a loaded version, as plain ASGI; `release` is what its health names it."""
    health = Health(
        version=generator.version,
        release=release,
        created_at=generator.created_at,
        metrics=generator.metrics,
    )
    description = f"Images by version `{generator.version}`."
    application = endpoint(generator.spec.name, description, health, max_body_bytes)

    @application.post("/generate")
    async def generate(request: GenerateRequest) -> Generated:
        """The first images of a seed."""
        # In a thread, because a Serve replica answers its health checks on this very loop.
        files = await asyncio.to_thread(generator.images, request.seed, request.num_images)
        return Generated(version=generator.version, images=[b64encode(file).decode() for file in files])

    return application


def load(spec: RingSpec, storage: Storage, version: str, release: str) -> FastAPI:
    """The application of a version.

    Raises:
        RegistryError: it is not what was published, or answers unlike it did in training.
        ClusterError: see `device_of_replica`.
    """
    return web(
        ImageGenerator.load(Registry(storage, spec.name), version, device_of_replica(spec.serving)),
        spec.serving.max_body_bytes,
        release,
    )


def build(spec: RingSpec, storage: Storage) -> serve.Application:
    """See `serving_version`."""
    return serving_version(spec, storage, load)


def questions(spec: RingSpec, storage: Storage) -> Sequence[Question]:
    """Three that show what it can do: health, one image, and several."""
    registry = Registry(storage, spec.name)
    ImageGenerator.load(registry, registry.resolve(spec.serving.version))
    return (
        Question("health", "/health"),
        Question("one image", "/generate", {"seed": 1}),
        Question("four images", "/generate", {"seed": 2, "num_images": 4}),
    )


def golden(spec: RingSpec, storage: Storage) -> Sequence[Question]:
    """The images of the golden seed."""
    registry = Registry(storage, spec.name)
    seed, num_images = ImageGenerator.load(registry, registry.resolve(spec.serving.version)).golden
    return [Question("golden images", "/generate", {"seed": seed, "num_images": num_images})]
