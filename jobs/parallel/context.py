"""context: every sequence split over a group of workers, each with one stretch of its positions.

Attention gathers the keys and values of all stretches, as in the all-gather form of Llama 3's training (Grattafiori
et al., 2024, section 3.3.2); what else a layer does concerns each position alone. Torch's own context parallelism has
no operator for the CPU.
"""

from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed._functional_collectives import all_gather_tensor, all_gather_tensor_autograd
from torch.distributed.device_mesh import DeviceMesh

from cluster.errors import SpecError
from cluster.layout import Layout
from jobs.parallel.modules import matching, replace
from jobs.workloads.partition import Partition


class GatheringAttention(nn.Module):
    """The attention of this worker's positions to those of the whole group."""

    def __init__(self, attend: nn.Module, group: ProcessGroup) -> None:
        super().__init__()
        self._attend, self._group = attend, group

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, query_position: Tensor, key_position: Tensor
    ) -> Tensor:
        """Args:
        query: [rows, heads, stretch, head_dim]; key, value: [rows, key heads, stretch, head_dim].
        query_position, key_position: where they stand in the whole sequence [rows, stretch], int64.
        """
        keys = all_gather_tensor_autograd(key.contiguous(), 2, self._group)
        values = all_gather_tensor_autograd(value.contiguous(), 2, self._group)
        positions = all_gather_tensor(key_position.contiguous(), 1, self._group)
        attended: Tensor = self._attend(query, keys, values, query_position, positions)
        return attended


def check(layout: Layout, partition: Partition) -> None:
    """Raise SpecError unless every sequence divides into equal stretches."""
    for key, size in partition.sequence_divides.items():
        if size % layout.context:
            fits = [n for n in range(1, size + 1) if size % n == 0][:8]
            raise SpecError(
                f"layout.context={layout.context} does not divide {key}={size}; "
                f"give one of {', '.join(map(str, fits))}, or another {key}"
            )


def apply(parts: list[nn.Module], layout: Layout, partition: Partition, mesh: DeviceMesh | None) -> list[nn.Module]:
    """Let attention see all stretches; the feed hands out one to each worker."""
    if layout.context > 1 and mesh is not None:
        for part in parts:
            for path, attend in list(matching(part, [partition.attention])):
                replace(part, path, GatheringAttention(attend, mesh["context"].get_group()))
    return parts
