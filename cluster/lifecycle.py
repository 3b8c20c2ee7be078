"""How a stage finds its cluster: `with connected() as cluster:`.

RAY_ADDRESS if it is set, else the cluster of this machine that `python -m cluster up` or `ray start --head`
left running, else an embedded one that lives as long as the block.
"""

import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import worker as ray_worker
from ray._private.utils import read_ray_address
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # absent from Ray's stub

from cluster.environment import applied, ensure_token, has_token, local_environment, make_scratch
from cluster.errors import ClusterError
from cluster.head import running_head
from cluster.processes import command, running

REACH_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Cluster:
    """The cluster this process is connected to."""

    address: str
    """host:port of its GCS, as RAY_ADDRESS takes it."""
    is_embedded: bool
    """Whether it ends with this process."""
    dashboard_url: str | None


@contextmanager
def connected(num_cpus: int | None = None, object_store_bytes: int | None = None) -> Iterator[Cluster]:
    """Connect this process to a cluster for the length of the block.

    `num_cpus` and `object_store_bytes` are the size of an embedded one; by default all CPUs, and what Ray thinks fit.

    A process that is connected already stays so, on the same cluster, also after the block.

    Raises:
        ClusterError: RAY_ADDRESS cannot be reached, or no cluster could be started.
    """
    if ray.is_initialized():
        yield _current()
        return
    address = find_address()
    with _embedded(num_cpus, object_store_bytes) if address is None else _joined(address):
        try:
            yield _current()
        finally:
            ray.shutdown()


def find_address() -> str | None:
    """The host:port of the cluster to use, or None when an embedded one has to be started.

    Raises:
        ClusterError: RAY_ADDRESS is set and nothing answers there.
    """
    given = os.environ.get("RAY_ADDRESS") or "auto"
    if given == "local":
        return None
    if given != "auto":
        _check_reachable(given)
        return given
    head = running_head()
    if head:
        return head.address
    # Not address="auto": that takes any cluster it finds among the processes, embedded ones of others too.
    noted: str | None = read_ray_address()
    return noted if noted and _has_node_here(noted) else None


def describe(cluster: Cluster) -> list[str]:
    """The cluster in a few lines: nodes, what is free, dashboard, Serve applications."""
    from ray import serve  # takes a second to import, which no stage but serving should pay

    untyped: Any = ray
    total, free = untyped.cluster_resources(), untyped.available_resources()
    nodes = [node for node in untyped.nodes() if node["Alive"]]
    units = [f"{free.get(unit, 0):g} of {total.get(unit, 0):g} {unit}s free" for unit in ("CPU", "GPU")]
    applications = serve.status().applications
    return [
        f"cluster at {cluster.address}: {len(nodes)} node{'s' if len(nodes) > 1 else ''}, {', '.join(units)}",
        f"dashboard: {cluster.dashboard_url or 'none'}",
        *(f"node {node['NodeManagerAddress']}: {_resources(node['Resources'])}" for node in nodes),
        *(f"application {name}: {app.status.value}" for name, app in applications.items()),
    ]


def _resources(resources: Mapping[str, float]) -> str:
    gib = resources.get("memory", 0) / 2**30
    return f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs, {gib:.1f} GiB memory"


@contextmanager
def _joined(address: str) -> Iterator[None]:
    with applied({"RAY_AUTH_MODE": "token"} if has_token() else {}):
        _adopt_authentication()
        try:
            ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError) as error:
            raise ClusterError(
                f"the cluster at {address} cannot be joined: {error}. Its token must be the one in "
                "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, and its Ray version the same as here"
            ) from error
        yield


@contextmanager
def _embedded(num_cpus: int | None, object_store_bytes: int | None) -> Iterator[None]:
    scratch = make_scratch()
    try:
        with applied(local_environment(num_cpus or os.cpu_count() or 1, scratch)):
            ensure_token()
            _adopt_authentication()
            try:
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    object_store_memory=object_store_bytes,
                    log_to_driver=True,
                    logging_level=logging.WARNING,
                )
            except Exception as error:  # a plain one where the machine was too busy for Ray's time-outs
                raise ClusterError(
                    f"an embedded cluster could not be started: {error}. The cause is in raylet.err and "
                    "gcs_server.out below /tmp/ray/session_latest/logs; a busy machine may need a second try"
                ) from error
            yield
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _adopt_authentication() -> None:
    """Make Ray read RAY_AUTH_MODE and the token anew: it did so when it was imported, before they were set."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _current() -> Cluster:
    dashboard: str | None = ray_worker.get_dashboard_url()
    node: Any = ray_worker._global_node
    return Cluster(
        address=ray.get_runtime_context().gcs_address,
        is_embedded=node.is_head(),  # a driver is the head only of a cluster that it started itself
        dashboard_url=f"http://{dashboard}" if dashboard else None,
    )


def _check_reachable(address: str) -> None:
    if "://" in address:
        raise ClusterError(
            f"RAY_ADDRESS={address} is a URL; give the cluster's own host:port (6379 by default), or send the "
            "stage there: ray job submit --address http://HOST:8265 --working-dir . -- python -m jobs..."
        )
    if not _answers(address):
        raise ClusterError(
            f"RAY_ADDRESS={address} does not answer within {REACH_TIMEOUT_S:g} s. Start that cluster, correct the "
            "address, or unset RAY_ADDRESS to use a cluster on this machine"
        )


def _has_node_here(address: str) -> bool:
    """Whether a node that `ray start` left on this machine is of the cluster at `address`.

    The note of a cluster that was killed stays behind, and another one may have its port by now.
    """
    marks = {f"--gcs-address={address}", f"--temp_dir={get_default_ray_temp_dir()}"}
    return any(marks <= set(command(process)) for process in running())


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_TIMEOUT_S).close()
    except (OSError, ValueError):
        return False
    return True
