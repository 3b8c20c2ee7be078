"""Text as rows of tokens: UTF-8 bytes after a start token, cut into windows of one length.

The tokens are the 256 byte values and `START`: no tokenizer has to be trained or shipped, and no text is unknown
(Xue et al., 2022, ByT5).
"""

import numpy as np
import pyarrow as pa

NUM_BYTES = 256
START = 256
"""Stands before the first byte of a document, and fills up a last window."""
NUM_TOKENS = 257


def encode(text: str) -> list[int]:
    """The tokens of a document's beginning, or of all of it."""
    return [START, *text.encode()]


def windows(documents: pa.Table, context_length: int) -> pa.Table:
    """Every document as rows of `context_length` + 1 tokens, each beginning with the last token of the one before.

    So every byte is a target once: the token after an input. A document without a byte gives no row.

    Args:
        documents: `text`, and columns that each of its windows repeats.

    Returns:
        `place`, a window's number in its document from 0 on, int32; `tokens`, fixed-size lists of int16;
        `num_tokens`, how many of them after the first are bytes to predict, int32.
    """
    encoded = [(text or "").encode() for text in documents.column("text").to_pylist()]
    num_bytes = np.array([len(document) for document in encoded], np.int64)
    num_windows = -(-num_bytes // context_length)
    document = np.repeat(np.arange(len(encoded)), num_windows)
    place = np.arange(len(document)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    begins = np.cumsum(num_bytes) - num_bytes + np.arange(len(encoded))
    num_targets = np.minimum(num_bytes[document] - place * context_length, context_length)

    stream = _stream(encoded, begins, context_length)
    views = np.lib.stride_tricks.sliding_window_view(stream, context_length + 1)
    tokens = views[begins[document] + place * context_length]
    tokens[np.arange(context_length + 1) > num_targets[:, None]] = START
    rows = documents.drop_columns(["text"]).take(document)
    rows = rows.append_column("place", pa.array(place, pa.int32()))
    rows = rows.append_column("tokens", pa.FixedSizeListArray.from_arrays(tokens.reshape(-1), context_length + 1))
    return rows.append_column("num_tokens", pa.array(num_targets, pa.int32()))


def token_matrix(rows: pa.Table) -> np.ndarray:
    """The column `tokens` [rows, tokens], of whatever integer type and list it is."""
    flat: np.ndarray = rows.column("tokens").combine_chunks().flatten().to_numpy()
    return flat.reshape(rows.num_rows, -1)


def _stream(encoded: list[bytes], begins: np.ndarray, context_length: int) -> np.ndarray:
    """All documents one after another, a `START` at each of `begins` and enough of them at the end, int16."""
    text = np.frombuffer(b"".join(encoded), np.uint8)
    is_byte = np.ones(len(text) + len(encoded) + context_length + 1, bool)
    is_byte[len(text) + len(encoded) :] = False
    is_byte[begins] = False
    stream = np.full(len(is_byte), START, np.int16)
    stream[is_byte] = text
    return stream
