"""The environment of every cluster that Rayline starts, and the token that guards it.

A variable the user has set himself always wins.
`eval "$(python -m cluster.environment)"` sets it in the shell that starts a node, as in cluster.yaml.
"""

import os
import secrets
import shlex
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from cluster.command import run
from cluster.cpu import numpy_environment
from cluster.errors import ClusterError
from cluster.local_proxy import write_program

MAX_HAPROXY_THREADS = 4


def make_scratch() -> Path:
    """A new folder for a cluster's sockets and logs, readable by this user alone.

    Always below /tmp: a path to a Unix socket may have 107 bytes, and Ray's own part of it takes 80.
    """
    return Path(mkdtemp(prefix="rl-", dir="/tmp"))


def node_environment(num_cpus: int) -> dict[str, str]:
    """What every node is started with, here of `num_cpus`; its processes read it when they are imported."""
    return {
        # Whoever reaches an open cluster runs code on it; Ray turns the token on only in some cases.
        "RAY_AUTH_MODE": "token",
        # Ray Data keeps one idle worker a CPU; on few CPUs each shuffle then waits for processes to start
        # (4.7 s for an aggregate that takes 0.2 s with warm workers).
        "RAY_num_workers_soft_limit": str(max(8, 4 * num_cpus)),
        # Workers otherwise run at nice 15, so replicas starve beside any busy process.
        "RAY_worker_niceness": "0",
        # A C proxy in front of the replicas, not the Python one: about 15 times less CPU a request.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(MAX_HAPROXY_THREADS, num_cpus // 2))),
        # One event loop a replica, gRPC between them and no log line a request.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Every new release and every stop waits this long; 30 s by default, requests here take milliseconds.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
        # A proxy that died is noticed within seconds instead of twenty.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "3",
        # Train looks for results and dead workers this often; 2 s is longer than a small run's epoch.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        # Nothing leaves the machine unasked.
        "RAY_USAGE_STATS_ENABLED": "0",
        # Workers import NumPy before anything of ours.
        **numpy_environment(),
    }


def local_environment(num_cpus: int, scratch: Path) -> dict[str, str]:
    """`node_environment` for one of several clusters on this machine, which would meet at Serve's fixed names."""
    haproxy = scratch / "haproxy"
    write_program(haproxy / "haproxy")
    stats_port, metrics_port = free_ports(8404, 9101)
    return {
        **node_environment(num_cpus),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        # Its ports on this machine's loopback alone, and no proxy left behind by a killed cluster.
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(haproxy / "haproxy"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
    }


@contextmanager
def applied(variables: Mapping[str, str]) -> Iterator[None]:
    """Set the variables that are not set yet in this process, and take just those away again on exit."""
    added = [name for name in variables if not os.environ.get(name)]
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def token_path() -> Path:
    """Where Ray looks for the token when RAY_AUTH_TOKEN is not set."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def has_token() -> bool:
    """Whether this user has a token to show to a cluster."""
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or token_path().is_file()


def ensure_token() -> None:
    """Make the token if there is none, and let only its owner read it: Ray itself writes it for all to read."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = token_path()
    if path.exists():
        _close_to_others(path)
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ClusterError(
            f"the cluster's token cannot be written to '{path}': {error}. Give a path in RAY_AUTH_TOKEN_PATH"
        ) from None
    with open(descriptor, "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(32))


def _close_to_others(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        try:
            path.chmod(mode & 0o700)
        except PermissionError:
            raise ClusterError(
                f"the cluster's token '{path}' (mode {mode:o}) can be read by other users; its owner must run: "
                f"chmod 600 {path}"
            ) from None


def free_ports(*preferred: int) -> list[int]:
    """As many different TCP ports that nothing listens on: the preferred ones where they are free."""
    held = [_bind(port) for port in preferred]
    ports = [int(bound.getsockname()[1]) for bound in held]
    for bound in held:
        bound.close()
    return ports


def _bind(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not count, listeners do
    try:
        bound.bind(("", port))
    except OSError:
        bound.bind(("", 0))
    return bound


def main(arguments: Sequence[str]) -> int:
    """Print what this node's shell has to export and has not set itself."""
    for name, value in node_environment(os.cpu_count() or 1).items():
        if not os.environ.get(name):
            print(f"export {name}={shlex.quote(value)}")
    return 0


if __name__ == "__main__":
    run(main)
