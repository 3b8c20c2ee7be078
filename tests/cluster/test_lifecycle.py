"""Clusters that are started, found, used and ended for real. Each test says what it starts."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from cluster.environment import token_path
from cluster.errors import ClusterError
from cluster.head import Head, noted_head
from cluster.lifecycle import REACH_TIMEOUT_S, Cluster, connected, find_address
from cluster.processes import Process, command, end, family, find, running
from tests.ports import kept_ports

ROOT = Path(__file__).parents[2]
CONNECT = """
import json
from dataclasses import asdict
from cluster.lifecycle import connected
with connected(num_cpus=2) as outer, connected() as inner:
    assert inner == outer
    import ray
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
    print("CLUSTER", json.dumps(asdict(outer)), flush=True)
assert not ray.is_initialized()
"""


def python(*arguments: str, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def connect_from_a_new_process() -> Cluster:
    ended = python("-c", CONNECT)
    assert ended.returncode == 0, ended.stderr
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("CLUSTER")]
    return Cluster(**json.loads(line.removeprefix("CLUSTER")))


def wait_until_gone(processes: set[Process], patience_s: float) -> set[Process]:
    deadline = time.monotonic() + patience_s
    while processes & set(running()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return processes & set(running())


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A cluster that `python -m cluster up` started for a user with an empty home."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        started = python("-m", "cluster", "up", "--num-cpus", "3")
        assert started.returncode == 0, started.stderr
        head = noted_head()
        assert head is not None
        assert f"the cluster is up at {head.address}" in started.stdout
        try:
            yield head
        finally:
            python("-m", "cluster", "down")


@pytest.mark.ray
def test_up_a_second_time_finds_the_first(up: Head) -> None:
    again = python("-m", "cluster", "up")
    assert (again.returncode, noted_head()) == (0, up)
    assert f"a cluster is running already at {up.address}" in again.stdout


@pytest.mark.ray
def test_status_shows_nodes_cpus_and_dashboard(up: Head) -> None:
    shown = python("-m", "cluster", "status")
    assert shown.returncode == 0, shown.stderr
    assert f"cluster at {up.address}: 1 node, 3 of 3 CPUs free, 0 of 0 GPUs free" in shown.stdout
    assert f"dashboard: {up.dashboard_url}" in shown.stdout


@pytest.mark.ray
def test_a_stage_finds_the_cluster_that_is_up_and_leaves_it_up(up: Head) -> None:
    assert connect_from_a_new_process() == Cluster(up.address, False, up.dashboard_url)
    assert up.process.is_alive()


@pytest.mark.ray
def test_the_token_and_the_scratch_folder_are_their_owners_alone(up: Head) -> None:
    assert stat.S_IMODE(token_path().stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(up.scratch).stat().st_mode) == 0o700


@pytest.mark.ray
def test_the_dashboard_listens_on_loopback_alone(up: Head) -> None:
    port = int(up.dashboard_url.rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port), 5).close()
    outside = up.address.rpartition(":")[0]
    if not outside.startswith("127."):
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((outside, port), 5)


@pytest.mark.ray
def test_a_job_without_the_token_is_refused_with_401(up: Head, tmp_path: Path) -> None:
    proof = tmp_path / "it-ran"
    request = urllib.request.Request(
        f"{up.dashboard_url}/api/jobs/",
        data=json.dumps({"entrypoint": f"touch {proof}"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=120)
    assert caught.value.code == 401
    assert not proof.exists()


@pytest.mark.ray
def test_a_submitted_job_runs_our_interpreter_on_the_sent_folder(up: Head, tmp_path: Path) -> None:
    (tmp_path / "sent.py").write_text(
        "import os, sys; from cluster.lifecycle import connected\n"
        "with connected() as cluster: print('RAN', sys.executable, cluster.address, cluster.is_embedded)\n"
    )
    command = [
        "job",
        "submit",
        "--address",
        up.dashboard_url,
        "--working-dir",
        str(tmp_path),
        "--",
        "python",
        "sent.py",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        ended = python("-m", "ray.scripts.scripts", *command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"RAN {sys.executable} {up.address} False" in ended.stdout


@pytest.mark.ray
def test_run_uses_the_cluster_that_is_up_and_leaves_it_up(up: Head) -> None:
    ended = python("-m", "cluster", "run", "--", "sh", "-c", "echo $RAY_ADDRESS $RAY_AUTH_MODE; exit 7")
    assert (ended.returncode, ended.stdout) == (7, f"{up.address} token\n")
    assert up.process.is_alive()


@pytest.mark.ray
def test_down_ends_every_process_also_those_of_jobs(up: Head) -> None:
    """The last on this cluster, which is gone afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_ADDRESS", up.dashboard_url)
        sent = python("-m", "ray.scripts.scripts", "job", "submit", "--no-wait", "--", "sleep", "612")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    deadline = time.monotonic() + 240
    while not (job := sleeping_jobs(up)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert job
    members = family(up.process, f"RAYLINE_CLUSTER={up.scratch}")
    ended = python("-m", "cluster", "down")
    assert (ended.returncode, ended.stdout) == (0, f"the cluster at {up.address} is down\n")
    assert wait_until_gone(members | job, 0) == set()
    assert not Path(up.scratch).exists()
    assert noted_head() is None
    assert python("-m", "cluster", "down").returncode == 0
    assert python("-m", "cluster", "status").returncode == 1


def sleeping_jobs(head: Head) -> set[Process]:
    members = family(head.process, f"RAYLINE_CLUSTER={head.scratch}")
    return {process for process in members if command(process)[:2] == ["sleep", "612"]}


@pytest.mark.ray
def test_run_takes_down_the_cluster_it_started_after_the_command_had_time_to_stop(home: Path) -> None:
    script = "trap 'sleep 0.5; echo stopped; exit 9' TERM; echo $RAY_ADDRESS; while true; do sleep 0.1; done"
    runner = subprocess.Popen(
        [sys.executable, "-m", "cluster", "run", "--num-cpus", "2", "--", "bash", "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert runner.stdout is not None
    host, _, port = runner.stdout.readline().strip().rpartition(":")
    root = find(runner.pid)
    assert root is not None
    members = family(root, "no mark")
    assert len(members) > 5
    runner.terminate()
    assert runner.stdout.read() == "stopped\n"
    assert runner.wait(240) == 9
    assert wait_until_gone(members, 0) == set()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), 5)
    assert noted_head() is None


@pytest.mark.ray
def test_with_no_cluster_around_an_embedded_one_lives_as_long_as_the_block(home: Path) -> None:
    cluster = connect_from_a_new_process()
    assert cluster.is_embedded
    assert cluster.dashboard_url is not None
    assert cluster.dashboard_url.startswith("http://127.0.0.1:")
    assert stat.S_IMODE(token_path().stat().st_mode) == 0o600
    host, _, port = cluster.address.rpartition(":")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), 5)


