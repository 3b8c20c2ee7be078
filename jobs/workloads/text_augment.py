"""Tokens replaced by chance for training: what the model reads, never what it is to say."""

import torch
from pydantic import Field
from torch import Tensor

from cluster.spec import Spec
from jobs.features.bpe import START
from jobs.workloads.row_chance import AUGMENT_SALT, uniform

CHOICE, PLACE = AUGMENT_SALT, AUGMENT_SALT + 1
"""Salts."""


class TextAugmentSpec(Spec):
    """What is changed by chance in every row of training, anew in each epoch."""

    replace: float = Field(0, ge=0, lt=1)
    """The probability with which a token that the model reads is one from any place of its row (Xie et al., 2017,
    unigram noising, with the row's own counts)."""


def augmented(spec: TextAugmentSpec, tokens: Tensor, key: Tensor) -> Tensor:
    """Tokens as training reads them [rows, positions], int64. The borders of documents stay where they are.

    Args:
        tokens: [rows, positions], int64; whole rows, not stretches of them.
        key: a number of each row's own in this step [rows], int64.
    """
    length = tokens.shape[1]
    place = (uniform(key, length, PLACE).double() * length).long()
    drawn = tokens.gather(1, place)
    chosen = uniform(key, length, CHOICE) < spec.replace
    return torch.where(chosen & (tokens != START) & (drawn != START), drawn, tokens)
