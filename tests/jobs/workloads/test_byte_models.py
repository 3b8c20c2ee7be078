import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from jobs.features.bpe import START, Bpe
from jobs.features.split import TrainRows
from jobs.workloads.byte_models import ROWS_AT_ONCE, bigram, bits_per_byte, pair_counts, unigram
from jobs.workloads.text_windows import BeginStreams, one_a_split, one_each, tokens_of, windows

TRAIN = ("the quick brown fox", "jumps over the lazy dog, ünïcödé", "a")
TEST = ("the dog", "über zzz")


def rows(texts: tuple[str, ...], context_length: int = 5) -> pa.Table:
    return windows(pa.table({"document": [str(n) for n in range(len(texts))], "text": list(texts)}), context_length)


def pairs(texts: tuple[str, ...]) -> list[tuple[int, int]]:
    """Each byte with what stands before it, straight from the texts."""
    streams = [[START, *text.encode()] for text in texts]
    return [pair for stream in streams for pair in pairwise(stream)]


@pytest.mark.parametrize("context_length", [1, 5, 100])
def test_pair_counts_are_those_of_the_texts_however_they_are_cut(context_length: int) -> None:
    counts = pair_counts(rows(TRAIN, context_length))
    expected = Counter(pairs(TRAIN))
    assert {(int(a), int(b)): int(counts[a, b]) for a, b in np.argwhere(counts)} == expected


def test_pair_counts_of_many_rows_lose_none_between_the_parts() -> None:
    text = "ab" * (ROWS_AT_ONCE + 3)
    counts = pair_counts(rows((text,), 1))
    assert (counts[START, 97], counts[97, 98], counts[98, 97]) == (1, ROWS_AT_ONCE + 3, ROWS_AT_ONCE + 2)


def test_unigram_bits_are_those_of_a_plain_loop() -> None:
    seen = Counter(byte for _, byte in pairs(TRAIN))
    total = sum(seen.values())
    bits = [-math.log2((seen[byte] + 1) / (total + 256)) for _, byte in pairs(TEST)]
    measured = bits_per_byte(unigram(pair_counts(rows(TRAIN))), pair_counts(rows(TEST)))
    assert measured == pytest.approx(sum(bits) / len(bits), rel=1e-12)


def test_bigram_bits_are_those_of_a_plain_loop() -> None:
    seen, before = Counter(pairs(TRAIN)), Counter(token for token, _ in pairs(TRAIN))
    bits = [-math.log2((seen[pair] + 1) / (before[pair[0]] + 256)) for pair in pairs(TEST)]
    measured = bits_per_byte(bigram(pair_counts(rows(TRAIN))), pair_counts(rows(TEST)))
    assert measured == pytest.approx(sum(bits) / len(bits), rel=1e-12)


def test_without_training_rows_every_byte_costs_eight_bits() -> None:
    nothing = np.zeros((257, 256), np.int64)
    for model in (unigram, bigram):
        assert bits_per_byte(model(nothing), pair_counts(rows(TEST))) == pytest.approx(8)


def test_probabilities_after_each_token_sum_to_one() -> None:
    counts = pair_counts(rows(TRAIN))
    for model in (unigram, bigram):
        np.testing.assert_allclose(model(counts).sum(axis=1), 1)


@pytest.mark.parametrize("begin_streams", [one_each, one_a_split])
def test_learned_tokens_give_the_counts_of_their_bytes(begin_streams: BeginStreams) -> None:
    names = [str(n) for n in range(len(TRAIN))]
    table = pa.table({"document": names, "text": list(TRAIN), "split": ["train"] * len(TRAIN)})
    unfitted = Bpe(column="text", output="tokens", vocabulary_size=270)
    step = unfitted.fitted(unfitted.statistics(TrainRows(table)))
    cut = windows(step.apply(table), 5, tokens_of, begin_streams)
    assert len(step.pieces) > 260
    assert np.array_equal(pair_counts(cut, step.pieces), pair_counts(rows(TRAIN)))
