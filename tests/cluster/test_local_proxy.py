import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.local_proxy import on_loopback, write_program
from tests.ports import kept_ports

STARTER = """
import subprocess, sys, time
print(subprocess.Popen([sys.argv[1], "-f", sys.argv[2]]).pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("    bind *:8404", "    bind 127.0.0.1:8404"),
        ("bind :9101", "bind 127.0.0.1:9101"),
        ("  bind 0.0.0.0:80 name a", "  bind 127.0.0.1:80 name a"),
        ("  bind 10.0.0.7:80", "  bind 10.0.0.7:80"),
        ("  bind unix@/x/admin.sock", "  bind unix@/x/admin.sock"),
        ("  server s *:80", "  server s *:80"),
    ],
)
def test_only_ports_on_all_interfaces_move(given: str, expected: str) -> None:
    assert on_loopback(f"frontend f\n{given}\n") == f"frontend f\n{expected}\n"


def test_the_proxy_listens_on_loopback_and_dies_with_who_started_it(tmp_path: Path) -> None:
    (port,) = kept_ports(1)
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n"
        f"frontend f\n  bind *:{port}\n  http-request return status 200\n"
    )
    write_program(tmp_path / "haproxy")
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "haproxy"), str(config)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    try:
        wait_for(lambda: answers("127.0.0.1", port))
        assert f"127.0.0.1:{port}" in config.read_text()
        assert not answers(socket.gethostbyname(socket.gethostname()), port) or is_loopback_host()
    finally:
        starter.kill()
        starter.wait()
    wait_for(lambda: not is_running(pid))


def is_loopback_host() -> bool:
    return socket.gethostbyname(socket.gethostname()).startswith("127.")


def answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
