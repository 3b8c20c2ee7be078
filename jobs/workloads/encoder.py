"""A transformer that reads a text from both sides, in the form of BERT (Devlin et al., 2019), as a chain.

Learned positions, biases everywhere, norms after each block (as in Vaswani et al., 2017). A batch gives it `token`, of
which the first begins the text, `is_there` and, in training, `key` for dropout. Attention itself has no dropout.
"""

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cluster.spec import Spec
from jobs.features.bpe import NUM_TOKENS
from jobs.workloads.activation import ACTIVATIONS, Activation
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.dropout import RowDropout
from jobs.workloads.partition import TensorRole

LAYER_ROLES: dict[str, TensorRole] = {
    "layer*.query": "column",
    "layer*.key": "column",
    "layer*.value": "column",
    "layer*.attended": "row",
    "layer*.up": "column",
    "layer*.down": "row",
}
"""What each linear layer does on the `tensor` axis."""
NUM_TOKEN_TYPES = 2
"""Of sentences in BERT; ours reads one text, which is of the first type."""


class EncoderSpec(Spec):
    """How large it is."""

    num_layers: int = Field(2, ge=1)
    hidden_dim: int = Field(64, ge=1)
    num_heads: int = Field(4, ge=1)
    feed_forward_dim: int = Field(256, ge=1)
    activation: Activation = "gelu"
    norm_epsilon: float = Field(1e-12, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    vocabulary_size: int = Field(288, ge=NUM_TOKENS)
    num_positions: int = Field(128, ge=2)
    """Positions that there are vectors for."""

    @model_validator(mode="after")
    def _heads_fit(self) -> "EncoderSpec":
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"hidden_dim={self.hidden_dim} is no multiple of num_heads={self.num_heads}, which are of one size; "
                f"give hidden_dim={math.ceil(self.hidden_dim / self.num_heads) * self.num_heads}"
            )
        return self


def encoder(spec: EncoderSpec, num_classes: int, of: Literal["text", "token"]) -> Chain:
    """The untrained model: links `embedding`, `layer0`, `layer1`, ..., `head`, which names a class of each text or
    token."""
    layers = {f"layer{number}": Layer(spec, salt=2 * number + 1) for number in range(spec.num_layers)}
    head = TextHead(spec, num_classes) if of == "text" else TokenHead(spec, num_classes)
    model = Chain({"embedding": Embedding(spec), **layers, "head": head})
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return model


class Embedding(nn.Module):
    """The first link: tokens, and where they stand, as vectors."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.token = nn.Embedding(spec.vocabulary_size, spec.hidden_dim)
        self.position = nn.Embedding(spec.num_positions, spec.hidden_dim)
        self.token_type = nn.Embedding(NUM_TOKEN_TYPES, spec.hidden_dim)
        self.norm = nn.LayerNorm(spec.hidden_dim, eps=spec.norm_epsilon)
        self.dropout = RowDropout(spec.dropout, salt=0)

    def forward(self, hidden: None, batch: Batch) -> Tensor:
        """`token` [rows, positions] int64 -> [rows, positions, hidden_dim]."""
        token = batch["token"]
        place = torch.arange(token.shape[1], device=token.device).expand_as(token)
        vectors = self.token(token) + self.position(place) + self.token_type(torch.zeros_like(token))
        dropped: Tensor = self.dropout(self.norm(vectors), batch["key"])
        return dropped


class Layer(nn.Module):
    """Attention to all of the text, then the feed-forward block, each added to what came in and normalised."""

    def __init__(self, spec: EncoderSpec, salt: int) -> None:
        super().__init__()
        size, inner = spec.hidden_dim, spec.feed_forward_dim
        self.head_dim = size // spec.num_heads
        self.query, self.key, self.value = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, size)
        self.attended = nn.Linear(size, size)
        self.attention_norm = nn.LayerNorm(size, eps=spec.norm_epsilon)
        self.up, self.down = nn.Linear(size, inner), nn.Linear(inner, size)
        self.activation = ACTIVATIONS[spec.activation]
        self.feed_forward_norm = nn.LayerNorm(size, eps=spec.norm_epsilon)
        self.dropouts = nn.ModuleList([RowDropout(spec.dropout, salt), RowDropout(spec.dropout, salt + 1)])

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """[rows, positions, hidden_dim], both ways; takes `is_there` [rows, positions] bool from the batch."""
        query, key, value = (
            projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projected in (self.query(hidden), self.key(hidden), self.value(hidden))
        )
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=batch["is_there"][:, None, None, :])
        attended = self.dropouts[0](self.attended(seen.transpose(1, 2).flatten(2)), batch["key"])
        hidden = self.attention_norm(hidden + attended)
        inner = self.dropouts[1](self.down(self.activation(self.up(hidden))), batch["key"])
        output: Tensor = self.feed_forward_norm(hidden + inner)
        return output


class TextHead(nn.Module):
    """The last link: of the first position, which stands for the text, the logit of each class."""

    def __init__(self, spec: EncoderSpec, num_classes: int) -> None:
        super().__init__()
        self.pooler = nn.Linear(spec.hidden_dim, spec.hidden_dim)
        self.dropout = RowDropout(spec.dropout, salt=2 * spec.num_layers + 1)
        self.output = nn.Linear(spec.hidden_dim, num_classes)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """[rows, positions, hidden_dim] -> [rows, classes]."""
        pooled = self.dropout(self.pooler(hidden[:, 0]).tanh(), batch["key"])
        logits: Tensor = self.output(pooled)
        return logits


class TokenHead(nn.Module):
    """The last link: of every position the logit of each class."""

    def __init__(self, spec: EncoderSpec, num_classes: int) -> None:
        super().__init__()
        self.dropout = RowDropout(spec.dropout, salt=2 * spec.num_layers + 1)
        self.output = nn.Linear(spec.hidden_dim, num_classes)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """[rows, positions, hidden_dim] -> [rows, positions, classes]."""
        logits: Tensor = self.output(self.dropout(hidden, batch["key"]))
        return logits
