"""What an application answers in this very process, without a server."""

import asyncio

from starlette.types import ASGIApp, Message

JSON = b"application/json"


def answer_of(
    application: ASGIApp, path: str, body: bytes | None, query: bytes = b"", content_type: bytes = JSON
) -> tuple[int, bytes]:
    """The status and the body of the answer to a POST; to a GET where there is no body.

    Raises:
        Exception: what the application raises, if only after it has answered.
    """
    sent: list[Message] = []

    was_received = False

    async def receive() -> Message:
        nonlocal was_received
        if was_received:  # whoever looks whether the client has gone waits for as long as the answer takes
            await asyncio.Event().wait()
        was_received = True
        return {"type": "http.request", "body": body or b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", content_type), (b"content-length", str(len(body or b"")).encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET" if body is None else "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": ("127.0.0.1", 80),
    }
    asyncio.run(application(scope, receive, send))  # type: ignore[arg-type]
    return int(sent[0]["status"]), b"".join(
        message.get("body", b"") for message in sent if message["type"] == "http.response.body"
    )
