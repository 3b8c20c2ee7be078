"""Byte pair encoding: text as numbers of tokens, pieces of words that are learned (Gage, 1994; Sennrich et al., 2016).

Of bytes instead of characters, so that no text is unknown and every text comes back whole (Radford et al., 2019).
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from cluster.errors import DataError
from jobs.features.split import TrainRows
from jobs.features.step import Step, put_lists
from jobs.features.values import ColumnKind

NUM_BYTES = 256
START = 256
"""The token that is no piece of text: a document begins with it. Those below are bytes, those above are learned."""
NUM_TOKENS = 257
"""Without any that is learned."""
NUM_WORDS_FED = 1_000_000
"""Words that are learned from, about; where there are more, the counts of all are scaled down to that many."""
_SEEN = frozenset([*range(33, 127), *range(161, 173), *range(174, NUM_BYTES)])
"""Bytes whose sign, in the library's alphabet, is the character of that number; the others have the next ones."""
_HIDDEN = [byte for byte in range(NUM_BYTES) if byte not in _SEEN]
SIGNS = tuple(chr(byte) if byte in _SEEN else chr(NUM_BYTES + _HIDDEN.index(byte)) for byte in range(NUM_BYTES))
"""The library's alphabet: the character that stands for each byte."""


class Bpe(Step):
    """Numbers of tokens, whole and in int32; a missing text has none.

    Tokens never reach over the border of a word, where a word is a run of letters, digits or others with a space before
    it, as in GPT-2.
    """

    kind: Literal["bpe"] = "bpe"
    column: str
    output: str
    vocabulary_size: int = Field(ge=NUM_TOKENS)
    """Tokens at most: 256 bytes, the one that begins a document, and those that are learned."""
    min_count: int = Field(1, ge=1)
    """Times that a word must be in the training rows to be learned from."""
    ends_output: str = ""
    """A column for the place in the text, in characters, that each token ends before; none without a name."""

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The text."""
        return {self.column: "text"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The tokens, and where they end."""
        return dict.fromkeys(filter(None, (self.output, self.ends_output)), "numbers")

    def statistics(self, train: TrainRows) -> pa.Table:
        """How often each word is there."""
        counts: Counter[str] = Counter()
        for text in train.table.column(self.column).to_pylist():
            counts.update(_words(text))
        words, numbers = pa.array(counts.keys(), pa.string()), pa.array(counts.values(), pa.int64())
        return pa.table({"word": words, "count": numbers})

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """The counts of several parts as one."""
        merged = pa.concat_tables(parts).group_by("word").aggregate([("count", "sum")])
        return merged.rename_columns(["word", "count"])

    def fitted(self, statistics: pa.Table) -> Self:
        """The step that merges the pair of tokens which is there most often, again and again.

        Raises:
            DataError: no word is there `min_count` times.
        """
        kept = statistics.filter(pc.greater_equal(statistics.column("count"), self.min_count)).sort_by("word")
        if not kept.num_rows:
            raise DataError(
                f"bpe of {self.column}: no word of the {statistics.num_rows:,} in the training rows is there "
                f"min_count={self.min_count} times, so there is nothing to learn tokens from; lower min_count, or give "
                "more text"
            )
        return self.with_state(_learned(kept, self.vocabulary_size))

    def apply(self, table: pa.Table) -> pa.Table:
        """Lists of int32."""
        texts = table.column(self.column).to_pylist()
        table = put_lists(table, self.output, self.encoded(texts))
        return put_lists(table, self.ends_output, ends_of_tokens(self._tokenizer, texts)) if self.ends_output else table

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A list of whole numbers each."""
        texts = [row[self.column]]
        found = {self.output: self.encoded(texts)[0]}
        return found | ({self.ends_output: ends_of_tokens(self._tokenizer, texts)[0]} if self.ends_output else {})

    def told(self) -> str:
        """How many tokens, and the longest ones."""
        longest = sorted(self.pieces, key=lambda piece: (-len(piece), piece))[:8]
        shown = ", ".join(repr(piece.decode(errors="replace")) for piece in longest)
        return f"{self.column}: {len(self.pieces):,} tokens; the longest: {shown}"

    def encoded(self, texts: Iterable[str | None]) -> list[list[int]]:
        """The tokens of each text."""
        found = self._tokenizer.encode_batch_fast([text or "" for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decoded(self, tokens: Iterable[int]) -> str:
        """The text of these tokens; what is no whole character becomes U+FFFD."""
        return b"".join(self.pieces[token] for token in tokens).decode(errors="replace")

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes of each token, by its number; none of `START`."""
        pieces = [*(bytes([byte]) for byte in range(NUM_BYTES)), b""]
        for left, right in self.merges:
            pieces.append(pieces[left] + pieces[right])
        return tuple(pieces)

    @property
    def merges(self) -> list[tuple[int, int]]:
        """The tokens that each learned one is made of, in the order they were learned."""
        left, right = (self.state().column(name).to_pylist() for name in ("left", "right"))
        return list(zip(left, right, strict=True))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        names = [spelt(piece) for piece in self.pieces]
        names[START] = "\n"  # no sign of a byte, so that no text can spell it
        numbers = {piece: number for number, piece in enumerate(names)}
        merges = [(names[left], names[right]) for left, right in self.merges]
        return _in_one_thread(Tokenizer(models.BPE(numbers, merges)), pre_tokenizers.ByteLevel(add_prefix_space=False))


