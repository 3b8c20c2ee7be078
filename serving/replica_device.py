"""Where a replica's model answers: on the CPU, or on the share of a GPU that the spec gives each replica."""

import socket

import torch
from ray import serve
from ray.serve.exceptions import RayServeException

from cluster.errors import ClusterError
from cluster.placement import Node
from jobs.spec import ServingSpec
from serving.published import CPU


def device_of_replica(serving: ServingSpec) -> torch.device:
    """The device to load a version on; outside a replica, where a version is only tried, the CPU.

    A replica with a share of a GPU may fill that share of its memory, and computes in whole float32, as in training.

    Raises:
        ClusterError: this replica has a share of a GPU, but torch sees none.
    """
    if not serving.num_gpus or not _is_in_replica():
        return CPU
    if not torch.cuda.is_available():
        raise ClusterError(
            f"serving.num_gpus={serving.num_gpus:g} gives each replica a GPU, but torch {torch.__version__} sees none "
            f"on {socket.gethostname()}; install a build of torch for CUDA there, or answer on CPUs: serving.num_gpus=0"
        )
    torch.cuda.set_per_process_memory_fraction(serving.num_gpus)
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


def _is_in_replica() -> bool:
    try:
        serve.get_replica_context()
    except RayServeException:
        return False
    return True


def check_gpus(serving: ServingSpec, nodes: list[Node]) -> None:
    """Raise ClusterError unless the nodes have a share of a GPU for each replica; Serve would wait for it."""
    if not serving.num_gpus:
        return
    num_replicas = serving.autoscale.min_replicas if serving.autoscale else serving.num_replicas
    gpus = [int(node.total.get("GPU", 0.0)) for node in nodes]
    room = sum(gpus) * int(1 / serving.num_gpus + 1e-9)
    if room < num_replicas:
        raise ClusterError(
            f"serving.num_gpus={serving.num_gpus:g} for each of {num_replicas} replicas, but the {len(nodes)} nodes "
            f"have {sum(gpus)} GPUs, room for {room}; add a node with GPUs, or answer on CPUs: serving.num_gpus=0"
        )
