"""language: predicts the next byte of a text, with a decoder-only transformer.

Trained on windows of documents; measured in bits per byte, which says how well the model would compress them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from cluster.errors import DataError
from jobs.features.columns import Column
from jobs.features.split import TrainRows
from jobs.features.step import Step
from jobs.features.transform import Transform
from jobs.workloads import byte_models
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.partition import Partition, TensorRole
from jobs.workloads.text_windows import NUM_BYTES, encode, token_matrix, windows
from jobs.workloads.transformer import LAYER_ROLES, TransformerSpec, transformer

IGNORED = -100
"""The target where there is nothing to predict; what torch's cross entropy leaves out."""
TOKENS_AT_ONCE = 16384
"""Evaluated together, so that their logits fit in memory."""
GOLDEN_PROMPTS = ("", "Grüße, 世界")
NUM_GOLDEN_ROWS = 14
NUM_PROMPT_BYTES = 32
NUM_GOLDEN_BYTES = 16

metrics: Sequence[str] = ("bits_per_byte",)
lower_is_better = frozenset({"bits_per_byte"})
time: str | None = None
ties: tuple[str, ...] = ("document", "place")
unfolds_by: tuple[str, ...] = ("context_length",)


class LanguageSpec(TransformerSpec):
    """The transformer, and how much of a text it sees."""

    kind: Literal["language"] = "language"
    context_length: int = Field(128, ge=1)
    """Tokens that a row gives the model; each is followed by one to predict."""


def event_columns(spec: LanguageSpec) -> tuple[Column, ...]:
    """A document: its name and its text."""
    return Column("document", "id"), Column("text", "text")


def item_columns(spec: LanguageSpec) -> tuple[Column, ...]:
    """There are no items."""
    return ()


def unfold(spec: LanguageSpec, events: pa.Table) -> pa.Table:
    """The windows of each document: `document`, `place`, `tokens`, `num_tokens`; see `windows`."""
    return windows(events, spec.context_length)


def steps(spec: LanguageSpec) -> tuple[Step, ...]:
    """Nothing is fitted: bytes need no vocabulary."""
    return ()


def lookups(transform: Transform, items: pa.Table, train: Callable[[], TrainRows]) -> dict[str, pa.Table]:
    """None."""
    return {}


def trains_on(spec: LanguageSpec) -> None:
    """All columns."""


def partition(spec: LanguageSpec) -> Partition:
    """Every axis; a tied matrix is in the first link and in the last one, so it stays whole and in one place."""
    tensor: dict[str, TensorRole] = {"embedding": "embedding", **LAYER_ROLES}
    divides: tuple[str, ...] = ("num_heads", "num_kv_heads", "feed_forward_dim")
    units: tuple[str, ...] = ("layer*",)
    refused = {}
    if spec.tie_embeddings:
        tied = "workload.tie_embeddings=true makes its first and its last link share a matrix"
        lifted = "workload.tie_embeddings=false lifts this"
        refused = {
            "pipeline": f"{tied}, so one worker must hold both; {lifted}",
            "sequence_parallel": f"{tied}, which stays whole and takes all positions; {lifted}",
        }
    else:
        tensor |= {"head.norm": "norm", "head.output": "head"}
        divides = (*divides, "vocabulary_size")
        units = ("embedding", *units, "head")
    return Partition(
        units=units,
        num_links=spec.num_layers + 2,
        tensor=tensor,
        tensor_divides={f"workload.{key}": int(getattr(spec, key)) for key in divides},
        sequence=("token", "target", "position"),
        sequence_divides={"workload.context_length": spec.context_length},
        attention="layer*.attention.attend",
        refused=refused,
    )


def build(spec: LanguageSpec, transform: Transform) -> Chain:
    """The untrained model."""
    return transformer(spec)


def tensors(rows: pa.Table) -> Batch:
    """`token`, `target`, `position` [rows, context_length] int64 and `num_targets` [rows] float32."""
    tokens = token_matrix(rows).astype(np.int64)
    num_targets = rows.column("num_tokens").to_numpy()
    place = np.arange(tokens.shape[1] - 1)
    return {
        "token": torch.from_numpy(tokens[:, :-1].copy()),
        "target": torch.from_numpy(np.where(place < num_targets[:, None], tokens[:, 1:], IGNORED)),
        "position": torch.from_numpy(np.tile(place, (rows.num_rows, 1))),
        "num_targets": torch.from_numpy(num_targets.astype(np.float32)),
    }


