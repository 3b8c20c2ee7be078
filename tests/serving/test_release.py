"""Shares of a running application, over real HTTP and with requests all the while, of which none may fail."""

import asyncio
import http.client
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cluster.errors import ClusterError, RegistryError, ReleaseError, SpecError
from cluster.processes import command
from cluster.processes import running as processes
from cluster.registry import CHAMPION, Registry
from cluster.spec import dump, load
from cluster.storage import MANIFEST, Storage
from serving.app import deploy, remove, stop_if_idle
from serving.ask import Question, ask
from serving.classifier import Classifier
from serving.feedback import Event, FeedbackLog, labels_of
from serving.release import (
    ReleaseSpec,
    application_of,
    apply,
    main,
    main_versions,
    plan,
    promote,
    rollback,
    status,
    wanted,
)
from serving.shares import Shares
from serving.watching import PANELS, discovery_file, prometheus, write
from tests.ports import kept_ports
from tests.serving.metrics_ports import samples, total

ROW = {"in/come": 120.5, "age": 40, "home": "own", "shop": "3", "model_config": "x", "marks": [0.5, 1]}


@dataclass
class Running:
    """An application with two replicas, and versions that it may be given."""

    address: str
    storage: Storage
    file: Path
    registry: Registry
    old: str
    new: str
    answers: list[tuple[int, str]] = field(default_factory=list)
    """Status and version of every request that was made meanwhile."""
    may_fail: bool = False
    """Whether some of them may get no answer: the test kills who answers."""

    def release(self, **changed: Any) -> ReleaseSpec:
        return load(ReleaseSpec, self.file, [f"{key}={json.dumps(value)}" for key, value in changed.items()])

    def shared(self, new: float, **changed: Any) -> ReleaseSpec:
        versions = [{"version": "old", "share": 1 - new}, {"version": "new", "share": new}]
        return self.release(versions=versions, **changed)

    def ask(self, unit: str) -> tuple[int, str]:
        headers = {"Content-Type": "application/json", "X-Unit": unit}
        asked = urllib.request.Request(f"{self.address}/predict", json.dumps({"rows": [ROW]}).encode(), headers)
        try:
            with urllib.request.urlopen(asked, timeout=120) as response:
                assert json.loads(response.read())["version"] == response.headers["x-version"]
                assert len(response.headers.get_all("x-request-id")) == 1
                return response.status, response.headers["x-version"]
        except urllib.error.HTTPError as error:
            return error.code, ""
        except (OSError, http.client.HTTPException):  # the connection was cut
            return 0, ""

    def versions_of(self, units: list[str]) -> dict[str, str]:
        return {unit: self.ask(unit)[1] for unit in units}


def two_versions(loans: Any, root: Path) -> Running:
    """Versions of an application that does not run yet."""
    given, spec, old = loans
    shutil.copytree(given.path("models"), root / "models")
    storage = Storage(str(root))
    registry = Registry(storage, spec.name)
    new = published_again(registry, old)
    registry.promote(old, "old")
    registry.promote(new, "new")
    (port,) = kept_ports(1)
    serving = spec.serving.model_copy(update={"port": port, "num_replicas": 2})
    (root / "loans.yaml").write_text(dump(spec.model_copy(update={"serving": serving, "storage": storage.uri})))
    release = root / "release.yaml"
    release.write_text(f"spec: {root / 'loans.yaml'}\nversions: [{{version: old, share: 1.0}}]\n")
    return Running("", storage, release, registry, old, new)


