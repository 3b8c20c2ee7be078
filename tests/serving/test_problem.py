from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from cluster.errors import StorageError
from serving.problem import MAX_FAULTS, fault, install, problem

To = Callable[..., httpx.Response]
ProblemIn = Callable[[httpx.Response, int], dict[str, Any]]


class Body(BaseModel):
    numbers: list[int]


@pytest.fixture
def application() -> FastAPI:
    application = FastAPI()
    install(application)

    @application.get("/broken")
    async def broken() -> None:
        raise KeyError("a secret of the inside")

    @application.get("/storage")
    async def storage() -> None:
        raise StorageError("storage 's3://private-bucket' cannot be written")

    @application.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout", {"X-Spout": "yes"})

    @application.get("/rule")
    async def rule() -> None:
        raise RequestValidationError([fault(("body", "a/b~c"), "Must rhyme", "orange")])

    @application.get("/page/{number}")
    async def page(number: int, size: int = 10) -> int:
        return number * size

    @application.post("/numbers")
    async def numbers(body: Body) -> int:
        return sum(body.numbers)

    return application


def test_an_unexpected_error_is_500_without_internals(to: To, problem_in: ProblemIn, application: FastAPI) -> None:
    response = to(application, "GET", "/broken")
    problem_in(response, 500)
    assert "secret" not in response.text


def test_a_user_error_is_503_without_the_operators_message(
    to: To, problem_in: ProblemIn, application: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    response = to(application, "GET", "/storage")
    problem_in(response, 503)
    assert response.headers["retry-after"] == "1"
    assert "private-bucket" not in response.text
    assert "private-bucket" in caplog.text


def test_an_http_exception_keeps_its_detail_and_headers(to: To, problem_in: ProblemIn, application: FastAPI) -> None:
    response = to(application, "GET", "/teapot")
    assert problem_in(response, 418)["detail"] == "short and stout"
    assert response.headers["x-spout"] == "yes"


def test_a_pointer_is_escaped_after_rfc_6901(to: To, problem_in: ProblemIn, application: FastAPI) -> None:
    content = problem_in(to(application, "GET", "/rule"), 422)
    assert content["errors"] == [{"pointer": "#/a~1b~0c", "detail": 'must rhyme, got "orange"'}]


def test_faults_outside_the_body_name_their_part(to: To, problem_in: ProblemIn, application: FastAPI) -> None:
    content = problem_in(to(application, "GET", "/page/one?size=two"), 422)
    assert [each["pointer"] for each in content["errors"]] == ["path.number", "query.size"]
    assert content["detail"] == "the request breaks 2 rules"


def test_many_faults_are_counted_and_the_first_listed(to: To, problem_in: ProblemIn, application: FastAPI) -> None:
    content = problem_in(to(application, "POST", "/numbers", json={"numbers": ["x"] * 1000}), 422)
    assert content["detail"] == "the request breaks 1000 rules, the first 20 are listed"
    assert len(content["errors"]) == MAX_FAULTS


def test_a_long_value_is_quoted_in_part(to: To, problem_in: ProblemIn, application: FastAPI) -> None:
    content = problem_in(to(application, "POST", "/numbers", json={"numbers": ["x" * 10_000]}), 422)
    assert len(content["errors"][0]["detail"]) < 250


def test_broken_json_is_400_with_the_place(to: To, problem_in: ProblemIn, application: FastAPI) -> None:
    json = {"content-type": "application/json"}
    content = problem_in(to(application, "POST", "/numbers", content=b'{"numbers": [1,}', headers=json), 400)
    assert content["detail"] == "the body is no JSON: Expecting value at character 15"


def test_what_utf8_cannot_carry_is_escaped() -> None:
    assert b"\\ud800" in problem(422, "half a pair: \ud800").body
