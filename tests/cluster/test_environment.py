import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.environment import (
    applied,
    ensure_token,
    free_ports,
    has_token,
    local_environment,
    make_scratch,
    node_environment,
    token_path,
)
from cluster.errors import ClusterError
from tests.ports import kept_ports

UNIX_SOCKET_BYTES = 107
NODE_ID_BYTES = 56


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_cluster_asks_for_a_token() -> None:
    assert node_environment(2)["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize(
    ("num_cpus", "limit", "threads"), [(1, "8", "1"), (2, "8", "1"), (6, "24", "3"), (64, "256", "4")]
)
def test_limits_grow_with_the_node(num_cpus: int, limit: str, threads: str) -> None:
    environment = node_environment(num_cpus)
    assert environment["RAY_num_workers_soft_limit"] == limit
    assert environment["RAY_SERVE_HAPROXY_NBTHREAD"] == threads


def test_two_clusters_on_one_machine_share_no_path_of_haproxy(tmp_path: Path) -> None:
    first, second = (local_environment(2, tmp_path / name) for name in ("a", "b"))
    paths = [name for name, value in first.items() if value.startswith(str(tmp_path))]
    assert len(paths) == 6
    assert all(first[name] != second[name] for name in paths)


def test_haproxys_sockets_fit_into_an_address() -> None:
    scratch = make_scratch()
    try:
        socket_path = Path(local_environment(2, scratch)["RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"])
        # Serve puts a folder named by the node's id between, HAProxy appends a suffix while it binds.
        used = len(str(socket_path)) + 1 + NODE_ID_BYTES + len(".12345.tmp")
        assert used <= UNIX_SOCKET_BYTES
        assert mode(scratch) == 0o700
    finally:
        shutil.rmtree(scratch)


def test_ports_are_the_preferred_ones_where_nothing_listens() -> None:
    (free,) = kept_ports(1)
    assert free_ports(free) == [free]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free))
        taken.listen()
        (other,) = free_ports(free)
    assert other != free
    assert len(set(free_ports(0, 0, 0))) == 3


def test_a_users_own_variable_wins_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLINE_TEST_A", "mine")
    monkeypatch.setenv("RAYLINE_TEST_B", "")
    with applied({"RAYLINE_TEST_A": "ours", "RAYLINE_TEST_B": "ours", "RAYLINE_TEST_C": "ours"}):
        assert [os.environ[f"RAYLINE_TEST_{letter}"] for letter in "ABC"] == ["mine", "ours", "ours"]
    assert os.environ["RAYLINE_TEST_A"] == "mine"
    assert "RAYLINE_TEST_C" not in os.environ


def test_the_token_is_made_once_and_only_its_owner_reads_it(home: Path) -> None:
    assert not has_token()
    ensure_token()
    assert has_token()
    assert token_path() == home / ".ray" / "auth_token"
    token = token_path().read_text()
    assert len(token) == 64
    assert mode(token_path()) == 0o600
    ensure_token()
    assert token_path().read_text() == token


def test_a_token_that_others_can_read_is_closed_to_them(home: Path) -> None:
    (home / "token").write_text("secret")
    (home / "token").chmod(0o644)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(home / "token")
    try:
        ensure_token()
    finally:
        del os.environ["RAY_AUTH_TOKEN_PATH"]
    assert mode(home / "token") == 0o600
    assert (home / "token").read_text() == "secret"


def test_a_token_in_the_environment_is_left_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    ensure_token()
    assert has_token()
    assert list(home.iterdir()) == []


def test_a_token_that_cannot_be_written_is_an_error_with_its_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "file" / "token"))
    with pytest.raises(ClusterError, match=r"the cluster's token cannot be written to .*file/token"):
        ensure_token()


def test_a_shell_can_take_over_the_environment_of_a_node(home: Path) -> None:
    script = f'eval "$({sys.executable} -m cluster.environment)"; env'
    shown = subprocess.run(
        ["/bin/sh", "-c", script],
        env={**os.environ, "RAY_worker_niceness": "5"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    expected = {**node_environment(os.cpu_count() or 1), "RAY_worker_niceness": "5"}
    assert {f"{name}={value}" for name, value in expected.items()} <= set(shown)
