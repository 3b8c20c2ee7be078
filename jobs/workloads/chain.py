"""Chain: a model whose parts run one after another, so that it can be cut between any two of them."""

from torch import Tensor, nn

Batch = dict[str, Tensor]


class Chain(nn.ModuleDict):
    """Links by name, in order. A link is called with what the one before it returned and with the batch.

    The first link is called with None. A chain of some of the links is a stretch of the model; names stay theirs.
    """

    def forward(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """What the last link returns; `hidden` is what the link before the first one of this stretch returned."""
        for link in self.values():
            hidden = link(hidden, batch)
        assert hidden is not None
        return hidden
