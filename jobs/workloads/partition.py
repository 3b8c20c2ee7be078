"""Partition: how a workload's model may be parted over workers, declared as data beside the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

TensorRole = Literal["column", "row", "head", "head_norm", "norm", "block", "embedding"]
"""What a module does on the `tensor` axis.

`column`: a linear layer split by output features, which stay split; `row`: one split by input features, its outputs
summed; `head`: split by output features, which are gathered. The others hold whole weights: `head_norm` looks at each
attention head [rows, positions, heads, features] alone, of which it sees its worker's, `norm` at each position, `block`
begins with `column` layers and needs all positions, `embedding` makes positions from rows.
"""


@dataclass(frozen=True)
class Turn:
    """The weights that a step moves where players take turns; each player has optimizer state of its own."""

    module: str
    """Whose weights they are."""
    rate_factor: float = 1.0
    """Of the learning rate."""


@dataclass(frozen=True)
class Partition:
    """What each axis has to know of a model. Patterns are module paths as fnmatch takes them: `layer*.attention.key`.

    A model that is a `Chain` can be cut into a pipeline between any two of its links.
    """

    units: tuple[str, ...] = ()
    """Modules that are sharded, recomputed and compiled each as a whole; none inside another; "" is the whole model."""
    num_links: int = 1
    """How many links the chain has; 1 where the model is no chain."""
    tensor: Mapping[str, TensorRole] = field(default_factory=dict)
    tensor_divides: Mapping[str, int] = field(default_factory=dict)
    """Sizes that a tensor group has to divide, by the spec keys that set them."""
    sequence: tuple[str, ...] = ()
    """Entries of a batch whose second dim is the position in a sequence."""
    sequence_divides: Mapping[str, int] = field(default_factory=dict)
    """Likewise for what splits a sequence."""
    attention: str = ""
    """The modules without weights through which positions see each other; see `jobs.parallel.context`."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Layout keys that make no sense for this model, each with the reason."""
    turns: tuple[Turn, ...] = ()
    """What the steps move, one after another and over again; each weight is in one of them. None: each step moves all.

    The batch then has `turn` [rows] int64, which of them it is, for the loss. All weights take part in every step's
    computation, so that every layout sees the same one, and the gradients of those that stay are dropped.
    """
