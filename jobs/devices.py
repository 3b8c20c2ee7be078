"""How many devices a cluster has for the workers of a spec."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

from cluster.placement import Node
from cluster.reservation import inventory
from jobs.spec import RingSpec


@dataclass(frozen=True)
class Devices:
    """Each of them is enough for one worker."""

    number: int
    of_a_node: int
    """On the node that has the most."""


def devices_of(spec: RingSpec) -> Devices:
    """Of the connected cluster: its GPUs where there are any and the spec may take them, else its CPUs."""
    return counted(spec, inventory())


def counted(spec: RingSpec, nodes: Sequence[Node]) -> Devices:
    """Of these nodes."""
    given = spec.placement
    fitting = [node for node in nodes if given.gpu_type in ("", node.gpu_type)]
    has_gpus = any(node.total.get("GPU", 0.0) for node in fitting)
    unit, each = ("CPU", given.cpus_per_worker)
    if spec.train.device == "gpu" or (spec.train.device == "auto" and has_gpus):
        unit, each = ("GPU", given.gpus_per_worker)
    a_node = [floor(node.total.get(unit, 0.0) / each) for node in fitting]
    return Devices(sum(a_node), max(a_node, default=0))
