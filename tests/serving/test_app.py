import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve

from cluster.errors import ClusterError, RegistryError, SpecError
from cluster.spec import dump
from cluster.storage import Storage
from jobs.spec import RingSpec
from jobs.workloads import WORKLOADS
from serving.app import APPLICATIONS, _ask_all, check_free, deploy, main, remove, stop_if_idle
from serving.ask import Question, ask
from tests.ports import kept_ports


@pytest.fixture
def spec_file(published: Any, tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(dump(published.spec))
    return path


def test_plan_names_version_and_address_and_connects_to_nothing(
    published: Any, spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    connected = ray.is_initialized()
    assert main([str(spec_file), "--plan", "serving.port=8765"]) == 0
    expected = f"would serve recommender champion = {published.version} with 1 replica at"
    assert capsys.readouterr().out == f"{expected} http://127.0.0.1:8765/recommender\n"
    assert ray.is_initialized() == connected


def test_an_unknown_key_is_a_spec_error(spec_file: Path) -> None:
    with pytest.raises(SpecError, match=r"unknown key 'serving.prot'. Did you mean 'port'"):
        main([str(spec_file), "serving.prot=1"])


def test_every_workload_has_an_application() -> None:
    assert set(APPLICATIONS) == set(WORKLOADS)


def test_without_a_version_nothing_is_started(spec_file: Path, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="'champion' is no version or alias of 'recommender'"):
        main([str(spec_file), f"storage={tmp_path}"])


def test_a_flipped_byte_ends_with_a_message_and_code_2(published: Any, spec_file: Path, tmp_path: Path) -> None:
    shutil.copytree(published.storage.path("models"), tmp_path / "models")
    weights = tmp_path / "models" / "recommender" / published.version / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    line = [sys.executable, "-m", "serving.app", str(spec_file), f"storage={tmp_path}", "--once"]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 2
    assert "weights.safetensors differs from its checksum" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_application_that_ends_while_it_is_asked_is_a_users_error() -> None:
    with pytest.raises(ClusterError, match=r"nothing answers at http://127\.0\.0\.1:1 .*; start the application first"):
        _ask_all("http://127.0.0.1:1", [Question("health", "/health")], {})


def test_a_taken_port_is_named_with_the_way_out() -> None:
    with socket.socket() as other:
        (port,) = kept_ports(1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(
            ClusterError, match=rf"port {port} of 127\.0\.0\.1 cannot be used.*serving\.port={port + 1}"
        ):
            check_free("127.0.0.1", port)
    check_free("127.0.0.1", port)


def test_importing_starts_and_writes_nothing(tmp_path: Path) -> None:
    code = "import serving.app, ray; raise SystemExit(ray.is_initialized())"
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, timeout=300, check=True)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def served(cluster: Any, published: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Storage]]:
    """The address of the application in the suite's cluster, and its storage."""
    root = tmp_path_factory.mktemp("served")
    shutil.copytree(published.storage.path("models"), root / "models")
    spec: RingSpec = published.spec.model_copy(
        update={"serving": published.spec.serving.model_copy(update={"port": kept_ports(1)[0]})}
    )
    storage = Storage(str(root))
    yield deploy(spec, storage), storage
    remove(spec.name)
    stop_if_idle()


def post(url: str, body: bytes) -> tuple[int, str, bytes]:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.headers["content-type"], response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], error.read()


@pytest.mark.ray
def test_the_served_version_answers_over_http(served: tuple[str, Storage], published: Any) -> None:
    address, _ = served
    status, health = ask(address, Question("", "/health"))
    assert (status, health["version"]) == (200, published.version)
    status, answer = ask(address, Question("", "/recommend", {"user_id": 5, "k": 3}))
    assert (status, len(answer["items"]), answer["cold_start"]) == (200, 3, False)
    status, document = ask(address, Question("", "/openapi.json"))
    assert (status, document["servers"]) == (200, [{"url": "/recommender"}])


@pytest.mark.ray
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b'{"user_id": "\xff"}', 400),
        (b"[" * 100_000, 400),
        (b'{"user_id": "1", "k": 0}', 422),
        (b'{"user_id": "1", "k": -1}', 422),
        (b'{"user_id": "1", "k": 1000000000}', 422),
        (b'{"user_id": "1", "k": "5"}', 422),
        (b'{"user_id": "1", "limit": 5}', 422),
        (b" " * 10_000_000, 413),
    ],
    ids=["cut off", "not UTF-8", "nested", "k of 0", "k of -1", "k of a billion", "text", "unknown field", "10 MB"],
)
def test_a_bad_request_is_a_problem_over_http(served: tuple[str, Storage], body: bytes, status: int) -> None:
    given, content_type, content = post(f"{served[0]}/recommend", body)
    assert (given, content_type) == (status, "application/problem+json")
    assert json.loads(content)["status"] == status


@pytest.mark.ray
def test_feedback_over_http_is_on_disk_with_the_202(served: tuple[str, Storage]) -> None:
    address, storage = served
    body = {"user_id": 1, "item_id": "m2", "rating": 4.5, "event_id": "e-1"}
    assert ask(address, Question("", "/feedback", body))[0] == 202
    [info] = storage.files("feedback/recommender")
    kept = json.loads(Path(str(info.path)).read_text())
    assert (kept["event_id"], kept["user_id"], kept["item_id"], kept["rating"]) == ("e-1", "1", "m2", 4.5)


@pytest.mark.ray
def test_another_port_than_serve_has_is_refused_and_the_application_goes_on(
    served: tuple[str, Storage], spec_file: Path
) -> None:
    (port,) = kept_ports(1)
    with pytest.raises(ClusterError, match=rf"serves already, but not at http://127\.0\.0\.1:{port}"):
        main([str(spec_file), "--once", f"serving.port={port}"])
    assert ask(served[0], Question("", "/health"))[0] == 200


class Broken:
    """An application whose replicas cannot start."""

    def build(self, spec: RingSpec, storage: Storage, /) -> Any:
        def application() -> None:
            raise ValueError("broken inside")

        return serve.deployment(serve.ingress(application)()).bind()

    def questions(self, spec: RingSpec, storage: Storage, /) -> tuple[Question, ...]:
        return ()


@pytest.mark.ray
def test_replicas_that_cannot_start_are_an_error_that_says_why(
    served: tuple[str, Storage], published: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(APPLICATIONS, "recommender", Broken())
    shutil.copytree(served[1].path("models/recommender"), served[1].path("models/broken"))
    port = int(served[0].split(":")[2].split("/")[0])
    serving = published.spec.serving.model_copy(update={"port": port})
    spec = published.spec.model_copy(update={"serving": serving, "name": "broken"})
    with pytest.raises(ClusterError, match=r"(?s)application 'broken' did not start: ValueError: broken inside"):
        deploy(spec, served[1])
    assert "broken" not in serve.status().applications
    assert ask(served[0], Question("", "/health"))[0] == 200


@pytest.mark.ray
def test_removing_takes_the_application_away(served: tuple[str, Storage]) -> None:
    remove("recommender")
    assert "recommender" not in serve.status().applications
    remove("recommender")


@pytest.mark.ray
def test_once_asks_three_questions_and_leaves_nothing(
    cluster: Any, spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_if_idle()
    (port,) = kept_ports(1)
    assert main([str(spec_file), "--once", f"serving.port={port}"]) == 0
    printed = capsys.readouterr().out
    assert f"curl http://127.0.0.1:{port}/recommender/recommend" in printed
    assert printed.count(": 200\n") == 3
    assert '"cold_start": true' in printed
    assert "recommender" not in serve.status().applications
