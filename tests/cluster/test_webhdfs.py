"""What `test_hdfs` does not show of WebHDFS: answers of servers that are broken, or none at all."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cluster.errors import StorageError
from cluster.retrying import patience
from cluster.storage import Storage
from cluster.webhdfs import open_webhdfs
from tests.hdfs import HdfsServer

STATUS = b'{"FileStatus": {"type": "FILE", "length": 10, "modificationTime": 0, "pathSuffix": ""}}'


@contextmanager
def answering(*answers: tuple[int, bytes]) -> Iterator[Storage]:
    """A server that gives these answers, one a request, and from then on the last one."""
    left = list(answers)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Storage(f"webhdfs://127.0.0.1:{server.server_address[1]}/ring")
        finally:
            server.shutdown()
            thread.join()


def test_a_uri_is_taken_apart_as_others_are() -> None:
    assert open_webhdfs("webhdfs://node:9870/my%20ring/a")[1] == "/my ring/a"
    assert open_webhdfs("webhdfs://node/a")[0].handler.fs.url == "http://node:9870/webhdfs/v1"
    for wrong, told in {"webhdfs:///a": "names no host", "webhdfs://me@node/a": "HADOOP_USER_NAME"}.items():
        with pytest.raises(StorageError, match=told):
            Storage(wrong).check_writable()


def test_a_host_that_refuses_is_told_within_seconds(pauses: list[float]) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        storage = Storage(f"webhdfs://127.0.0.1:{bound.getsockname()[1]}/ring")
        with patience(2), pytest.raises(TimeoutError, match=r"no answer, tried for \d+ s: Connection refused$"):
            storage.exists("raw")
        assert 0 < sum(pauses) <= 2


@pytest.mark.parametrize("broken", [(500, b"no page"), (200, b"01234")], ids=["a refusal", "half of it"])
def test_what_a_data_node_says_instead_of_a_files_content_is_not_taken_for_it(broken: tuple[int, bytes]) -> None:
    status = (200, STATUS)
    with answering(status, status, broken, (200, b"0123456789")) as storage:
        assert storage.read("raw/a") == b"0123456789"


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        ((400, b"<html>"), OSError, "HTTP status 400 of GET http://127.0.0.1"),
        (
            (403, b'{"RemoteException": {"exception": "AccessControlException", "message": "no\\n\\tat java"}}'),
            PermissionError,
            "^no$",
        ),
        ((403, b'{"RemoteException": {"exception": "Odd", "message": "this"}}'), OSError, "^Odd: this$"),
    ],
    ids=["no Hadoop", "denied", "another exception"],
)
def test_a_refusal_is_told_in_one_line(answer: tuple[int, bytes], kind: type[OSError], told: str) -> None:
    with answering(answer) as storage, pytest.raises(kind, match=told):
        storage.exists("raw/a")


@pytest.mark.usefixtures("pauses")
def test_a_folder_that_cannot_be_listed_to_its_end_is_an_error_and_not_a_shorter_list() -> None:
    folder = b'{"FileStatus": {"type": "DIRECTORY", "length": 0, "modificationTime": 0, "pathSuffix": ""}}'
    with answering((200, folder), (200, folder), (500, b"")) as storage, patience(1), pytest.raises(TimeoutError):
        storage.files("raw")


@pytest.mark.services
def test_a_file_of_several_pieces_is_read_back_at_any_place(hdfs: HdfsServer) -> None:
    storage = hdfs.storage("pieces", "webhdfs")
    content = bytes(range(256)) * (40 * 4096)
    storage.write("raw/large", content)
    assert storage.read("raw/large") == content
    with storage.open(storage.path("raw/large")) as file:
        assert file.read_at(1000, 20_000_000) == content[20_000_000:20_001_000]
