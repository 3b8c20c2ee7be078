"""What a client is told when a request fails: RFC 9457 `application/problem+json`, whatever went wrong.

{"type": "about:blank", "title": "Unprocessable Entity", "status": 422, "detail": "...",
 "errors": [{"pointer": "#/k", "detail": "..."}]}
"""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cluster.errors import UserError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_FAULTS = 20
MAX_QUOTED = 80

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": f"{meaning} (RFC 9457)", "content": {MEDIA_TYPE: {"schema": SCHEMA}}}
    for status, meaning in {"4XX": "The request is at fault", "5XX": "The service is at fault"}.items()
}
"""For the OpenAPI page."""


def problem(
    status: int, detail: str, errors: Sequence[Mapping[str, str]] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """A response that tells one problem."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        content["errors"] = list(errors)
    # Escaped to ASCII: a key that a client sent may hold half a surrogate pair, which UTF-8 cannot carry.
    return Response(json.dumps(content), status, headers, MEDIA_TYPE)


def install(application: FastAPI) -> None:
    """Make `application` answer every failure with a problem."""
    application.add_exception_handler(RequestValidationError, _invalid)
    application.add_exception_handler(HTTPException, _refused)
    application.add_exception_handler(UserError, _unavailable)
    application.add_exception_handler(Exception, _unexpected)


def fault(location: Sequence[int | str], message: str, given: Any = None) -> dict[str, Any]:
    """One entry of a RequestValidationError, for a rule that a model's fields cannot state."""
    return {"type": "value_error", "loc": tuple(location), "msg": message, "input": given}


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    unparsable = next((each for each in faults if each["type"] == "json_invalid"), None)
    if unparsable:
        reason = unparsable["ctx"]["error"]
        return problem(400, f"the body is no JSON: {reason} at character {unparsable['loc'][-1]}")
    listed = [{"pointer": _pointer(each["loc"]), "detail": _explain(each)} for each in faults[:MAX_FAULTS]]
    shown = "" if len(faults) <= MAX_FAULTS else f", the first {MAX_FAULTS} are listed"
    count = "1 rule" if len(faults) == 1 else f"{len(faults)} rules"
    return problem(422, f"the request breaks {count}{shown}", listed)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code == 404 and detail == HTTPStatus.NOT_FOUND.phrase:  # no application said more
        detail = f"there is no page {_quote(request.url.path)}"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        detail = f"{_quote(request.url.path)} does not take {_quote(request.method)}, it takes {allowed}"
    elif error.status_code == 400:
        detail = "the body is no JSON in UTF-8, or is nested too deep, or holds a number of too many digits"
    return problem(error.status_code, detail, headers=error.headers)


async def _unavailable(request: Request, error: Exception) -> Response:
    # The message is written for the operator and may name storage; a client cannot act on it.
    log.error("request to %s failed: %s", request.url.path, error)
    return problem(503, "the service cannot do this now; try again later", headers={"Retry-After": "1"})


async def _unexpected(request: Request, error: Exception) -> Response:
    return problem(500, "the service failed on this request; its log says why")


def _pointer(location: Sequence[int | str]) -> str:
    """The JSON pointer, as a URI fragment, of a place in the body; the name of the part for the rest."""
    part, *path = location
    if part != "body":
        return ".".join(_shorten(str(each)) for each in location)
    escaped = (_shorten(str(each)).replace("~", "~0").replace("/", "~1") for each in path)
    return "#" + "".join(f"/{each}" for each in escaped)


def _explain(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "is no known field"
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "model_attributes_type":
        return "is no JSON object; send one, with Content-Type: application/json"
    given = error.get("input")
    message = str(error["msg"])
    message = message[:1].lower() + message[1:]
    return f"{message}, got {_quote(given)}" if isinstance(given, str | int | float) else message


def _quote(value: str | int | float) -> str:
    return _shorten(json.dumps(value))


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "..."