@pytest.fixture(scope="module")
def running(cluster: Any, loans: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    found = two_versions(loans, tmp_path_factory.mktemp("released"))
    spec = application_of(found.release()).ring
    try:
        yield replace(found, address=deploy(spec, found.storage))
    finally:
        remove(spec.name)
        stop_if_idle()


@pytest.fixture
def imitated(loans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Running:
    """Two replicas that have each state at once, of which only what they tell of themselves is there."""
    found, turn = two_versions(loans, tmp_path), itertools.cycle("ab")

    def asked(address: str, question: Question, **given: Any) -> tuple[int, Any]:
        log = application_of(found.release()).log
        release = {"deployed": found.old, "number": log.newest(found.old).number}
        return 200, {"replica": next(turn), "release": release, "refused": {}}

    monkeypatch.setattr("serving.release.ask", asked)
    return found


@pytest.fixture(autouse=True)
def under_load(request: pytest.FixtureRequest) -> Iterator[None]:
    """Requests of a tenth of a second's distance while a test with the application runs; each must be answered."""
    if "running" not in request.fixturenames:
        yield
        return
    app: Running = request.getfixturevalue("running")
    app.answers.clear()
    app.may_fail = False
    over = threading.Event()

    def ask() -> None:
        while not app.answers or not over.wait(0.1):
            app.answers.append(app.ask(f"visitor {len(app.answers) % 50}"))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join(150)
    failed = [answer for answer in app.answers if answer[0] != 200]
    assert app.answers
    assert failed == [] or app.may_fail


def published_again(
    registry: Registry, version: str, changed: Callable[[bytes], bytes] = lambda content: content
) -> str:
    """Another version with the same content, but for its weights."""
    with TemporaryDirectory() as scratch, registry.open(version) as folder:
        shutil.copytree(folder, Path(scratch) / "copy", ignore=shutil.ignore_patterns(MANIFEST))
        weights = Path(scratch) / "copy/weights.safetensors"
        weights.write_bytes(changed(weights.read_bytes()))
        return registry.publish(Path(scratch) / "copy", {"run": "generated"})


def replicas(running: Running) -> set[str]:
    return set(application_of(running.release()).replicas())


@pytest.mark.ray
def test_a_share_comes_grows_and_goes_without_a_restart_and_units_keep_their_version(running: Running) -> None:
    units = [f"user {number}" for number in range(120)]
    before = replicas(running)
    assert len(before) == 2
    assert apply(running.shared(0.3)) == f"release: {running.old} 70.0%, {running.new} 30.0%"
    first = running.versions_of(units)
    assert running.versions_of(units) == first
    assert 15 < Counter(first.values())[running.new] < 57  # 36 and four standard errors
    apply(running.shared(0.6))
    second = running.versions_of(units)
    assert all(second[unit] == running.new for unit in units if first[unit] == running.new)
    assert Counter(second.values())[running.new] > Counter(first.values())[running.new]
    told = status(running.shared(0.6))
    assert f"{running.new}  60.0%" in told
    assert "0.0% failed" in told
    assert rollback(running.shared(0.6)) == f"release: {running.old} answers everything"
    assert set(running.versions_of(units[:30]).values()) == {running.old}
    assert replicas(running) == before


@pytest.mark.ray
def test_who_is_promoted_is_the_champion_and_the_way_back_is_kept(running: Running) -> None:
    running.registry.promote(running.old)
    with pytest.raises(ReleaseError, match=r"'new' has no traffic yet, .* have; give it a share first: apply"):
        promote(running.shared(0.1), "new")
    apply(running.shared(0.1))
    promote(running.shared(0.1), "new")
    assert running.registry.resolve(CHAMPION) == running.new
    assert set(running.versions_of(["a", "b", "c"]).values()) == {running.new}
    rollback(running.shared(0.1))
    assert running.registry.resolve(CHAMPION) == running.old
    assert set(running.versions_of(["a", "b", "c"]).values()) == {running.old}


class Harm:
    """What a pickle runs where it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.exit, ("a pickle was loaded",))


def tampered(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def pickled(content: bytes) -> bytes:
    return pickle.dumps(Harm())


@pytest.mark.ray
@pytest.mark.parametrize("harm", [tampered, truncated, pickled])
@pytest.mark.parametrize("is_published", [False, True], ids=["afterwards", "before it was published"])
def test_a_damaged_version_is_refused_before_any_replica_sees_it(
    running: Running, harm: Callable[[bytes], bytes], is_published: bool
) -> None:
    if is_published and harm is tampered:
        pytest.skip("other weights, published as they are, are another version")
    damaged = published_again(running.registry, running.old, harm if is_published else lambda content: content)
    if not is_published:
        path = Path(running.storage.path(f"models/{running.registry.name}/{damaged}/weights.safetensors"))
        path.write_bytes(harm(path.read_bytes()))
    release = running.release(versions=[{"version": "old", "share": 0.5}, {"version": damaged, "share": 0.5}])
    message = "cannot be read" if is_published else r"weights\.safetensors differs from its checksum"
    with pytest.raises(RegistryError, match=message):
        apply(release)
    assert set(running.versions_of([f"{n}" for n in range(20)]).values()) == {running.old}


@pytest.mark.ray
def test_a_version_that_answers_otherwise_over_http_gets_no_traffic(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replicas have the version as it is; here it is loaded as if its code computed something else."""
    predict = Classifier.predict

    def otherwise(self: Classifier, rows: Any) -> Any:
        return [one.model_copy(update={"label": "changed"}) for one in predict(self, rows)]

    application = application_of(running.release())
    killed_midway = application.state().next({running.old: 1.0, running.new: 0.0}, "try it")
    application.change(killed_midway)
    with pytest.raises(ReleaseError, match=r"'new' has no traffic yet"):
        promote(running.release(), "new")
    monkeypatch.setattr(Classifier, "predict", otherwise)
    message = r"answers golden row 0 unlike it does where .*/predictions/0/label is '\w+', was 'changed'"
    with pytest.raises(ReleaseError, match=message):
        apply(running.shared(0.5))
    assert set(running.versions_of([f"{n}" for n in range(20)]).values()) == {running.old}
    assert application.state().shares == killed_midway.shares
    assert application.state().why.startswith("refused: ")
    rollback(running.release())


@pytest.mark.ray
def test_a_version_that_is_slower_than_it_may_be_steps_back_by_itself(running: Running) -> None:
    slow = {"max_p95_ms": 0.001, "min_requests": 5}
    apply(running.shared(0.5, guardrails=slow))
    deadline = time.monotonic() + 120
    while application_of(running.release()).state().shares != {running.old: 1.0}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "95th percentile of its latency" in status(running.release())


@pytest.mark.ray
def test_a_shadow_compares_all_that_is_asked_in_a_process_of_its_own(running: Running) -> None:
    versions = [{"version": "old", "share": 1.0}, {"version": "new", "shadow": True}]
    release = running.release(versions=versions)
    assert f"{running.new}  shadow: no -> yes" in plan(release)
    assert apply(release) == f"release: {running.old} 100.0%, {running.new} as a shadow"
    assert set(running.versions_of([f"{n}" for n in range(30)]).values()) == {running.old}

    def num_same() -> int:
        found = re.search(rf"{running.new}  shadow  ([\d,]+) compared: 100.0% the same", status(release))
        return int(found[1].replace(",", "")) if found else 0

    deadline = time.monotonic() + 120
    while num_same() < 30:
        assert time.monotonic() < deadline, status(release)
        time.sleep(0.1)
    rollback(release)
    deadline = time.monotonic() + 120
    while not running.storage.exists(f"shadows/{running.registry.name}/{running.new}"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "shadow" not in status(release).partition("how it came")[0]


@pytest.mark.ray
def test_each_version_is_measured_at_the_metrics_ports_of_the_nodes(running: Running) -> None:
    apply(running.shared(0.5))
    running.versions_of([f"user {number}" for number in range(60)])
    version = {"application": "loans", "version": running.new}

    def wait_until(is_told: Callable[[dict[str, float]], bool]) -> None:
        deadline = time.monotonic() + 120
        while not is_told(found := samples()):
            assert time.monotonic() < deadline, found
            time.sleep(0.5)

    wait_until(lambda found: total(found, "ray_rayline_requests_total", status="200", path="/predict", **version) >= 15)
    wait_until(lambda found: total(found, "ray_rayline_share", **version) == 2 * 0.5)  # each of two replicas tells it
    wait_until(lambda found: total(found, "ray_rayline_request_ms_count", **version) >= 15)
    wait_until(  # a batch is counted before its rows
        lambda found: (
            total(found, "ray_rayline_rows_total", **version)
            >= total(found, "ray_rayline_batch_rows_count", **version)
            > 0
        )
    )
    rollback(running.shared(0.5))
    wait_until(lambda found: total(found, "ray_rayline_share", **version) == 0)


@pytest.mark.ray
@pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's package prometheus is not installed")
def test_prometheus_answers_every_panel_of_the_dashboard(running: Running, tmp_path: Path) -> None:
    write(tmp_path, discovery_file())
    assert json.loads((tmp_path / "prometheus.yml").read_text()) == prometheus(discovery_file())
    (port,) = kept_ports(1)
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)

    def query(expression: str) -> Any:
        given = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{given}", timeout=60) as response:
            return json.loads(response.read())

    def is_read() -> bool:  # requests are counted some seconds before a replica first tells its share
        asked = ("ray_rayline_requests_total", PANELS[5].expression.replace("$application", "loans"))
        try:
            return all(query(expression)["data"]["result"] for expression in asked)
        except OSError:
            return False

    try:
        deadline = time.monotonic() + 120
        while not is_read():
            assert time.monotonic() < deadline
            time.sleep(0.5)
        for panel in PANELS:
            assert query(panel.expression.replace("$application", ".*"))["status"] == "success", panel.title
        assert query(PANELS[5].expression.replace("$application", "loans"))["data"]["result"]
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.ray
def test_every_acknowledged_label_is_kept_once_though_a_replica_is_killed_in_the_middle(running: Running) -> None:
    """Sent again until acknowledged, as clients are told to; `benchmarks/feedback_storm` does it for longer."""
    running.may_fail = True
    acknowledged: list[str] = []

    def send(event_id: str) -> None:
        body = {"prediction_id": "p", "label": "good", "event_id": event_id}
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if ask(running.address, Question("", "/feedback", body))[0] == 202:
                    acknowledged.append(event_id)
                    return
            except OSError:
                pass
            time.sleep(0.1)

    name = application_of(running.release()).ring.name
    before = {label.event_id for label in labels_of(running.storage, name)}
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(send, f"e{number}") for number in range(600)]
        while len(acknowledged) < 100:
            time.sleep(0.01)
        victims = [one.pid for one in processes() if command(one)[:1] == [f"ray::ServeReplica:{name}:{name}"]]
        assert len(victims) >= 2
        os.kill(victims[0], signal.SIGKILL)
    for one in sent:
        one.result()
    assert sorted(acknowledged) == sorted(f"e{number}" for number in range(600))
    kept = [label.event_id for label in labels_of(running.storage, name) if label.event_id not in before]
    assert sorted(kept) == sorted(acknowledged)
    application_of(running.release()).replicas()


@pytest.mark.ray
def test_deploying_ends_a_release(running: Running) -> None:
    apply(running.shared(0.5))
    promote(running.shared(0.5), "new")
    running.registry.promote(running.old)
    application = application_of(running.release())
    deploy(application.ring, running.storage)
    assert application.state().shares == {running.old: 1.0}
    assert application.state().why == f"deployed {running.old}"
    assert set(running.versions_of([f"{n}" for n in range(10)]).values()) == {running.old}


@pytest.mark.ray
def test_what_users_said_of_each_version_is_in_the_status(running: Running) -> None:
    apply(running.shared(0.5))
    application = application_of(running.release())
    state, log = application.state(), FeedbackLog(running.storage, application.ring.name)
    assert "what came of their answers" not in status(running.shared(0.5))

    async def say() -> None:
        said = []
        for number in range(400):
            version, at = state.version_of(f"user {number}"), datetime.now(UTC).isoformat()
            rating = 4.0 + (version == running.new) + number % 7 / 10
            said.append(log.append(Event(f"e{number}", f"user {number}", "m1", rating, 0, at, version)))
        await asyncio.gather(*said)

    asyncio.run(say())
    told = status(running.shared(0.5, experiment={"min_users": 50}))
    assert f"  {running.old}: mean outcome 4." in told
    assert re.search(rf"  {running.new}: mean outcome 5\..* effect \+\S+ \(\+.*\): better", told)
    assert "do not fit" not in told
    rollback(running.shared(0.5))


@pytest.mark.ray
def test_the_command_line_plans_and_applies(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    versions = "versions=[{version: old, share: 0.9}, {version: new, share: 0.1}]"
    assert main(["plan", str(running.file), versions]) == 0
    told = capsys.readouterr().out
    assert f"{running.new}  0.0% -> 10.0%  new: loaded and compared first" in told
    assert plan(running.shared(0.1)) + "\n" == told
    assert main(["apply", str(running.file), versions]) == 0
    assert main(["status", str(running.file)]) == 0
    assert main(["promote", "old", str(running.file)]) == 0
    assert f"{running.old} answers everything, and is the champion" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ([{"version": "a", "share": 0.5}], r"shares add up to 0\.5; give such that make 1 together"),
        ([{"version": "a", "share": 0.5}] * 2, r"name one twice; give each its share once"),
        ([], r"versions: .*at least 1 item"),
        (
            [{"version": "a", "share": 0.5}, {"version": "b", "share": 0.5, "shadow": True}],
            r"b: a shadow has no share; leave out one of both",
        ),
        ([{"version": "a", "share": 1.5}], r"less than or equal to 1"),
    ],
)
def test_shares_that_make_no_whole_are_refused(versions: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "release.yaml").write_text(f"spec: ring.yaml\nversions: {json.dumps(versions)}\n")
    with pytest.raises(SpecError, match=message):
        load(ReleaseSpec, tmp_path / "release.yaml")


