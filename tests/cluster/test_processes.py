import math
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from cluster import processes
from cluster.errors import ClusterError
from cluster.processes import Kin, Process, attend, dying_with_parent, end, family, find, running

MARK = "RAYLINE_TEST_MARK=" + str(os.getpid())
SLEEP = f"{sys.executable} -c 'import time; time.sleep(60)'"


def start(shell: str, **environment: str) -> Process:
    """A shell that leads its own session and has come so far as to print a line."""
    child = subprocess.Popen(
        ["/bin/sh", "-c", shell],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **environment},
    )
    assert child.stdout is not None
    child.stdout.readline()
    process = find(child.pid)
    assert process is not None
    return process


def wait_until_gone(*awaited: Process) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not set(awaited) & set(running()):
            return True
        time.sleep(0.05)
    return False


def test_a_pid_that_was_handed_out_again_is_another_process() -> None:
    ourselves = find(os.getpid())
    assert ourselves is not None
    assert ourselves.is_alive()
    assert not Process(os.getpid(), ourselves.started_ticks - 1).is_alive()


def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    process = find(child.pid)
    assert process is not None
    assert process.is_alive()
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    assert not process.is_alive()
    child.wait()


def test_the_family_has_children_orphans_and_those_in_sessions_of_their_own() -> None:
    name, _, value = MARK.partition("=")
    root = start(f"({SLEEP} &) ; setsid {SLEEP} & {SLEEP} & sleep 0.5; echo ready; wait", **{name: value})
    members = family(root, MARK)
    assert root in members
    assert len(members) >= 4
    assert end(root, MARK, 30.0) == set()
    assert wait_until_gone(*members)


def test_orphans_are_found_when_the_root_is_gone_already() -> None:
    root = start(f"{SLEEP} & echo ready; wait")
    (orphan,) = family(root, MARK) - {root}
    os.kill(root.pid, signal.SIGKILL)
    assert wait_until_gone(root)
    assert family(root, MARK) == {orphan}
    assert end(root, MARK, 30.0) == set()
    assert not orphan.is_alive()


def test_one_that_ignores_sigterm_is_killed() -> None:
    root = start("trap '' TERM; echo ready; while true; do sleep 0.1; done")
    assert end(root, MARK, 1.0) == set()
    assert not root.is_alive()


def test_what_was_killed_and_is_gone_only_after_a_while_has_not_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    root, clock = Process(-2, 0), SimpleNamespace(now_s=0.0, killed_s=math.inf)

    def sleep(seconds: float) -> None:
        clock.now_s += seconds

    def send(known: set[Process], number: signal.Signals) -> None:
        if number == signal.SIGKILL:
            clock.killed_s = clock.now_s

    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=lambda: clock.now_s, sleep=sleep))
    monkeypatch.setattr(processes, "_send", send)
    monkeypatch.setattr(processes, "running", lambda: {root: Kin(1, 1)} if clock.now_s < clock.killed_s + 20 else {})
    assert end(root, MARK, 1.0) == set()
    assert clock.killed_s == pytest.approx(2.0, abs=0.25)  # it was asked twice before


def test_this_process_never_is_of_a_family_to_be_ended() -> None:
    ourselves = find(os.getpid())
    assert ourselves is not None
    assert ourselves not in family(ourselves, MARK)


def test_a_child_dies_with_its_parent() -> None:
    code = (
        "import subprocess, time; from cluster.processes import dying_with_parent\n"
        "child = subprocess.Popen(['sleep', '60'], preexec_fn=dying_with_parent())\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = find(int(parent.stdout.readline()))
    assert child is not None
    parent.kill()
    parent.wait()
    assert wait_until_gone(child)
    assert callable(dying_with_parent())


@pytest.mark.parametrize(("shell", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_the_exit_code_of_an_attended_command_is_that_of_a_shell(shell: str, code: int) -> None:
    assert attend(["/bin/sh", "-c", shell], os.environ) == code


def test_an_attended_command_that_does_not_exist_is_named() -> None:
    with pytest.raises(ClusterError, match="command 'no-such-command' cannot be run: No such file or directory"):
        attend(["no-such-command"], os.environ)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_attended_command_which_ends_in_its_own_time(number: signal.Signals) -> None:
    code = (
        "import os, sys; from cluster.processes import attend\n"
        "sys.exit(attend(['/bin/bash', '-c', sys.argv[1]], os.environ))"
    )
    script = "trap 'sleep 0.5; echo stopped; exit 3' TERM INT HUP; echo ready; while true; do sleep 0.05; done"
    outer = subprocess.Popen(
        [sys.executable, "-c", code, script], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True
    )
    assert outer.stdout is not None
    assert outer.stdout.readline() == b"ready\n"
    outer.send_signal(number)
    assert outer.stdout.read() == b"stopped\n"
    assert outer.wait() == 3


def test_a_signal_that_comes_before_the_command_is_known_reaches_it_too() -> None:
    code = (
        "import os; from cluster.processes import attend\n"
        "command = ['/bin/sh', '-c', 'kill -TERM $PPID; exec sleep 60']\n"
        "print({attend(command, os.environ) for _ in range(20)})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.stdout, done.returncode) == ("{143}\n", 0)