def test_an_embedded_cluster_that_does_not_start_in_time_is_an_error_with_the_way_out(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: object) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray itself says it

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # the suite's own connection may be open,
    monkeypatch.setattr("cluster.lifecycle._adopt_authentication", lambda: None)  # and keeps its token
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with (
        pytest.raises(ClusterError, match=r"could not be started: The current .* a busy machine may need a second try"),
        connected(num_cpus=2),
    ):
        pass


@pytest.mark.ray
def test_kill_9_of_an_embedded_driver_leaves_no_process_behind(home: Path) -> None:
    """But for Ray's two agents, which try for a minute to tell the lost cluster of their end."""
    code = "import time; from cluster.lifecycle import connected\n"
    code += "with connected(2): print('in', flush=True); time.sleep(600)"
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"in\n"
    root = find(driver.pid)
    assert root is not None
    members = family(root, "no mark")
    assert len(members) > 5
    driver.kill()
    driver.wait()
    agents = {process for process in members if any("Agent" in part for part in command(process))}
    assert wait_until_gone(members - agents, 120) == set()
    for agent in agents & set(running()):
        os.kill(agent.pid, signal.SIGKILL)
    assert wait_until_gone(members, 60) == set()


@pytest.mark.ray
def test_a_process_that_is_connected_stays_so_on_the_same_cluster(cluster: Cluster) -> None:
    with connected(num_cpus=1) as again:
        assert again == cluster
    assert ray.is_initialized()
    assert not cluster.is_embedded
    assert cluster.address == os.environ["RAY_ADDRESS"]