def test_two_names_of_one_version_are_refused(loans: Any) -> None:
    storage, spec, version = loans
    given = ReleaseSpec.model_validate(
        {"spec": "ring.yaml", "versions": ({"version": "champion", "share": 0.5}, {"version": version, "share": 0.5})}
    )
    with pytest.raises(ReleaseError, match=rf"'{version}' is version {version}, which has a share already"):
        wanted(given, Registry(storage, spec.name))


def test_a_replica_that_is_killed_before_it_took_a_release_is_not_waited_for(
    imitated: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers twice, its last answer breaks off, and another one takes its place."""
    taken = {"replica": "b", "number": 1}
    answers: Iterator[Any] = itertools.chain(
        [{"replica": "a", "number": 0}, taken, {"replica": "a", "number": 0}, ConnectionError("broke off"), 502],
        itertools.cycle([taken, {"replica": "c", "number": 1}]),
    )

    def asked(address: str, question: Question, **given: Any) -> tuple[int, Any]:
        answer = next(answers)
        if isinstance(answer, ConnectionError):
            raise answer
        return (answer, "") if isinstance(answer, int) else (200, answer)

    monkeypatch.setattr("serving.release.ask", asked)
    monkeypatch.setattr("serving.release.ASKED_EVERY_S", 0)
    monkeypatch.setattr("serving.release.TAKEN_WITHIN_S", 60)
    found = application_of(imitated.release()).replicas(lambda one: one["number"] >= 1)
    assert sorted(found) == ["b", "c"]


def broken(*given: Any, **more: Any) -> None:
    raise ConnectionError("it broke off")


def test_answers_to_compare_that_do_not_come_are_a_users_error_and_the_state_before_holds(
    imitated: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.release.check_parity", broken)
    with pytest.raises(ClusterError, match=r"nothing answers at .* \(it broke off\); .* try again"):
        apply(imitated.shared(0.5))
    state = application_of(imitated.release()).state()
    assert state.shares == {imitated.old: 1.0}
    assert state.why.startswith("refused: nothing answers")


def test_a_drift_that_nobody_tells_is_a_users_error(imitated: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.release.ask", broken)
    application = application_of(imitated.release())
    with pytest.raises(ClusterError, match=r"nothing answers at .* \(it broke off\); .* try again"):
        application.drift(imitated.old)


@pytest.mark.parametrize("differs", [False, True], ids=["passes", "differs"])
def test_what_others_changed_while_answers_were_compared_holds_and_the_second_one_is_told(
    imitated: Running, monkeypatch: pytest.MonkeyPatch, differs: bool
) -> None:
    log = application_of(imitated.release()).log

    def meanwhile(*given: Any, **more: Any) -> None:
        rollback(imitated.release())
        if differs:
            raise ReleaseError("it answers otherwise")

    monkeypatch.setattr("serving.release.check_parity", meanwhile)
    with pytest.raises(ReleaseError, match="it answers otherwise" if differs else "release 2 .* made meanwhile by"):
        apply(imitated.shared(0.5))
    assert log.newest(imitated.old).shares == {imitated.old: 1.0}
    assert [state.why.partition(" ")[0] for state in log.history()] == ["try", "rolled"]
    monkeypatch.setattr("serving.release.check_parity", lambda *given, **more: None)
    apply(imitated.shared(0.5))
    assert log.newest(imitated.old).shares == {imitated.old: 0.5, imitated.new: 0.5}


@pytest.mark.parametrize(
    ("mains", "way_back"),
    [
        ("", "a"),
        ("bc", "abc"),
        ("bbcb", "ab"),  # back from c, which is not to come back
        ("bcba", "a"),
        ("bcbd", "abd"),
        ("ba", "a"),
    ],
)
def test_the_way_back_never_leads_to_what_was_left(mains: str, way_back: str) -> None:
    history = [Shares(deployed="x", shares={"c": 1.0})]
    history += [Shares(deployed="a", shares={name: 0.9, "z": 0.1}) for name in mains]
    assert main_versions(history[-1] if mains else Shares(deployed="a", shares={"a": 1.0}), history) == list(way_back)


def test_without_an_application_the_way_out_is_named(loans: Any, tmp_path: Path) -> None:
    _, spec, version = loans
    (port,) = kept_ports(1)
    serving = spec.serving.model_copy(update={"port": port})
    (tmp_path / "loans.yaml").write_text(dump(spec.model_copy(update={"serving": serving})))
    given = ReleaseSpec.model_validate(
        {"spec": str(tmp_path / "loans.yaml"), "versions": ({"version": version, "share": 1.0},)}
    )
    with pytest.raises(ClusterError, match=r"nothing answers at .*; start the application first"):
        status(given)


def test_the_release_that_comes_along_names_a_spec_and_shares_that_add_up() -> None:
    shipped = load(ReleaseSpec, Path(__file__).parents[2] / "serving/release.yaml")
    assert Path(shipped.spec).name == "tabular.yaml"
    assert [one.version for one in shipped.versions] == ["champion", "challenger"]
