"""Text as rows of tokens: a start token and what follows, cut into windows of one length.

The tokens are the 256 byte values and `START`, so that no tokenizer has to be trained or shipped and no text is unknown
(Xue et al., 2022, ByT5), or those that a step has learned besides.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.features.arrays import one_array
from jobs.features.bpe import NUM_BYTES, START
from jobs.features.split import SPLIT
from jobs.features.transform import RAW

BYTES = (*(bytes([byte]) for byte in range(NUM_BYTES)), b"")
"""The bytes of each token where none is learned; none of `START`."""
SPELT = ("text", "tokens", f"{RAW}text")
"""Columns of a document that its windows do not repeat."""

Read = Callable[[pa.Table], tuple[np.ndarray, np.ndarray]]
"""The tokens of all documents, one after another, and how many each has."""

BeginStreams = Callable[[pa.Table], np.ndarray]
"""Which documents begin a stream [documents]: where one does not, it follows the one before."""


def encode(text: str) -> list[int]:
    """The tokens of a document's beginning, or of all of it."""
    return [START, *text.encode()]


def bytes_of(documents: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of every `text`."""
    encoded = [(text or "").encode() for text in documents.column("text").to_pylist()]
    return np.frombuffer(b"".join(encoded), np.uint8).astype(np.int16), np.array([*map(len, encoded)], np.int64)


def tokens_of(documents: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The `tokens` of every document, as a step made them of its text."""
    tokens = one_array(documents.column("tokens"))
    lengths = pc.fill_null(pc.list_value_length(tokens), 0).to_numpy(zero_copy_only=False)
    return tokens.flatten().to_numpy(zero_copy_only=False), lengths.astype(np.int64)


def one_each(documents: pa.Table) -> np.ndarray:
    """Every document is a stream of its own."""
    return np.ones(documents.num_rows, bool)


def one_a_split(documents: pa.Table) -> np.ndarray:
    """The documents of a split are one stream where they follow each other."""
    splits = np.array(documents.column(SPLIT).to_pylist(), object)
    begins: np.ndarray = np.append(True, splits[1:] != splits[:-1])[: len(splits)]
    return begins


def windows(
    documents: pa.Table, context_length: int, read: Read = bytes_of, begin_streams: BeginStreams = one_each
) -> pa.Table:
    """Streams of documents as rows of `context_length` + 1 tokens, each beginning with the last of the one before.

    So every token of a stream but the first is a target once: the token after an input. A document without a token
    gives no row.

    Args:
        documents: `document`, `text` or `tokens`, and columns that each window takes from the document it begins in.

    Returns:
        `place`, the number of a window among those that begin in its document, int32; `tokens`, fixed-size lists;
        `num_tokens`, how many of them after the first are not filling, int32.
    """
    flat, lengths = read(documents)
    documents, lengths = documents.filter(pa.array(lengths > 0)), lengths[lengths > 0]
    begins = np.cumsum(lengths + 1) - (lengths + 1)
    stream_begins = begins[begin_streams(documents)]
    num_targets = np.diff(np.append(stream_begins, len(flat) + len(lengths))) - 1
    num_windows = -(-num_targets // context_length)
    stream = np.repeat(np.arange(len(num_windows)), num_windows)
    offset = (np.arange(len(stream)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)) * context_length
    window_begins, left = stream_begins[stream] + offset, num_targets[stream] - offset
    document = np.searchsorted(begins, window_begins, side="right") - 1

    views = np.lib.stride_tricks.sliding_window_view(_joined(flat, begins, context_length), context_length + 1)
    tokens = views[window_begins]
    num_tokens = np.minimum(left, context_length)
    tokens[np.arange(context_length + 1) > num_tokens[:, None]] = START
    place = (window_begins - begins[document]) // context_length
    rows = documents.drop_columns([name for name in SPELT if name in documents.column_names]).take(pa.array(document))
    rows = rows.append_column("place", pa.array(place, pa.int32()))
    rows = rows.append_column("tokens", pa.FixedSizeListArray.from_arrays(tokens.reshape(-1), context_length + 1))
    return rows.append_column("num_tokens", pa.array(num_tokens, pa.int32()))


def token_matrix(rows: pa.Table) -> np.ndarray:
    """The column `tokens` [rows, tokens], of whatever integer type and list it is."""
    flat: np.ndarray = one_array(rows.column("tokens")).flatten().to_numpy()
    return flat.reshape(rows.num_rows, -1)


def _joined(flat: np.ndarray, begins: np.ndarray, context_length: int) -> np.ndarray:
    """All documents one after another, a `START` at each of `begins` and enough of them at the end."""
    num_tokens = len(flat) + len(begins)
    is_text = np.ones(num_tokens + context_length + 1, bool)
    is_text[num_tokens:] = False
    is_text[begins] = False
    stream = np.full(len(is_text), START, flat.dtype)
    stream[is_text] = flat
    return stream
