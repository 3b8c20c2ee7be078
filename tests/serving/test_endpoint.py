from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from cluster.errors import StorageError
from cluster.spec import with_values
from serving.endpoint import Body, Health, as_text, deployed, endpoint

HEALTH = Health(version="v1", release="0123456789ab", created_at="2026-01-01", metrics={"accuracy": 0.5})


class Asked(Body):
    """A whole number."""

    number: int


@pytest.fixture
def application() -> FastAPI:
    application = endpoint("things", "Things.", HEALTH, max_body_bytes=1000)

    @application.post("/double")
    async def double(request: Asked) -> int:
        if request.number < 0:
            raise StorageError("the disk is full")
        return 2 * request.number

    return application


def test_health_is_told_as_it_was_given(application: FastAPI, to: Callable[..., httpx.Response]) -> None:
    expected = {**HEALTH.model_dump(), "status": "ok"}
    assert to(application, "GET", "/health").json() == expected


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"number": 4}', 200),
        (b'{"number": "4"}', 422),
        (b'{"number": 4, "more": 1}', 422),
        (b"{", 400),
        (b" " * 1001, 413),
        (b'{"number": -1}', 503),
    ],
)
def test_what_is_refused_is_a_problem(
    application: FastAPI, to: Callable[..., httpx.Response], problem_in: Any, body: bytes, status: int
) -> None:
    response = to(application, "POST", "/double", content=body, headers={"content-type": "application/json"})
    if status == 200:
        assert response.json() == 8
    else:
        problem_in(response, status)


def test_whole_numbers_are_their_digits_and_true_is_no_number() -> None:
    assert [as_text(given) for given in (15, "15", 15.0, True, 1.5, None)] == ["15", "15", "15", True, 1.5, None]


def test_serve_is_given_as_many_replicas_as_the_spec_says(published: Any) -> None:
    def config(**serving: Any) -> Any:
        spec = with_values(published.spec, {f"serving.{key}": value for key, value in serving.items()})
        return deployed(spec, FastAPI)._bound_deployment._deployment_config

    assert config(num_replicas=3).num_replicas == 3
    scaled = config(autoscale={"min_replicas": 2, "max_replicas": 5, "target_ongoing_requests": 4}).autoscaling_config
    assert (scaled.min_replicas, scaled.max_replicas, scaled.target_ongoing_requests) == (2, 5, 4)
    assert (scaled.upscale_delay_s, scaled.downscale_delay_s) == (10, 60)
