"""How a layout is applied to any workload's training: one module a strategy, the feed, checkpoints."""

from typing import Protocol

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from cluster.errors import SpecError
from cluster.layout import Layout
from jobs.parallel import compiled, context, pipeline, recompute, replicate, shard, tensor
from jobs.workloads.partition import Partition


class Check(Protocol):
    """What every strategy can say before a worker starts."""

    def check(self, layout: Layout, partition: Partition, /) -> None:
        """Raise SpecError where the model cannot be parted so."""


class Strategy(Check, Protocol):
    """What a strategy does to the parts of a model that a worker holds."""

    def apply(
        self, parts: list[nn.Module], layout: Layout, partition: Partition, mesh: DeviceMesh | None, /
    ) -> list[nn.Module]:
        """The parts as they are to be called; weights stay where they are named."""


STRATEGIES: dict[str, Strategy] = {
    "tensor": tensor,
    "context": context,
    "recompute": recompute,
    "compile": compiled,
    "shard": shard,
    "replicate": replicate,
}
"""In the order in which they are applied, after `pipeline` has cut the model into parts."""


def check(layout: Layout, partition: Partition, kind: str) -> None:
    """Raise SpecError unless a workload of this kind can be trained so.

    Called before a worker starts: needs no model, no device and no process group.
    """
    defaults = Layout()
    for key, reason in partition.refused.items():
        value, default = getattr(layout, key), getattr(defaults, key)
        if value != default:
            shown, given = (str(v).lower() if isinstance(v, bool) else v for v in (default, value))
            raise SpecError(
                f"layout.{key}={given} makes no sense for the {kind} workload: {reason}. Give layout.{key}={shown}"
            )
    checks: tuple[Check, ...] = (pipeline, *STRATEGIES.values())
    for strategy in checks:
        strategy.check(layout, partition)
