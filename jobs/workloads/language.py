"""language: predicts the next byte, or token of a few, of a text, with a transformer or a recurrent network.

Trained on windows of documents; measured in bits per byte, which says how well the model would compress them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from cluster.errors import DataError
from jobs.features.bpe import START
from jobs.features.columns import Column
from jobs.features.split import SPLIT, TrainRows
from jobs.features.step import Step
from jobs.features.transform import Transform
from jobs.workloads import byte_models
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.decoding import Decoder
from jobs.workloads.divergence import divergence
from jobs.workloads.partition import Partition, TensorRole
from jobs.workloads.recurrent import Cell, recurrent
from jobs.workloads.recurrent_decoding import RecurrentDecoder
from jobs.workloads.text_augment import TextAugmentSpec, augmented
from jobs.workloads.text_windows import (
    bytes_of,
    one_a_split,
    one_each,
    token_matrix,
    tokens_of,
    windows,
)
from jobs.workloads.tokenizer import TokenizerSpec, encoded, pieces_of, token_steps
from jobs.workloads.transformer import HEAD_NORM_ROLES, LAYER_ROLES, TransformerSpec, transformer

AnyDecoder = Decoder | RecurrentDecoder
IGNORED = -100
"""The target where there is nothing to predict; what torch's cross entropy leaves out."""
TOKENS_AT_ONCE = 16384
"""Evaluated together, so that their logits fit in memory."""
GOLDEN_PROMPTS = ("", "Grüße, 世界")
NUM_GOLDEN_ROWS = 14
NUM_PROMPT_BYTES = 32
NUM_GOLDEN_TOKENS = 16
NOTHING_FITTED = Transform(())
EVERY_MODEL = ("num_layers", "hidden_dim", "vocabulary_size", "tie_embeddings")
"""Keys of a transformer that a recurrent network has, too."""

metrics: Sequence[str] = ("bits_per_byte",)
lower_is_better = frozenset({"bits_per_byte"})
time: str | None = None
ties: tuple[str, ...] = ("document", "place")
unfolds_by: tuple[str, ...] = ("context_length", "tokenizer", "packing")


class LanguageSpec(TransformerSpec, TokenizerSpec):
    """The model, and how much of a text it sees."""

    kind: Literal["language"] = "language"
    architecture: Literal["transformer", Cell] = "transformer"
    """`lstm` and `gru` are recurrent networks of `num_layers` layers of `hidden_dim`; they have no heads."""
    context_length: int = Field(128, ge=1)
    """Tokens that a row gives the model; each is followed by one to predict."""
    packing: bool = False
    """Whether documents follow each other in a row, instead of each filling up its last row."""
    label_smoothing: float = Field(0, ge=0, lt=1)
    """In training, the share of each position that is wanted of all tokens alike."""
    augment: TextAugmentSpec = TextAugmentSpec()

    @property
    def has_heads(self) -> bool:
        """Whether it is a transformer."""
        return self.architecture == "transformer"

    @model_validator(mode="after")
    def _is_all_used(self) -> "LanguageSpec":
        fields = TransformerSpec.model_fields
        others = [key for key in fields if key not in EVERY_MODEL and getattr(self, key) != fields[key].default]
        if not self.has_heads and others:
            raise ValueError(
                f"architecture={self.architecture} with {', '.join(f'{key}={getattr(self, key)}' for key in others)}: "
                f"a recurrent network has no {others[0]}; leave it out, or give architecture=transformer"
            )
        return self

    @model_validator(mode="after")
    def _has_targets(self) -> "LanguageSpec":
        if self.packing and self.context_length == 1:
            raise ValueError(
                "packing=true: with context_length=1 a row may have nothing but the border of two documents, which is "
                "no target; give context_length=2 or more, or packing=false"
            )
        return self


def event_columns(spec: LanguageSpec) -> tuple[Column, ...]:
    """A document: its name and its text."""
    return Column("document", "id"), Column("text", "text")


def item_columns(spec: LanguageSpec) -> tuple[Column, ...]:
    """There are no items."""
    return ()