def draw(spec: LanguageSpec, transform: Transform, generator: Generator) -> Batch:
    """Nothing is left to chance."""
    return {}


def loss(spec: LanguageSpec, outputs: Tensor, batch: Batch) -> Tensor:
    """Cross entropy in nats, summed over the positions given and divided by the targets of the whole row [rows].

    Args:
        outputs: logits [rows, positions, vocabulary_size].
        batch: `target` [rows, positions] and `num_targets` [rows].
    """
    each = F.cross_entropy(
        outputs.float().flatten(0, 1), batch["target"].flatten(), ignore_index=IGNORED, reduction="none"
    )
    return each.view_as(batch["target"]).sum(1) / batch["num_targets"]


@torch.no_grad()
def evaluate(spec: LanguageSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> dict[str, float]:
    """Bits that the model needs for a byte of these rows, each given what precedes it in its window.

    Raises:
        DataError: there are no rows.
    """
    _check_any(rows)
    device, nats, num_bytes = _device(model), 0.0, 0.0
    rows_at_once = max(TOKENS_AT_ONCE // spec.context_length, 1)
    for begin in range(0, rows.num_rows, rows_at_once):
        batch = {name: value.to(device) for name, value in tensors(rows.slice(begin, rows_at_once)).items()}
        num_targets = batch["num_targets"].double()
        nats += float((loss(spec, model(batch), batch) * num_targets).sum())
        num_bytes += float(num_targets.sum())
    return {"bits_per_byte": nats / num_bytes / math.log(2)}


def baselines(
    spec: LanguageSpec, transform: Transform, train: TrainRows, rows: pa.Table
) -> dict[str, dict[str, float]]:
    """`unigram` knows how frequent each byte is in training, `bigram` how frequent after each other byte."""
    _check_any(rows)
    seen, held_out = byte_models.pair_counts(train.table), byte_models.pair_counts(rows)
    models = {"unigram": byte_models.unigram(seen), "bigram": byte_models.bigram(seen)}
    return {name: {"bits_per_byte": byte_models.bits_per_byte(model, held_out)} for name, model in models.items()}


def golden(spec: LanguageSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> pa.Table:
    """How the model goes on with some prompts: `prompt`, `continuation` (byte values), `log_probabilities`."""
    first = rows.slice(0, NUM_GOLDEN_ROWS)
    shown = [bytes(t for t in row if t < NUM_BYTES)[:NUM_PROMPT_BYTES] for row in token_matrix(first).tolist()]
    prompts = list(dict.fromkeys([*GOLDEN_PROMPTS, *(prompt.decode(errors="ignore") for prompt in shown)]))
    answers = [continuation(spec, model, prompt, NUM_GOLDEN_BYTES) for prompt in prompts]
    return pa.table(
        {
            "prompt": prompts,
            "continuation": pa.array([[byte for byte, _ in answer] for answer in answers], pa.list_(pa.uint8())),
            "log_probabilities": [[log_probability for _, log_probability in answer] for answer in answers],
        }
    )


@torch.no_grad()
def continuation(spec: LanguageSpec, model: nn.Module, prompt: str, num_bytes: int) -> list[tuple[int, float]]:
    """The likeliest byte after the beginning of a document, then the likeliest after that one, and so on.

    Returns:
        Each byte with the natural logarithm of its probability. They may end within a character.
    """
    tokens, answer = encode(prompt), list[tuple[int, float]]()
    for _ in range(num_bytes):
        token = torch.tensor([tokens[-spec.context_length :]], device=_device(model))
        position = torch.arange(token.shape[1], device=token.device)[None]
        logits = model({"token": token, "position": position})[0, -1].float()
        byte = int(logits[:NUM_BYTES].argmax())
        answer.append((byte, float(logits.log_softmax(0)[byte])))
        tokens.append(byte)
    return answer


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _check_any(rows: pa.Table) -> None:
    if not rows.num_rows:
        raise DataError(
            "no held-out row is left to measure a language model on. Give more documents, or hold out more of them: "
            "prepare.split.valid and prepare.split.test"
        )
