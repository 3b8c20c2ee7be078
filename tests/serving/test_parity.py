"""That answers which differ are told."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cluster.errors import ReleaseError
from serving.ask import Question
from serving.classifier import Classifier
from serving.parity import answer, check_parity
from serving.predict import web
from tests.serving.tables import label_log


def test_an_application_answers_in_this_process(classifier: Classifier) -> None:
    application = web(classifier, label_log(), 100_000, "")
    status, content = answer(application, Question("", "/health"))
    assert (status, content["version"]) == (200, classifier.version)
    row = {"in/come": 120.5, "age": 40, "home": "own", "shop": "3", "model_config": "x", "marks": [0.5, 1]}
    status, content = answer(application, Question("", "/predict", {"rows": [row]}))
    assert (status, len(content["predictions"])) == (200, 1)
    assert answer(application, Question("", "/predict", {"rows": []}))[0] == 422


@pytest.fixture
def stranger() -> Iterator[str]:
    """An address at which something else answers."""

    class Stranger(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            body = f'{{"version": "{self.headers["x-version"]}", "predictions": []}}'.encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_another_answer_over_http_is_refused_with_row_place_and_values(stranger: str, classifier: Classifier) -> None:
    application = web(classifier, label_log(), 100_000, "")
    row = {"in/come": 120.5, "age": 40, "home": "own", "shop": "3", "model_config": "x", "marks": [0.5, 1]}
    question = Question("golden row 4", "/predict", {"rows": [row]})
    message = rf"version {classifier.version} answers golden row 4 unlike .*: /predictions is \[\], was \[\{{'label'.*"
    with pytest.raises(ReleaseError, match=message):
        check_parity(stranger, classifier.version, application, [question])
