"""A decoder-only transformer (Vaswani et al., 2017) in the form of Llama (Touvron et al., 2023), as a chain.

Norms before each block (RMSNorm, Zhang and Sennrich, 2019), rotary positions (RoPE, Su et al., 2021), grouped-query
attention (Ainslie et al., 2023) and SwiGLU (Shazeer, 2020). With `qkv_bias` it has the form of Qwen2 (Yang et al.,
2024), with `qk_norm` that of Qwen3 (Yang et al., 2025). A batch gives it `token` and `position`.
"""

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cluster.spec import Spec
from jobs.features.bpe import NUM_TOKENS
from jobs.workloads.activation import ACTIVATIONS, Activation
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.partition import TensorRole
from jobs.workloads.rope_scaling import RopeScalingSpec, slowed

LAYER_ROLES: dict[str, TensorRole] = {
    "layer*.attention_norm": "norm",
    "layer*.attention": "block",
    "layer*.attention.query": "column",
    "layer*.attention.key": "column",
    "layer*.attention.value": "column",
    "layer*.attention.output": "row",
    "layer*.feed_forward_norm": "norm",
    "layer*.feed_forward": "block",
    "layer*.feed_forward.gate": "column",
    "layer*.feed_forward.up": "column",
    "layer*.feed_forward.down": "row",
}
"""What each module of a layer does on the `tensor` axis."""
HEAD_NORM_ROLES: dict[str, TensorRole] = {
    "layer*.attention.query_norm": "head_norm",
    "layer*.attention.key_norm": "head_norm",
}
"""Besides those, where there is `qk_norm`."""


class TransformerSpec(Spec):
    """How large it is."""

    num_layers: int = Field(4, ge=1)
    hidden_dim: int = Field(128, ge=1)
    num_heads: int = Field(4, ge=1)
    num_kv_heads: int = Field(2, ge=1)
    """Heads of keys and values; each serves num_heads / num_kv_heads of the queries'."""
    head_dim: int | None = Field(None, ge=2, multiple_of=2)
    """Features of each attention head; None makes it hidden_dim / num_heads."""
    qkv_bias: bool = False
    """Whether queries, keys and values have biases, as in Qwen2."""
    qk_norm: bool = False
    """Whether each head's query and key are normed before they are turned (Dehghani et al., 2023), as in Qwen3."""
    feed_forward_dim: int = Field(384, ge=1)
    activation: Activation = "silu"
    """Of the gate in each feed-forward block: `silu` makes it SwiGLU, `gelu` GeGLU (Shazeer, 2020)."""
    rope_theta: float = Field(10_000.0, gt=1)
    """The slowest pair of features turns round once in about 2 pi rope_theta positions."""
    rope_scaling: RopeScalingSpec | None = None
    """Of Llama 3.1 and later."""
    norm_epsilon: float = Field(1e-5, gt=0)
    """Added to the mean square in every norm."""
    tie_embeddings: bool = False
    """Use one matrix for the tokens that come in and the logits that go out."""
    vocabulary_size: int = Field(288, ge=NUM_TOKENS)
    """Logits of each position. Without a tokenizer 257 tokens exist; what is beyond those that exist is filling: 288
    divides over 2, 3, 4, 6, 8, 9, 12 or 16."""

    @property
    def features_a_head(self) -> int:
        """`head_dim`, or what it is where it is not given."""
        return self.head_dim or self.hidden_dim // self.num_heads

    @property
    def has_heads(self) -> bool:
        """Whether it is a transformer at all, which other models of its sizes are not."""
        return True

    @model_validator(mode="after")
    def _heads_fit(self) -> "TransformerSpec":
        step = 2 * self.num_heads
        if not self.has_heads:
            return self
        if self.head_dim is None and self.hidden_dim % step:
            raise ValueError(
                f"hidden_dim={self.hidden_dim} is no multiple of 2 x num_heads = {step}: heads are of one size, and "
                f"positions turn their features in pairs; give hidden_dim={math.ceil(self.hidden_dim / step) * step}, "
                "or a head_dim"
            )
        if self.num_heads % self.num_kv_heads:
            fits = [str(n) for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
            raise ValueError(
                f"num_heads={self.num_heads} do not share num_kv_heads={self.num_kv_heads} evenly; "
                f"give num_kv_heads as one of {', '.join(fits)}"
            )
        return self


def transformer(spec: TransformerSpec) -> Chain:
    """The untrained model: links `embedding`, `layer0`, `layer1`, ..., `head`."""
    layers = {f"layer{number}": Layer(spec) for number in range(spec.num_layers)}
    embedding, head = Embedding(spec), Head(spec)
    model = Chain({"embedding": embedding, **layers, "head": head})
    if spec.tie_embeddings:
        head.output.weight = embedding.token.weight
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            # Each layer adds twice to the hidden vectors, whose variance should not grow with depth (GPT-2, 2019).
            adds = name.endswith(("attention.output", "feed_forward.down"))
            nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * spec.num_layers) if adds else 0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


