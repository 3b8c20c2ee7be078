from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.in_process import answer_of


async def told(request: Request) -> Response:
    headers = request.headers
    content = [request.method, request.url.query, headers["content-type"], (await request.body()).decode()]
    return JSONResponse(content, 201)


APPLICATION = Starlette(routes=[Route("/told", told, methods=["GET", "POST"])])


def test_it_is_asked_as_over_http() -> None:
    assert answer_of(APPLICATION, "/told", b"body", b"a=1", b"text/plain") == (
        201,
        b'["POST","a=1","text/plain","body"]',
    )
    assert answer_of(APPLICATION, "/told", None) == (201, b'["GET","","application/json",""]')
    assert answer_of(APPLICATION, "/other", None)[0] == 404
