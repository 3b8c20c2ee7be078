"""Unigram and bigram models of bytes: what a language model has to beat.

Add-one smoothing of counts (Laplace), so that a byte that training did not show has a chance too.
"""

import numpy as np
import pyarrow as pa

from jobs.workloads.text_windows import NUM_BYTES, NUM_TOKENS, token_matrix

ROWS_AT_ONCE = 4096


def pair_counts(rows: pa.Table) -> np.ndarray:
    """How often each byte was the target after each token [NUM_TOKENS, NUM_BYTES], int64."""
    counts = np.zeros(NUM_TOKENS * NUM_BYTES, np.int64)
    for begin in range(0, rows.num_rows, ROWS_AT_ONCE):
        part = rows.slice(begin, ROWS_AT_ONCE)
        tokens = token_matrix(part).astype(np.int64)
        is_target = np.arange(tokens.shape[1] - 1) < part.column("num_tokens").to_numpy()[:, None]
        pairs = (tokens[:, :-1] * NUM_BYTES + tokens[:, 1:])[is_target]
        counts += np.bincount(pairs, minlength=len(counts))
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