def ends_of_tokens(tokenizer: Tokenizer, texts: Iterable[str | None]) -> list[list[int]]:
    """Where each token of each text ends: the number of characters up to there, one that it has a part of included."""
    found = tokenizer.encode_batch([text or "" for text in texts], add_special_tokens=False)
    return [[end for _, end in encoding.offsets] for encoding in found]


def _words(text: str | None) -> Iterator[str]:
    """The words of a text, each byte of them as its sign."""
    found = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text) if text else []
    return (word for word, _ in found)


def _learned(words: pa.Table, vocabulary_size: int) -> pa.Table:
    """The pairs to merge, in that order: `left` and `right` [merges] int32; of words and how often each is there."""
    tokenizer = _in_one_thread(Tokenizer(models.BPE()), pre_tokenizers.WhitespaceSplit())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - 1,  # it knows no `START`
        min_frequency=1,
        show_progress=False,
        initial_alphabet=list(SIGNS),
    )
    tokenizer.train_from_iterator(_fed(words), trainer)
    numbers = {sign: byte for byte, sign in enumerate(SIGNS)}
    pairs = []
    for left, right in json.loads(tokenizer.to_str())["model"]["merges"]:
        if left + right not in numbers:
            pairs.append((numbers[left], numbers[right]))
            numbers[left + right] = START + len(pairs)
    columns = np.array(pairs, np.int32).reshape(-1, 2)
    return pa.table({"left": columns[:, 0].copy(), "right": columns[:, 1].copy()})


def _fed(words: pa.Table) -> Iterator[str]:
    """Each word as often as it is there, or its share of `NUM_WORDS_FED`, but once at least."""
    total = pc.sum(words.column("count")).as_py()
    for word, count in zip(words.column("word").to_pylist(), words.column("count").to_pylist(), strict=True):
        yield f"{word} " * (count if total <= NUM_WORDS_FED else max(count * NUM_WORDS_FED // total, 1))


def _in_one_thread(tokenizer: Tokenizer, words: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """The tokenizer with this rule for words; the cluster's tasks use the cores, and threads do not survive a fork."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer.pre_tokenizer = words
    return tokenizer


def spelt(piece: bytes) -> str:
    """A piece in the library's alphabet, which has a sign for each byte."""
    return "".join(SIGNS[byte] for byte in piece)
