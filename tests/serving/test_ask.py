import json
import shlex
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from cluster.errors import ClusterError
from serving.ask import Question, answers_expected, ask


class Echo(BaseHTTPRequestHandler):
    """Answers a POST with its own body, a GET with 404, and GET /broken/<status> with less than it promises."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self._answer(200, body if self.headers["content-type"] == "application/json" else b"{}")

    def do_GET(self) -> None:
        if self.path.startswith("/broken"):
            self._answer(int(self.path.rpartition("/")[2]), b"hal", length=4)
        else:
            self._answer(404, b"not here")

    def _answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_body_is_posted_as_json(address: str) -> None:
    assert ask(address, Question("", "/x", {"user_id": "é'"})) == (200, {"user_id": "é'"})


def test_a_refusal_is_an_answer_too(address: str) -> None:
    assert ask(address, Question("", "/x")) == (404, "not here")


def test_nobody_there_is_an_os_error() -> None:
    with pytest.raises(OSError, match="refused"):
        ask("http://127.0.0.1:1", Question("", "/x"))


def test_no_proxy_of_the_environment_hears_what_is_asked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request._opener", None)  # else made before, from the environment of then
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert ask(address, Question("", "/x", {})) == (200, {})


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_that_breaks_off_is_an_os_error(address: str, status: int) -> None:
    """As a replica's does that is killed while it answers."""
    with pytest.raises(ConnectionError, match=f"broken/{status} broke off: IncompleteRead"):
        ask(address, Question("", f"/broken/{status}"))


def test_where_answers_are_expected_the_lack_of_one_is_a_users_error_with_the_way_out(address: str) -> None:
    with answers_expected(address):
        ask(address, Question("", "/x"))
    message = rf"nothing answers at {address} \(.*broke off.*\); start the application first: .* try again"
    with pytest.raises(ClusterError, match=message), answers_expected(address):
        ask(address, Question("", "/broken/200"))


def test_the_curl_line_survives_a_shell() -> None:
    body = {"user_id": "it's"}
    words = shlex.split(Question("", "/recommend", body).curl("http://host"))
    assert words[:2] == ["curl", "http://host/recommend"]
    assert json.loads(words[-1]) == body
    assert Question("", "/health").curl("http://host") == "curl http://host/health"
