"""Decoder: a transformer that goes on with several texts at a time, and keeps what it has read of each.

The keys and values of every token read stay, so that one more token costs the work of one position (the KV cache;
Shazeer, 2019, section 2.4). Texts join and leave between any two tokens, as continuous batching asks (Yu et al., 2022,
Orca).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jobs.workloads.chain import Chain
from jobs.workloads.device import device_of
from jobs.workloads.transformer import Attention


@dataclass
class _Call:
    """What each layer has to know of the call that is under way."""

    first: int = 0
    """The row of the cache that the call's first row is."""
    num_positions: int = 0
    """Positions of the cache that may be looked at."""


class CachedAttention(nn.Module):
    """The attention of new positions to all that were read of their text."""

    def __init__(self, attend: nn.Module, call: _Call, num_rows: int, capacity: int) -> None:
        super().__init__()
        self.attend, self._call, self._num_rows, self._capacity = attend, call, num_rows, capacity
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, query_position: Tensor, key_position: Tensor
    ) -> Tensor:
        """As of the attention it stands for; what it keeps is [num_rows, kv heads, capacity, head_dim]."""
        self._keys = self._kept(self._keys, key, key_position)
        self._values = self._kept(self._values, value, key_position)
        rows = slice(self._call.first, self._call.first + len(key))
        keys, values = (kept[rows, :, : self._call.num_positions] for kept in (self._keys, self._values))
        position = torch.arange(self._call.num_positions, device=key.device).expand(len(key), -1)
        attended: Tensor = self.attend(query, keys, values, query_position, position)
        return attended

    @torch.inference_mode()
    def move(self, row: int, to: int) -> None:
        """Let what was kept of one row be another's."""
        for kept in (self._keys, self._values):
            assert kept is not None
            kept[to] = kept[row]

    def _kept(self, kept: Tensor | None, given: Tensor, position: Tensor) -> Tensor:
        if kept is None:  # here the dtype, the device and the heads are known
            kept = given.new_zeros(self._num_rows, given.shape[1], self._capacity, given.shape[3])
        rows = kept[self._call.first : self._call.first + len(given)]
        rows.scatter_(2, position[:, None, :, None].expand_as(given), given)
        return kept


class Decoder:
    """Texts that a model goes on with, numbered from 0 on without a gap."""

    def __init__(self, model: Chain, num_texts: int, capacity: int) -> None:
        """Takes the model over, also from another decoder: it can only be called from here afterwards.

        Args:
            num_texts: at a time.
            capacity: tokens of each text that are read.
        """
        self._model, self._call = model.eval(), _Call()
        self._lengths: list[int] = []
        self._attentions: list[CachedAttention] = []
        self.max_texts, self.capacity = num_texts, capacity
        for module in model.modules():
            if isinstance(module, Attention):
                attend = module.attend.attend if isinstance(module.attend, CachedAttention) else module.attend
                cached = CachedAttention(attend, self._call, num_texts, capacity)
                module.attend = cached
                self._attentions.append(cached)

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
        longest = max(lengths)
        token = side_by_side(texts)
        # What fills up the shorter ones stands at positions that are written over before anything looks at them.
        position = torch.arange(longest).expand(len(texts), -1)
        logits = self._read(token, position, first=self.num_texts, num_positions=longest)
        self._lengths += lengths
        return logits[torch.arange(len(texts)), torch.tensor(lengths) - 1]

    @torch.inference_mode()
    def go_on(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token of every text; returns the logits of what follows [texts, vocabulary_size], float32."""
        position = torch.tensor(self._lengths)[:, None]
        token = torch.tensor(tokens)[:, None]
        logits = self._read(token, position, first=0, num_positions=max(self._lengths) + 1)
        self._lengths = [length + 1 for length in self._lengths]
        return logits[:, 0]

    def drop(self, text: int) -> None:
        """Forget a text; the last one takes its number."""
        last = self.num_texts - 1
        if text != last:
            for attention in self._attentions:
                attention.move(last, text)
            self._lengths[text] = self._lengths[last]
        self._lengths.pop()

    def clear(self) -> None:
        """Forget all texts."""
        self._lengths = []

    def _read(self, token: Tensor, position: Tensor, first: int, num_positions: int) -> Tensor:
        self._call.first, self._call.num_positions = first, num_positions
        device = device_of(self._model)
        logits: Tensor = self._model({"token": token.to(device), "position": position.to(device)})
        return logits.float().cpu()


def side_by_side(texts: Sequence[Sequence[int]]) -> Tensor:
    """Texts of a token at least as rows of one length, the shorter ones filled up with their last token."""
    longest = max(map(len, texts))
    return torch.tensor([[*text, *[text[-1]] * (longest - len(text))] for text in texts])
