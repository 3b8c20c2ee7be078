"""The head node that `python -m cluster up` leaves running on this machine."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.environment import ensure_token, free_ports, local_environment, make_scratch
from cluster.errors import ClusterError
from cluster.processes import Process, end, find

START_TIMEOUT_S = 180.0
STOP_PATIENCE_S = 5.0
POLL_S = 0.2
NUM_TAIL_LINES = 15
PREFERRED_PORTS = (6379, 8265, 52365, 10001)
"""Of the GCS, the dashboard, the node's agent and Ray Client."""
SIGNS_OF_BAD_LUCK = ("already occupied", "already in use", "imed out")
"""A port was taken after it was found free, or the machine was too busy for Ray's fixed time-outs: worth a retry."""
NOT_INHERITED = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR")  # they point into another cluster
LOGS_OF_A_FAILED_START = ("raylet.err", "gcs_server.err", "gcs_server.out", "dashboard.log", "raylet.out")


@dataclass(frozen=True)
class Head:
    """What must be known of a head node to reach it and to end it."""

    pid: int
    started_ticks: int
    address: str
    dashboard_url: str
    scratch: str

    @property
    def process(self) -> Process:
        """The `ray start` process, whose end is the cluster's end."""
        return Process(self.pid, self.started_ticks)


def start_head(
    num_cpus: int | None, report: Callable[[float], None], before_exec: Callable[[], None] | None = None
) -> Head:
    """Start a head node in a session of its own; `report` is told the seconds waited so far.

    Raises:
        ClusterError: it did not come up; the message ends with Ray's own log, and nothing is left running.
    """
    ensure_token()
    try:
        return _start(num_cpus, PREFERRED_PORTS, report, before_exec)
    except ClusterError as error:
        if not any(sign in str(error) for sign in SIGNS_OF_BAD_LUCK):
            raise
        return _start(num_cpus, tuple(0 for _ in PREFERRED_PORTS), report, before_exec)


def stop_head(head: Head) -> None:
    """End every process of the cluster and remove its scratch folder.

    Raises:
        ClusterError: a process survived being killed.
    """
    survivors = end(head.process, _mark(Path(head.scratch)), STOP_PATIENCE_S)
    if survivors:
        pids = " ".join(str(process.pid) for process in survivors)
        raise ClusterError(f"processes {pids} of the cluster at {head.address} do not end; see what they do: ps {pids}")
    shutil.rmtree(head.scratch, ignore_errors=True)


def running_head() -> Head | None:
    """The head node that `up` started, if it is still alive."""
    head = noted_head()
    return head if head and head.process.is_alive() else None


def noted_head() -> Head | None:
    """The head node that `up` noted last, alive or not."""
    try:
        return Head(**json.loads(_note().read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def note(head: Head) -> None:
    """Let later commands of this user find the head node."""
    path = _note()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staged = path.with_suffix(f".{os.getpid()}")
    staged.write_text(json.dumps(asdict(head), indent=1), encoding="utf-8")
    staged.rename(path)


def forget() -> None:
    """Undo `note`."""
    _note().unlink(missing_ok=True)


def _start(
    num_cpus: int | None,
    preferred_ports: tuple[int, ...],
    report: Callable[[float], None],
    before_exec: Callable[[], None] | None,
) -> Head:
    scratch = make_scratch()
    gcs, dashboard, agent, client = free_ports(*preferred_ports)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--temp-dir={_ray_folder(scratch)}", f"--port={gcs}", f"--ray-client-server-port={client}"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}"]
    command += ["--min-worker-port=0", "--max-worker-port=0"]  # any free one: a fixed range collides between clusters
    command += [f"--num-cpus={num_cpus}"] if num_cpus else []
    with (scratch / "start.log").open("wb") as log:
        started = subprocess.Popen(
            command,
            cwd=scratch,
            env=_environment(num_cpus or os.cpu_count() or 1, scratch),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=before_exec,
        )
    process = find(started.pid) or Process(started.pid, 0)
    try:
        address = _await_address(started, scratch, report)
    except BaseException:
        end(process, _mark(scratch), STOP_PATIENCE_S)
        started.wait()
        raise
    return Head(process.pid, process.started_ticks, address, f"http://127.0.0.1:{dashboard}", str(scratch))


def _note() -> Path:
    return Path.home() / ".rayline" / "cluster.json"


def _ray_folder(scratch: Path) -> Path:
    return scratch / "ray"  # one below: Ray opens the folder it is given to every user


def _mark(scratch: Path) -> str:
    return f"RAYLINE_CLUSTER={scratch}"


def _environment(num_cpus: int, scratch: Path) -> dict[str, str]:
    name, _, value = _mark(scratch).partition("=")
    inherited = {key: given for key, given in os.environ.items() if given and key not in NOT_INHERITED}
    # A job's `python` is found on PATH and has to be the interpreter that runs the cluster.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**local_environment(num_cpus, scratch), **inherited, "PATH": path, name: value}


def _await_address(started: "subprocess.Popen[bytes]", scratch: Path, report: Callable[[float], None]) -> str:
    begin = time.monotonic()
    ready = _ray_folder(scratch) / "ray_current_cluster"  # `ray start` writes it last
    while not ready.exists():
        waited_s = time.monotonic() - begin
        if started.poll() is not None or waited_s > START_TIMEOUT_S:
            raise ClusterError(_diagnosis(scratch, started.poll(), waited_s))
        report(waited_s)
        time.sleep(POLL_S)
    return ready.read_text(encoding="ascii").strip()


def _diagnosis(scratch: Path, code: int | None, waited_s: float) -> str:
    what = f"`ray start` ended with {code}" if code is not None else "it was not ready"
    logs = [
        scratch / "start.log",
        *(_ray_folder(scratch) / "session_latest/logs" / name for name in LOGS_OF_A_FAILED_START),
    ]
    tails = [f"--- {path}\n{_tail(path)}" for path in logs if path.is_file() and path.stat().st_size]
    return (
        f"the cluster did not start: {what} after {waited_s:.0f} s. A machine under heavy load may need a second try; "
        f"nothing is left running. All logs: {scratch}\n" + "\n".join(tails)
    )


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-NUM_TAIL_LINES:])
