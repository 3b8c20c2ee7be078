"""Unigram and bigram models of bytes: what a language model has to beat.

Add-one smoothing of counts (Laplace), so that a byte that training did not show has a chance too.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jobs.features.bpe import NUM_BYTES, NUM_TOKENS, START
from jobs.workloads.text_windows import BYTES, token_matrix

ROWS_AT_ONCE = 4096


def pair_counts(rows: pa.Table, pieces: Sequence[bytes] = BYTES) -> np.ndarray:
    """How often each byte was the target after each byte or `START` [NUM_TOKENS, NUM_BYTES], int64.

    Args:
        rows: windows.
        pieces: the bytes of each token.
    """
    counts = np.zeros(NUM_TOKENS * NUM_BYTES, np.int64)
    spellings = [[*piece] or [START] for piece in pieces]
    signs = np.array([sign for spelling in spellings for sign in spelling], np.int64)
    lengths = np.array([*map(len, spellings)], np.int64)
    begins = np.cumsum(lengths) - lengths
    for begin in range(0, rows.num_rows, ROWS_AT_ONCE):
        part = rows.slice(begin, ROWS_AT_ONCE)
        tokens = token_matrix(part).astype(np.int64)
        place = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        is_there = place <= part.column("num_tokens").to_numpy()[:, None]
        token, is_input_only = tokens[is_there], place[is_there] == 0
        size = lengths[token]
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        spelt = signs[np.repeat(begins[token], size) + within]
        is_target = ~np.repeat(is_input_only, size)[1:] & (spelt[1:] != START)
        counts += np.bincount((spelt[:-1] * NUM_BYTES + spelt[1:])[is_target], minlength=len(counts))
    return counts.reshape(NUM_TOKENS, NUM_BYTES)


def unigram(counts: np.ndarray) -> np.ndarray:
    """The probability of each byte, whatever stands before it [NUM_TOKENS, NUM_BYTES]."""
    return bigram(np.broadcast_to(counts.sum(axis=0), counts.shape))


def bigram(counts: np.ndarray) -> np.ndarray:
    """The probability of each byte after each token [NUM_TOKENS, NUM_BYTES]."""
    smoothed = counts + 1.0
    probabilities: np.ndarray = smoothed / smoothed.sum(axis=1, keepdims=True)
    return probabilities


def bits_per_byte(probabilities: np.ndarray, counts: np.ndarray) -> float:
    """The mean of -log2 of the probability of each target; both [NUM_TOKENS, NUM_BYTES]."""
    return float(-(counts * np.log2(probabilities)).sum() / counts.sum())