@pytest.mark.ray
def test_ray_address_wins_over_everything_else(cluster: Cluster) -> None:
    assert connect_from_a_new_process() == cluster


@pytest.mark.parametrize("address", ["127.0.0.1:{free}", "localhost", "no-such-host.invalid:6379"])
def test_a_ray_address_that_does_not_answer_is_an_error_with_the_way_out(home: Path, address: str) -> None:
    with socket.socket() as bound, pytest.MonkeyPatch.context() as patch:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        given = address.format(free=bound.getsockname()[1])
        patch.setenv("RAY_ADDRESS", given)
        ended = python("-m", "cluster", "status")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"rayline: RAY_ADDRESS={given} does not answer")
    assert "unset RAY_ADDRESS" in ended.stderr


def test_a_ray_address_that_does_not_answer_is_given_up_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_s = []

    def connect(address: tuple[str, int], timeout_s: float) -> socket.socket:
        waited_s.append(timeout_s)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ClusterError, match=r"RAY_ADDRESS=10\.0\.0\.1:6379 does not answer within 5 s"):
        find_address()
    assert waited_s == [REACH_TIMEOUT_S] == [5.0]


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001"])
def test_a_ray_address_that_is_a_url_is_refused_with_the_right_form(
    home: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # the suite's own connection may be open
    monkeypatch.setenv("RAY_ADDRESS", address)
    with (
        pytest.raises(ClusterError, match=f"RAY_ADDRESS={address} is a URL; give the cluster's own host:port"),
        connected(),
    ):
        pass


@pytest.mark.ray
def test_the_note_of_a_killed_cluster_does_not_lead_to_the_one_that_has_its_port_now(
    cluster: Cluster, home: Path
) -> None:
    note = Path(os.environ["RAY_TMPDIR"]) / "ray" / "ray_current_cluster"  # as a killed `ray start --head` leaves it
    note.parent.mkdir()
    note.write_text(cluster.address)
    assert find_address() is None


def ray_start() -> tuple["subprocess.Popen[bytes]", Process, int]:
    """What a user without Rayline calls: the child, which leads a session, and the port of its GCS."""
    gcs, client, agent, dashboard = kept_ports(4)  # any other one may go to a server of Ray's own
    command = ["ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1", f"--port={gcs}"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += ["--include-dashboard=false", f"--dashboard-port={dashboard}", "--disable-usage-stats"]
    command += ["--min-worker-port=0", "--max-worker-port=0"]
    head = subprocess.Popen([sys.executable, "-m", *command], start_new_session=True, stdout=subprocess.DEVNULL)
    started = find(head.pid)
    assert started is not None
    return head, started, gcs


@pytest.mark.ray
def test_what_ray_start_left_running_is_found(home: Path) -> None:
    head, started, gcs = ray_start()
    try:
        deadline = time.monotonic() + 400
        while (found := find_address()) is None and time.monotonic() < deadline:
            if head.poll() is not None:  # its own time-outs, which are fixed, are too short for a busy machine
                end(started, "no mark", 5)
                head, started, gcs = ray_start()
            time.sleep(0.2)
        assert found is not None
        assert found.endswith(f":{gcs}")
    finally:
        end(started, "no mark", 5)
        head.wait()
    assert find_address() is None


def test_importing_the_package_starts_and_writes_nothing(home: Path) -> None:
    code = (
        "import os, pkgutil, importlib, cluster\n"
        "for module in pkgutil.iter_modules(cluster.__path__):\n"
        "    importlib.import_module(f'cluster.{module.name}')\n"
        "import ray, threading\n"
        "assert not ray.is_initialized()\n"
        "assert [thread.name for thread in threading.enumerate()] == ['MainThread']\n"
        "assert open(f'/proc/self/task/{os.getpid()}/children').read() == ''\n"
    )
    ended = subprocess.run([sys.executable, "-B", "-c", code], cwd=home, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert list(home.iterdir()) == []
