import base64
import io
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from cluster.registry import Registry
from jobs.workloads.gan import NUM_GOLDEN_IMAGES
from serving.image_generator import ImageGenerator
from serving.images import MAX_IMAGES, build, golden, questions, web
from tests.serving.pictures import Pictures

Send = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def generator(pictures: Pictures) -> ImageGenerator:
    return ImageGenerator.load(Registry(pictures.storage, "gan"), pictures.version)


@pytest.fixture
def ask(generator: ImageGenerator, to: Send) -> Send:
    application = web(generator, 10_000, "0123456789ab")
    return lambda method, path, **options: to(application, method, path, **options)


def test_health_names_the_version_and_its_test_metrics(ask: Send, pictures: Pictures) -> None:
    answer = ask("GET", "/health").json()
    assert (answer["version"], answer["release"]) == (pictures.version, "0123456789ab")
    assert set(answer["metrics"]) == {"nn_accuracy", "mmd"}


def test_the_images_are_png_files_of_what_the_model_makes(ask: Send, generator: ImageGenerator) -> None:
    answer = ask("POST", "/generate", json={"seed": 5, "num_images": 3})
    assert answer.status_code == 200
    files = [Image.open(io.BytesIO(base64.b64decode(image))) for image in answer.json()["images"]]
    assert [(file.format, file.size, file.mode) for file in files] == [("PNG", (8, 8), "L")] * 3
    levels = np.stack([np.asarray(file).reshape(-1) for file in files])
    assert np.abs(levels / 255 - generator.pixels(5, 3).numpy()).max() < 0.5 / 255 + 1e-6


def test_a_seed_makes_the_same_images_however_many_are_asked_for(ask: Send) -> None:
    one, many, other = (
        ask("POST", "/generate", json=asked).json()["images"]
        for asked in ({"seed": 5}, {"seed": 5, "num_images": MAX_IMAGES}, {"seed": 6})
    )
    assert len(many) == MAX_IMAGES
    assert one == many[:1]
    assert other != one


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({}, "#/seed"),
        ({"seed": -1}, "#/seed"),
        ({"seed": "1"}, "#/seed"),
        ({"seed": 2**31}, "#/seed"),
        ({"seed": 1, "num_images": 0}, "#/num_images"),
        ({"seed": 1, "num_images": MAX_IMAGES + 1}, "#/num_images"),
        ({"seed": 1, "size": 512}, "#/size"),
    ],
)
def test_what_cannot_be_made_is_a_problem_that_points_at_it(
    asked: dict[str, Any], pointer: str, ask: Send, problem_in: Callable[[httpx.Response, int], dict[str, Any]]
) -> None:
    content = problem_in(ask("POST", "/generate", json=asked), 422)
    assert [error["pointer"] for error in content["errors"]] == [pointer]


def test_the_questions_are_answered(pictures: Pictures, ask: Send) -> None:
    health, *others = questions(pictures.spec, pictures.storage)
    assert ask("GET", health.path).status_code == 200
    assert [len(ask("POST", other.path, json=other.body).json()["images"]) for other in others] == [1, 4]
    (asked,) = golden(pictures.spec, pictures.storage)
    assert len(ask("POST", asked.path, json=asked.body).json()["images"]) == NUM_GOLDEN_IMAGES
    assert build(pictures.spec, pictures.storage) is not None
