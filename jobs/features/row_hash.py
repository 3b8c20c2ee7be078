"""Row hash: 64 bits that stand for a row's values, the same on every machine and in every release.

Eight bytes of text at a time are mixed in with the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jobs.features.arrays import one_array

SECOND = 1
"""A seed: what has both hashes alike, that of 0 and this one, is taken for the same."""
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_WORD_BYTES = 8
_ALL_BITS = 2**64 - 1


def row_hashes(columns: Sequence[pa.ChunkedArray], seed: int = 0) -> np.ndarray:
    """One hash a row of its values of all columns, in their order [rows] uint64. Values count by their text.

    Args:
        seed: another one gives another hash, independent of the first.
    """
    hashes = np.full(len(columns[0]), _mix_one(seed), np.uint64)
    for column in columns:
        hashes = _with_text(hashes, one_array(column.cast(pa.large_string())))
    return hashes


def text_hash(text: str | None) -> int:
    """The same of one row with one column."""
    content = (text or "").encode()
    size_and_gap = 1 if text is None else len(content) + 2
    mixed = _mix_one(int(_STEP) * size_and_gap & _ALL_BITS)
    for start in range(0, len(content), _WORD_BYTES):
        word = int.from_bytes(content[start : start + _WORD_BYTES], "little")
        mixed = _mix_one((mixed ^ word) + int(_STEP) & _ALL_BITS)
    return mixed


def as_shares(hashes: np.ndarray) -> np.ndarray:
    """Hashes as numbers from 0 to less than 1 [rows] float64, by their upper 53 bits."""
    shares: np.ndarray = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return shares


def _with_text(hashes: np.ndarray, texts: pa.LargeStringArray) -> np.ndarray:
    """The hashes with each row's text, its length and whether it is missing mixed in."""
    if not len(texts):
        return hashes
    _, offset_buffer, data = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    starts, sizes = offsets[:-1], np.diff(offsets)
    is_missing = texts.is_null().to_numpy(zero_copy_only=False)
    mixed = _mix(hashes + _STEP * np.where(is_missing, np.uint64(1), sizes.astype(np.uint64) + np.uint64(2)))
    padded = np.zeros((data.size if data else 0) + _WORD_BYTES, np.uint8)
    if data:
        padded[: data.size] = np.frombuffer(data, np.uint8)
    words = np.ndarray((len(padded) - _WORD_BYTES + 1,), "<u8", padded, strides=(1,))  # one from every byte on
    rows, done = np.flatnonzero(~is_missing & (sizes > 0)), 0
    while len(rows):
        left = sizes[rows] - done
        unused_bits = (_WORD_BYTES - np.minimum(left, _WORD_BYTES)).astype(np.uint64) * np.uint64(8)
        word = words[starts[rows] + done] << unused_bits >> unused_bits
        mixed[rows] = _mix((mixed[rows] ^ word) + _STEP)
        rows, done = rows[left > _WORD_BYTES], done + _WORD_BYTES
    return mixed


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * _MIX1
    values = (values ^ (values >> np.uint64(27))) * _MIX2
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def _mix_one(value: int) -> int:
    value = (value ^ value >> 30) * int(_MIX1) & _ALL_BITS
    value = (value ^ value >> 27) * int(_MIX2) & _ALL_BITS
    return value ^ value >> 31
