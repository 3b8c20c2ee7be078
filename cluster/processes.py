"""Processes of this machine, told apart even when the system hands out a pid again. Needs Linux's /proc."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from cluster.errors import ClusterError

PROC = Path("/proc")
PARENT_DEATH_SIGNAL = 1
POLL_S = 0.1
KILLED_WITHIN_S = 30.0
"""How long the system may take to end what was killed: seconds, where it has much else to do."""


@dataclass(frozen=True)
class Process:
    """One process: its pid and the clock tick at which it started, which together are never used again."""

    pid: int
    started_ticks: int

    def is_alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return self in running()


def find(pid: int) -> Process | None:
    """The process that has this pid now."""
    return next((process for process in running() if process.pid == pid), None)


@dataclass(frozen=True)
class Kin:
    """Whom a process belongs to, by pid."""

    parent: int
    session: int


def running() -> dict[Process, Kin]:
    """Every process that is no zombie."""
    found = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The second field is the program's name in parentheses and may hold spaces and parentheses itself.
        state, parent, _, session, *rest = text.rpartition(")")[2].split()
        if state not in "ZX":
            found[Process(int(folder.name), int(rest[15]))] = Kin(int(parent), int(session))
    return found


def command(process: Process) -> list[str]:
    """Its program and arguments; none if it is gone."""
    try:
        return (PROC / str(process.pid) / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return []


def family(root: Process, mark: str) -> set[Process]:
    """`root`, which leads a session, all in that session, all that descends from them, and all that carry `mark`.

    Being in the session, or having been started with `mark` in the environment, gives away those whose parent is
    gone already. Each alone is not enough: a program may begin a session of its own, or write over its environment.
    """
    kin = running()
    is_reused = any(process.pid == root.pid for process in kin.keys() - {root})
    members = {
        process
        for process, of in kin.items()
        if process == root or (of.session == root.pid and not is_reused) or _carries(process, mark)
    }
    while True:
        pids = {process.pid for process in members}
        children = {process for process, of in kin.items() if of.parent in pids} - members
        if not children:
            return {process for process in members if process.pid != os.getpid()}
        members |= children


def end(root: Process, mark: str, patience_s: float) -> set[Process]:
    """Ask `root` to end, then the rest of its family, then kill what is left; returns what survived even that.

    Each of the three has `patience_s` to take effect, and what is killed at least `KILLED_WITHIN_S`.
    """
    known = family(root, mark)
    _send({root} & known, signal.SIGTERM)
    _wait_gone({root}, patience_s)
    for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, max(patience_s, KILLED_WITHIN_S))):
        known |= family(root, mark)
        _send(known, number)
        _wait_gone(known, wait_s)
    return known & set(running())


def dying_with_parent() -> Callable[[], None]:
    """A function for a child to call before it becomes its program, so that it is killed if this process ends."""
    prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec a child should do next to nothing
    return lambda: prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def attend(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run `command` to its end and pass on the signals that ask to stop; returns its exit code as a shell would.

    Raises:
        ClusterError: there is no such command.
    """
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    def leave_alone(number: int, frame: FrameType | None) -> None:
        """Unlike SIG_IGN it is not inherited by the command."""

    # The terminal sends Ctrl-C to both; twice would cut short the command's own clean-up.
    on_interrupt = leave_alone if sys.stdin.isatty() else forward
    previous = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGINT, on_interrupt), (signal.SIGTERM, forward), (signal.SIGHUP, forward))
    }
    try:
        try:
            child = subprocess.Popen(command, env=environment)
        except OSError as error:
            raise ClusterError(f"command '{command[0]}' cannot be run: {error.strerror}") from None
        for number in early:  # it may be asked to stop before it is known here
            child.send_signal(number)
        code = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _wait_gone(processes: set[Process], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while processes & set(running()) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _carries(process: Process, mark: str) -> bool:
    try:
        return mark.encode() in (PROC / str(process.pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # it is gone, or another user's
        return False


def _send(processes: set[Process], number: signal.Signals) -> None:
    for process in processes & set(running()):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
