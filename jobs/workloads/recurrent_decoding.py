"""RecurrentDecoder: a recurrent model that goes on with several texts at a time, and keeps the state of each.

What `jobs.workloads.decoding` keeps of every token read, keys and values, is a state of fixed size here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from jobs.workloads.chain import Chain
from jobs.workloads.decoding import side_by_side
from jobs.workloads.device import device_of
from jobs.workloads.recurrent import RecurrentLayer, State


class RecurrentDecoder:
    """Texts that a model goes on with, numbered from 0 on without a gap."""

    def __init__(self, model: Chain, num_texts: int, capacity: int) -> None:
        """Args:
        num_texts: at a time.
        capacity: tokens of each text that are read.
        """
        self._model = model.eval()
        self._lengths: list[int] = []
        self._states: dict[str, State] = {}
        """By the name of the layer."""
        self.max_texts, self.capacity = num_texts, capacity

    @property
    def num_texts(self) -> int:
        """Those under way."""
        return len(self._lengths)

    @torch.inference_mode()
    def begin(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Read texts of a token at least, which are numbered after those that are there.

        Returns:
            The logits of what follows each [texts, vocabulary_size], float32.
        """
        lengths = [len(text) for text in texts]
        self._check(max(lengths))
        logits, states = self._read(side_by_side(texts), lengths, {})
        self._states = {
            name: tuple(torch.cat(both, 1) for both in zip(self._states[name], state, strict=True))
            if self._lengths
            else state
            for name, state in states.items()
        }
        self._lengths += lengths
        return logits[torch.arange(len(texts)), torch.tensor(lengths) - 1]

    @torch.inference_mode()
    def go_on(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token of every text; returns the logits of what follows [texts, vocabulary_size], float32."""
        self._check(max(self._lengths) + 1)
        logits, self._states = self._read(torch.tensor(tokens)[:, None], [1] * len(tokens), self._states)
        self._lengths = [length + 1 for length in self._lengths]
        return logits[:, 0]

    @torch.inference_mode()
    def drop(self, text: int) -> None:
        """Forget a text; the last one takes its number."""
        last = self.num_texts - 1
        order = [last if number == text else number for number in range(last)]
        self._states = {name: tuple(each[:, order] for each in state) for name, state in self._states.items()}
        self._lengths = [self._lengths[number] for number in order]

    def clear(self) -> None:
        """Forget all texts."""
        self._lengths = []

    def _check(self, length: int) -> None:
        if length > self.capacity:
            raise RuntimeError(f"a text of {length} tokens is longer than the {self.capacity} there is room for")

    def _read(self, token: Tensor, lengths: Sequence[int], states: dict[str, State]) -> tuple[Tensor, dict[str, State]]:
        batch = {"token": token.to(device_of(self._model))}
        hidden: Tensor | None = None
        after: dict[str, State] = {}
        for name, link in self._model.items():
            if isinstance(link, RecurrentLayer):
                assert hidden is not None
                hidden, after[name] = link.read(hidden, lengths, states.get(name))
            else:
                hidden = link(hidden, batch)
        assert hidden is not None
        return hidden.float().cpu(), after
