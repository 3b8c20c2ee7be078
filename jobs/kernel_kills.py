"""How often the kernels of a cluster's nodes have killed a process for want of memory.

A process that is killed so leaves no error, and looks like any that was killed. The count is of the whole machine, so
one of another container counts too.
"""

from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

VMSTAT = Path("/proc/vmstat")
PATIENCE_S = 20.0


def kernel_kills() -> dict[str, int]:
    """The count of each node that answers in time, by the node's id."""
    untyped: Any = ray
    count = untyped.remote(num_cpus=0, max_retries=0)(count_here)
    asked = {
        str(node["NodeID"]): count.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in untyped.nodes()
        if node["Alive"]
    }
    done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=PATIENCE_S)
    return {node: answer for node, task in asked.items() if task in done and (answer := _answer(task)) is not None}


def has_risen(before: dict[str, int], after: dict[str, int]) -> bool:
    """Whether a node has killed since."""
    return any(count > before.get(node, count) for node, count in after.items())


def count_here() -> int:
    """Of this machine; 0 where its kernel does not say."""
    lines = VMSTAT.read_text().splitlines() if VMSTAT.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _answer(task: Any) -> int | None:
    try:
        return int(ray.get(task))
    except ray.exceptions.RayError:  # a node that went away meanwhile
        return None
