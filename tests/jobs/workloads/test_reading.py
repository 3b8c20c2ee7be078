"""What is read of a text; more of it in the tests of the workloads that read so."""

import pyarrow as pa
import pytest
import torch

from jobs.features.bpe import START
from jobs.workloads import reading
from jobs.workloads.reading import READ, ReadingSpec


def test_a_beginning_is_always_there_and_filling_never() -> None:
    batch = reading.read(pa.table({READ: [[START, 7, 8], [START, 7, START], [START, START, START]]}))
    assert batch["token"].dtype == torch.int64
    assert batch["is_there"].tolist() == [[True, True, True], [True, True, False], [True, False, False]]


def test_bytes_are_read_of_the_text_and_tokens_of_theirs() -> None:
    of_bytes, of_tokens = (reading.reading_step(ReadingSpec(tokenizer=name)) for name in ("bytes", "bpe"))
    assert of_bytes.apply_row({"text": "ab"})[READ][:4] == [START, 97, 98, START]
    assert of_tokens.apply_row({"tokens": [300, 1]})[READ][:4] == [START, 300, 1, START]
    assert of_bytes.length == of_tokens.length == ReadingSpec().context_length


def test_more_positions_than_have_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"context_length=200 is more than num_positions=128 have vectors; give"):
        ReadingSpec(context_length=200)


def test_no_axis_splits_a_text() -> None:
    refused = reading.partition(ReadingSpec()).refused
    assert set(refused) == {"context", "sequence_parallel"}
