"""Sampling: which token follows, by chance or not."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

LOWEST_TEMPERATURE = 1e-5
"""Above 0; a logit divided by less could be more than float32 holds."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn, in OpenAI's terms."""

    temperature: float = 1.0
    """Logits are divided by it, or by `LOWEST_TEMPERATURE` where it is less; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens that together are this likely are drawn from (Holtzman et al., 2020)."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time that it was drawn already."""
    presence_penalty: float = 0.0
    """Taken from a token's logit once, where it was drawn already."""
    seed: int | None = None
    """The same seed draws the same; None another time after time."""


class Sampler:
    """Draws the tokens of one text."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling, self._drawn = sampling, Counter[int]()
        self._chance = torch.Generator()
        if sampling.seed is None:
            self._chance.seed()
        else:
            self._chance.manual_seed(sampling.seed)

    def draw(self, logits: Tensor) -> int:
        """The next token.

        Args:
            logits: [vocabulary_size], float32; -inf where a token cannot be.
        """
        token = self._drawn_from(self._penalised(logits))
        self._drawn[token] += 1
        return token

    def _penalised(self, logits: Tensor) -> Tensor:
        frequency, presence = self._sampling.frequency_penalty, self._sampling.presence_penalty
        if not self._drawn or not (frequency or presence):
            return logits
        tokens, counts = torch.tensor([*self._drawn]), torch.tensor([*self._drawn.values()], dtype=logits.dtype)
        return logits.index_add(0, tokens, -(frequency * counts + presence))

    def _drawn_from(self, logits: Tensor) -> int:
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        temperature = max(self._sampling.temperature, LOWEST_TEMPERATURE)
        probability = ((logits - logits.max()) / temperature).softmax(0)
        if self._sampling.top_p < 1:
            probability = _nucleus(probability, self._sampling.top_p)
        return int(torch.multinomial(probability, 1, generator=self._chance))


def _nucleus(probability: Tensor, top_p: float) -> Tensor:
    """The probabilities of the fewest tokens, one at least, that have `top_p` of it together, 0 for the others."""
    ordered, tokens = probability.sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    kept = torch.where(before < top_p, ordered, 0.0)
    kept[0] = ordered[0]  # a `top_p` that float32 rounds to 0 keeps none
    return torch.zeros_like(probability).index_copy(0, tokens, kept)


def only(logits: Tensor, num_known: int, left_out: Iterable[int]) -> Tensor:
    """Logits of the tokens that may follow; -inf for the others.

    Args:
        logits: [..., vocabulary_size].
        num_known: tokens that exist; those from there on are filling.
        left_out: those that may not.
    """
    known = logits.clone()
    known[..., num_known:] = -math.inf
    for token in left_out:
        known[..., token] = -math.inf
    return known