def unfold(spec: LanguageSpec, rows: pa.Table) -> pa.Table:
    """Windows of the documents: `document`, `place`, `tokens`, `num_tokens`; see `windows`.

    Packed are the documents of one block and split, in the order of their names.
    """
    read = bytes_of if spec.tokenizer == "bytes" else tokens_of
    if not spec.packing:
        return windows(rows, spec.context_length, read, one_each)
    ordered = rows.sort_by([(SPLIT, "ascending"), ("document", "ascending")])
    return windows(ordered, spec.context_length, read, one_a_split)


def steps(spec: LanguageSpec) -> tuple[Step, ...]:
    """The tokens of `bpe` or of a folder; bytes need no vocabulary."""
    return token_steps(spec)


def lookups(transform: Transform, items: pa.Table, train: Callable[[], TrainRows]) -> dict[str, pa.Table]:
    """None."""
    return {}


def trains_on(spec: LanguageSpec) -> None:
    """All columns."""


def partition(spec: LanguageSpec) -> Partition:
    """Of a transformer every axis; a tied matrix is in the first link and in the last one, so it stays whole and in one
    place. Of a recurrent network those that split no matrix and no sequence.
    """
    refused = {}
    units: tuple[str, ...] = ("layer*",) if spec.tie_embeddings else ("embedding", "layer*", "head")
    if spec.tie_embeddings:
        tied = "workload.tie_embeddings=true makes its first and its last link share a matrix"
        lifted = "workload.tie_embeddings=false lifts this"
        refused = {
            "pipeline": f"{tied}, so one worker must hold both; {lifted}",
            "sequence_parallel": f"{tied}, which stays whole and takes all positions; {lifted}",
        }
    if not spec.has_heads:
        in_order = f"{spec.architecture} reads a text from its beginning on, so that its positions cannot be dealt out"
        refused |= {
            "tensor": f"the matrices of {spec.architecture} need all of its state at every position",
            "context": in_order,
            "sequence_parallel": in_order,
        }
        return Partition(units=units, num_links=spec.num_layers + 2, refused=refused)
    return _transformer_partition(spec, units, refused)


def _transformer_partition(spec: LanguageSpec, units: tuple[str, ...], refused: dict[str, str]) -> Partition:
    tensor: dict[str, TensorRole] = {"embedding": "embedding", **LAYER_ROLES}
    if spec.qk_norm:
        tensor |= HEAD_NORM_ROLES
    divides: tuple[str, ...] = ("num_heads", "num_kv_heads", "feed_forward_dim")
    if not spec.tie_embeddings:
        tensor |= {"head.norm": "norm", "head.output": "head"}
        divides = (*divides, "vocabulary_size")
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
    return transformer(spec) if spec.architecture == "transformer" else recurrent(spec, spec.architecture)


def decoder_of(spec: LanguageSpec, model: Chain, num_texts: int) -> AnyDecoder:
    """What goes on with texts of up to a context, so many at a time; it takes the model over."""
    decoder = Decoder if spec.has_heads else RecurrentDecoder
    return decoder(model, num_texts, spec.context_length)


def tensors(rows: pa.Table) -> Batch:
    """`token`, `target`, `position` [rows, context_length] int64 and `num_targets` [rows] float32."""
    tokens = token_matrix(rows).astype(np.int64)
    place = np.arange(tokens.shape[1] - 1)
    is_target = (place < rows.column("num_tokens").to_numpy()[:, None]) & (tokens[:, 1:] != START)
    return {
        "token": torch.from_numpy(tokens[:, :-1].copy()),
        "target": torch.from_numpy(np.where(is_target, tokens[:, 1:], IGNORED)),
        "position": torch.from_numpy(np.tile(place, (rows.num_rows, 1))),
        "num_targets": torch.from_numpy(is_target.sum(1).astype(np.float32)),
    }


def augment(spec: LanguageSpec, batch: Batch, other: Callable[[], Batch]) -> Batch:
    """Some of the tokens that are read replaced, as the spec says."""
    if not spec.augment.replace:
        return batch
    return batch | {"token": augmented(spec.augment, batch["token"], batch["key"])}


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
        outputs.float().flatten(0, 1),
        batch["target"].flatten(),
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=spec.label_smoothing,
    )
    return each.view_as(batch["target"]).sum(1) / batch["num_targets"]


