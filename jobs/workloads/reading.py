"""What `text` and `tagging` share: how much of a text is read, as which tokens, and how the encoder may be parted."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, model_validator

from jobs.features.arrays import one_array
from jobs.features.bpe import START
from jobs.features.first_tokens import FirstTokens
from jobs.workloads.chain import Batch
from jobs.workloads.encoder import LAYER_ROLES, EncoderSpec
from jobs.workloads.partition import Partition
from jobs.workloads.text_augment import TextAugmentSpec, augmented
from jobs.workloads.tokenizer import TOKENS, TokenizerSpec

READ = "read"
"""The column of the tokens that the model reads."""


class ReadingSpec(EncoderSpec, TokenizerSpec):
    """The encoder, and what it reads of a text."""

    context_length: int = Field(64, ge=2)
    """Tokens of a text that are read, the one that begins it among them; what follows them is not."""
    label_smoothing: float = Field(0, ge=0, lt=1)
    """In training, the share of what is wanted that all classes get alike."""
    augment: TextAugmentSpec = TextAugmentSpec()

    @model_validator(mode="after")
    def _fits(self) -> "ReadingSpec":
        if self.context_length > self.num_positions:
            raise ValueError(
                f"context_length={self.context_length} is more than num_positions={self.num_positions} have vectors; "
                f"give context_length={self.num_positions} or fewer, or more positions"
            )
        return self


def reading_step(spec: ReadingSpec) -> FirstTokens:
    """What makes the column `read` of a text's tokens, or of its bytes."""
    of_bytes = spec.tokenizer == "bytes"
    column = "text" if of_bytes else TOKENS
    return FirstTokens(column=column, output=READ, num_tokens=spec.context_length, of_bytes=of_bytes)


def partition(spec: ReadingSpec) -> Partition:
    """Replicas, shards, a pipeline and split matrices."""
    of_sequences = "a text is short, and all of it is read at once"
    return Partition(
        units=("embedding", "layer*", "head"),
        num_links=spec.num_layers + 2,
        tensor=LAYER_ROLES,
        tensor_divides={
            "workload.num_heads": spec.num_heads,
            "workload.feed_forward_dim": spec.feed_forward_dim,
        },
        refused={"context": of_sequences, "sequence_parallel": of_sequences},
    )


def read(rows: pa.Table) -> Batch:
    """`token` [rows, context_length] int64 and `is_there` of the same shape, bool."""
    flat: np.ndarray = one_array(rows.column(READ)).flatten().to_numpy()
    token = torch.from_numpy(flat.astype(np.int64)).reshape(rows.num_rows, -1)
    is_there = token != START
    is_there[:, 0] = True
    return {"token": token, "is_there": is_there}


def augment(spec: ReadingSpec, batch: Batch, other: Callable[[], Batch]) -> Batch:
    """Some of the tokens that are read replaced, as the spec says."""
    if not spec.augment.replace:
        return batch
    return batch | {"token": augmented(spec.augment, batch["token"], batch["key"])}
