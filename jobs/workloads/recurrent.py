"""A recurrent language model as a chain: long short-term memory (Hochreiter and Schmidhuber, 1997) or gated recurrent
units (Cho et al., 2014), in layers one upon the other (Graves, 2013).

A batch gives it `token`; what it knows of a text is a state of fixed size, so that it reads a text of any length in the
same memory. The state begins anew with every row.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from jobs.workloads.chain import Batch, Chain
from jobs.workloads.transformer import Embedding, Head, TransformerSpec

Cell = Literal["lstm", "gru"]
CELLS: dict[Cell, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
State = tuple[Tensor, ...]
"""Of a layer, a tensor [1, texts, hidden_dim] each: the hidden vectors, and of an LSTM its cells."""


def recurrent(spec: TransformerSpec, cell: Cell) -> Chain:
    """The untrained model: links `embedding`, `layer0`, `layer1`, ..., `head`; of `spec` their sizes and numbers."""
    layers = {f"layer{number}": RecurrentLayer(spec.hidden_dim, cell) for number in range(spec.num_layers)}
    embedding, head = Embedding(spec), Head(spec)
    if spec.tie_embeddings:
        head.output.weight = embedding.token.weight
    nn.init.normal_(embedding.token.weight, std=0.02 if spec.tie_embeddings else 1.0)
    if not spec.tie_embeddings:
        nn.init.normal_(head.output.weight, std=0.02)
    return Chain({"embedding": embedding, **layers, "head": head})


class RecurrentLayer(nn.Module):
    """One layer: its state after a token is what it tells the next layer of it."""

    def __init__(self, hidden_dim: int, cell: Cell) -> None:
        super().__init__()
        self.cell = CELLS[cell](hidden_dim, hidden_dim, batch_first=True)
        if cell == "lstm":  # a forget gate that begins open lets it learn from far back (Jozefowicz et al., 2015)
            biases = dict(self.cell.named_parameters())["bias_ih_l0"]
            nn.init.ones_(biases[hidden_dim : 2 * hidden_dim])

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """[rows, positions, hidden_dim], both ways."""
        # A pipeline sends what lies contiguous. Torch's cells give outputs, and gradients of inputs, that do not; where
        # a row's positions are put side by side, the gradients are so on their way back.
        inputs = hidden.flatten(1).view_as(hidden)
        output: Tensor = self.cell(inputs)[0]
        return output.contiguous()

    def read(self, hidden: Tensor, lengths: Sequence[int], state: State | None) -> tuple[Tensor, State]:
        """The same of texts of several lengths, going on from a state, with the state after the last of each.

        Args:
            hidden: [texts, positions, hidden_dim], of which each text's first `lengths` count.
            state: None where the texts begin.
        """
        packed = nn.utils.rnn.pack_padded_sequence(hidden, torch.tensor(lengths), True, enforce_sorted=False)
        given = state if state is None or len(state) > 1 else state[0]
        outputs, after = self.cell(packed, given)
        padded, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
        return padded, after if isinstance(after, tuple) else (after,)