def apart(outputs: Tensor, wanted: Tensor, batch: Batch, temperature: float) -> Tensor:
    """How far the logits are from another model's, summed and divided as in `loss` [rows]."""
    each = divergence(outputs, wanted, temperature)
    return each.where(batch["target"] != IGNORED, 0.0).sum(1) / batch["num_targets"]


@torch.no_grad()
def evaluate(spec: LanguageSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> dict[str, float]:
    """Bits that the model needs for a byte of these rows, each given what precedes it in its window.

    Raises:
        DataError: there are no rows.
    """
    _check_any(rows)
    device, nats, num_bytes = _device(model), 0.0, 0
    lengths = torch.tensor([len(piece) for piece in pieces_of(spec, transform)])
    rows_at_once = max(TOKENS_AT_ONCE // spec.context_length, 1)
    for begin in range(0, rows.num_rows, rows_at_once):
        given = tensors(rows.slice(begin, rows_at_once))
        batch = {name: value.to(device) for name, value in given.items()}
        nats += float((loss(spec, model(batch), batch) * batch["num_targets"].double()).sum())
        num_bytes += int(lengths[given["target"][given["target"] != IGNORED]].sum())
    return {"bits_per_byte": nats / num_bytes / math.log(2)}


def baselines(
    spec: LanguageSpec, transform: Transform, train: TrainRows, rows: pa.Table
) -> dict[str, dict[str, float]]:
    """`unigram` knows how frequent each byte is in training, `bigram` how frequent after each other byte."""
    _check_any(rows)
    pieces = pieces_of(spec, transform)
    seen, held_out = byte_models.pair_counts(train.table, pieces), byte_models.pair_counts(rows, pieces)
    models = {"unigram": byte_models.unigram(seen), "bigram": byte_models.bigram(seen)}
    return {name: {"bits_per_byte": byte_models.bits_per_byte(model, held_out)} for name, model in models.items()}


def golden(spec: LanguageSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> pa.Table:
    """How the model goes on with some prompts: `prompt`, `continuation` (numbers of tokens), `log_probabilities`."""
    pieces, first = pieces_of(spec, transform), token_matrix(rows.slice(0, NUM_GOLDEN_ROWS)).tolist()
    shown = [b"".join(pieces[token] for token in row)[:NUM_PROMPT_BYTES] for row in first]
    prompts = list(dict.fromkeys([*GOLDEN_PROMPTS, *(prompt.decode(errors="ignore") for prompt in shown)]))
    answers = [continuation(spec, model, prompt, NUM_GOLDEN_TOKENS, transform) for prompt in prompts]
    of_tokens = pa.list_(pa.uint8() if spec.tokenizer == "bytes" else pa.int32())
    return pa.table(
        {
            "prompt": prompts,
            "continuation": pa.array([[token for token, _ in answer] for answer in answers], of_tokens),
            "log_probabilities": [[log_probability for _, log_probability in answer] for answer in answers],
        }
    )


@torch.no_grad()
def continuation(
    spec: LanguageSpec, model: nn.Module, prompt: str, num_tokens: int, transform: Transform = NOTHING_FITTED
) -> list[tuple[int, float]]:
    """The likeliest token after the beginning of a document, then the likeliest after that one, and so on.

    Args:
        transform: the fitted one; bytes need none.

    Returns:
        Each token, a byte where there is no tokenizer, with the natural logarithm of its probability. They may end
        within a character.
    """
    answer, num_known = list[tuple[int, float]](), len(pieces_of(spec, transform))
    tokens = encoded(spec, prompt, transform)
    for _ in range(num_tokens):
        token = torch.tensor([tokens[-spec.context_length :]], device=_device(model))
        position = torch.arange(token.shape[1], device=token.device)[None]
        logits = model({"token": token, "position": position})[0, -1].float()
        known = logits[:num_known].clone()
        known[START] = -math.inf
        chosen = int(known.argmax())
        answer.append((chosen, float(logits.log_softmax(0)[chosen])))
        tokens.append(chosen)
    return answer


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _check_any(rows: pa.Table) -> None:
    if not rows.num_rows:
        raise DataError(
            "no held-out row is left to measure a language model on. Give more documents, or hold out more of them: "
            "prepare.split.valid and prepare.split.test"
        )