class CausalAttention(nn.Module):
    """Scaled dot-product attention of each position to itself and to those before it; has no weights."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, query_position: Tensor, key_position: Tensor
    ) -> Tensor:
        """Returns [rows, heads, queries, head_dim].

        Args:
            query: [rows, heads, queries, head_dim].
            key: like `value`, [rows, kv heads, keys, head_dim]; heads is a multiple of kv heads.
            query_position: [rows, queries], int64.
            key_position: [rows, keys], int64; one and the same tensor as `query_position` means a whole sequence in
                order, for which torch needs no mask.
        """
        is_whole = query_position is key_position
        mask = None if is_whole else (key_position[:, None, None, :] <= query_position[:, None, :, None])
        is_grouped = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=is_whole, enable_gqa=is_grouped
        )


class Attention(nn.Module):
    """Grouped-query attention with rotary positions. How many heads it holds is for its weights to say."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        head_dim, bias = spec.features_a_head, spec.qkv_bias
        self.head_dim, self.rope_theta, self.rope_scaling = head_dim, spec.rope_theta, spec.rope_scaling
        self.query = nn.Linear(spec.hidden_dim, spec.num_heads * head_dim, bias=bias)
        self.key = nn.Linear(spec.hidden_dim, spec.num_kv_heads * head_dim, bias=bias)
        self.value = nn.Linear(spec.hidden_dim, spec.num_kv_heads * head_dim, bias=bias)
        self.query_norm = nn.RMSNorm(head_dim, eps=spec.norm_epsilon) if spec.qk_norm else None
        self.key_norm = nn.RMSNorm(head_dim, eps=spec.norm_epsilon) if spec.qk_norm else None
        self.attend: nn.Module = CausalAttention()
        self.output = nn.Linear(spec.num_heads * head_dim, spec.hidden_dim, bias=False)

    def forward(self, hidden: Tensor, position: Tensor) -> Tensor:
        """Args:
        hidden: [rows, positions, hidden_dim].
        position: [rows, positions], int64.
        """
        query, key, value = (
            projected.unflatten(-1, (-1, self.head_dim))
            for projected in (self.query(hidden), self.key(hidden), self.value(hidden))
        )
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        angle = rotary_angle(position, self.head_dim, self.rope_theta, self.rope_scaling)[:, None]
        attended = self.attend(rotated(query, angle), rotated(key, angle), value, position, position)
        output: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return output


class FeedForward(nn.Module):
    """A gated linear unit."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.gate = nn.Linear(spec.hidden_dim, spec.feed_forward_dim, bias=False)
        self.activation = ACTIVATIONS[spec.activation]
        self.up = nn.Linear(spec.hidden_dim, spec.feed_forward_dim, bias=False)
        self.down = nn.Linear(spec.feed_forward_dim, spec.hidden_dim, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[rows, positions, hidden_dim], both ways."""
        output: Tensor = self.down(self.activation(self.gate(hidden)) * self.up(hidden))
        return output


class Embedding(nn.Module):
    """The first link: tokens as vectors."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.token = nn.Embedding(spec.vocabulary_size, spec.hidden_dim)

    def forward(self, hidden: None, batch: Batch) -> Tensor:
        """[rows, positions, hidden_dim] of the batch's `token`."""
        vectors: Tensor = self.token(batch["token"])
        return vectors


class Layer(nn.Module):
    """Attention, then the feed-forward block, each added to what came in."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(spec.hidden_dim, eps=spec.norm_epsilon)
        self.attention = Attention(spec)
        self.feed_forward_norm = nn.RMSNorm(spec.hidden_dim, eps=spec.norm_epsilon)
        self.feed_forward = FeedForward(spec)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """[rows, positions, hidden_dim], both ways; takes `position` from the batch."""
        hidden = hidden + self.attention(self.attention_norm(hidden), batch["position"])
        output: Tensor = hidden + self.feed_forward(self.feed_forward_norm(hidden))
        return output


class Head(nn.Module):
    """The last link: logits of the next token."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(spec.hidden_dim, eps=spec.norm_epsilon)
        self.output = nn.Linear(spec.hidden_dim, spec.vocabulary_size, bias=False)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """[rows, positions, vocabulary_size]."""
        logits: Tensor = self.output(self.norm(hidden))
        return logits


def rotary_angle(position: Tensor, head_dim: int, theta: float, scaling: RopeScalingSpec | None = None) -> Tensor:
    """By how much each pair of features turns at each position [..., head_dim / 2], float32."""
    pair = torch.arange(head_dim // 2, device=position.device, dtype=torch.float32)
    speed: Tensor = theta ** (-2 * pair / head_dim)
    return position[..., None] * (speed if scaling is None else slowed(speed, scaling))


def rotated(vectors: Tensor, angle: Tensor) -> Tensor:
    """Feature i of each vector and feature i + head_dim / 2 turned as a pair; in the vectors' dtype.

    Args:
        vectors: [..., head_dim].
        angle: [..., head_dim / 2], float32.
    """
    cos, sin = angle.cos(), angle.sin()
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(vectors.dtype)
