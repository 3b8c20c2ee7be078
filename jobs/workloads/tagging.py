"""tagging: names what each word of a text is, such as a part of a name, with a transformer that reads both sides.

A word is what white space parts from the others. What is said of it is read off its first token (Devlin et al., 2019).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from jobs.features.arrays import one_array
from jobs.features.columns import Column
from jobs.features.split import TrainRows
from jobs.features.step import Step
from jobs.features.transform import Transform
from jobs.features.vocabulary import Vocabulary
from jobs.features.word_places import WordPlaces
from jobs.workloads import classification, reading
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.device import device_of
from jobs.workloads.divergence import divergence
from jobs.workloads.encoder import encoder
from jobs.workloads.reading import READ, ReadingSpec, read, reading_step
from jobs.workloads.tokenizer import token_steps

ENDS, PLACE = "token_ends", "word_place"
"""Columns of rows: where each token ends in the text, and of each word the place of its token in what is read, or 0."""
TAGS = classification.CLASS
"""The column of each word's tag by its number, from 1 on; 0 is one that training did not show. In a batch, from 0 on,
the tags are at the places of their words, and `NO_TAG` elsewhere."""
NO_TAG = -1
NUM_GOLDEN_ROWS = 16
PREDICTED, PROBABILITIES = classification.PREDICTED, classification.PROBABILITIES

metrics: Sequence[str] = ("accuracy", "macro_f1", "log_loss")
lower_is_better = frozenset({"log_loss"})
time: str | None = None
ties: tuple[str, ...] = ("id",)
unfolds_by: tuple[str, ...] = ()
partition = reading.partition
augment = reading.augment


class TaggingSpec(ReadingSpec):
    """The model, and how it learns."""

    kind: Literal["tagging"] = "tagging"
    tokenizer: Literal["bpe", "folder"] = "bpe"


def event_columns(spec: TaggingSpec) -> tuple[Column, ...]:
    """A text: which one, what it says, and what each of its words is."""
    return Column("id", "id"), Column("text", "text"), Column("tags", "labels", entry_a_word_of="text")


def item_columns(spec: TaggingSpec) -> tuple[Column, ...]:
    """There are no items."""
    return ()


def unfold(spec: TaggingSpec, events: pa.Table) -> pa.Table:
    """A text is a training row."""
    return events


def steps(spec: TaggingSpec) -> tuple[Step, ...]:
    """Texts become rows of tokens, words find theirs, and tags get an index each."""
    return (
        *token_steps(spec, ENDS),
        reading_step(spec),
        WordPlaces(column="text", ends=ENDS, output=PLACE, num_tokens=spec.context_length),
        Vocabulary(column="tags", output=TAGS, of="labels"),
    )


def lookups(transform: Transform, items: pa.Table, train: Callable[[], TrainRows]) -> dict[str, pa.Table]:
    """None."""
    return {}


def trains_on(spec: TaggingSpec) -> tuple[str, ...]:
    """What is read, and what of it is a word."""
    return "id", READ, PLACE, TAGS


def build(spec: TaggingSpec, transform: Transform) -> Chain:
    """The untrained model of these fitted features."""
    return encoder(spec, len(classification.labels(transform)), "token")


def tensors(rows: pa.Table) -> Batch:
    """`token` [rows, context_length] int64, and of the same shape `is_there`, bool, and `class`, int64."""
    batch = read(rows)
    row, place = places(rows)
    tag = one_array(rows.column(TAGS)).flatten().to_numpy().astype(np.int64) - 1
    classes = np.full(batch["token"].shape, NO_TAG)
    classes[row[place > 0], place[place > 0]] = tag[place > 0]
    return {**batch, TAGS: torch.from_numpy(classes)}


def places(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Of each word its row, and the place of its token there; 0 where that is not read [words], int64 both."""
    lists = one_array(rows.column(PLACE))
    lengths = pc.list_value_length(lists).to_numpy()
    return np.repeat(np.arange(rows.num_rows), lengths), lists.flatten().to_numpy().astype(np.int64)


def draw(spec: TaggingSpec, transform: Transform, generator: Generator) -> Batch:
    """Nothing is left to chance."""
    return {}


def loss(spec: TaggingSpec, outputs: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of the tags of a row's words, on average [rows]; 0 of a row that has none.

    Args:
        outputs: logits [rows, positions, tags].
    """
    wanted = batch[TAGS]
    each = F.cross_entropy(
        outputs.flatten(0, 1).float(),
        wanted.flatten(),
        reduction="none",
        ignore_index=NO_TAG,
        label_smoothing=spec.label_smoothing,
    )
    return _mean(each.unflatten(0, wanted.shape), wanted)


def apart(outputs: Tensor, wanted: Tensor, batch: Batch, temperature: float) -> Tensor:
    """How far the logits of a row's words are from another model's, on average [rows]."""
    return _mean(divergence(outputs, wanted, temperature), batch[TAGS])


def _mean(each: Tensor, wanted: Tensor) -> Tensor:
    is_word = wanted != NO_TAG
    return each.where(is_word, 0.0).sum(1) / is_word.sum(1).clamp(min=1)


@torch.no_grad()
def probabilities(model: nn.Module, rows: pa.Table) -> Tensor:
    """How likely the model holds each tag of each word, those of the rows one after the other [words, tags], float64.

    Of a word that is not read they are those of the text's beginning, which say nothing of it.
    """
    found = []
    for begin in range(0, rows.num_rows, classification.ROWS_AT_ONCE):
        part = rows.slice(begin, classification.ROWS_AT_ONCE)
        batch = {"key": torch.zeros(part.num_rows, dtype=torch.int64), **read(part)}
        row, place = map(torch.from_numpy, places(part))
        on_device = {name: values.to(device_of(model)) for name, values in batch.items()}
        found.append(model(on_device).cpu()[row, place].double().softmax(-1))
    return torch.cat(found)


def evaluate(spec: TaggingSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> dict[str, float]:
    """Accuracy, macro F1 and log loss over words; one that is not read, or whose tag training did not show, counts as
    wrong."""
    return scores(probabilities(model, rows), _actual(rows))


def scores(given: Tensor, actual: Tensor) -> dict[str, float]:
    """The metrics of probabilities [words, tags] for tags [words] int64, of which -1 is never right."""
    return {**classification.scores(given, actual), "macro_f1": macro_f1(given.argmax(1), actual)}


def macro_f1(predicted: Tensor, actual: Tensor) -> float:
    """The mean over tags, of those that words have or were given, of the harmonic mean of precision and recall."""
    tags = torch.cat([predicted, actual[actual >= 0]]).unique()
    hits = torch.stack([((predicted == tag) & (actual == tag)).sum() for tag in tags]).double()
    sizes = torch.stack([(predicted == tag).sum() + (actual == tag).sum() for tag in tags])
    return float((2 * hits / sizes).mean())


def _actual(rows: pa.Table) -> Tensor:
    """The tag of each word, from 0 on; -1 where it is unknown or the word is not read [words], int64."""
    tag = one_array(rows.column(TAGS)).flatten().to_numpy().astype(np.int64) - 1
    return torch.from_numpy(np.where(places(rows)[1] > 0, tag, -1))


def baselines(spec: TaggingSpec, transform: Transform, train: TrainRows, rows: pa.Table) -> dict[str, dict[str, float]]:
    """`tag_shares` answers every word with the shares of the tags in training, `token_shares` with those of the words
    there that begin with the same token, where the shares of all tags count as one word more."""
    num_tags = len(classification.labels(transform))
    tag, token = _actual(train.table), _first_tokens(train.table)
    known = tag >= 0
    shares = torch.bincount(tag[known], minlength=num_tags).double() / known.sum()
    counts = shares.repeat(spec.vocabulary_size, 1)
    counts.index_put_((token[known], tag[known]), torch.ones((), dtype=torch.float64), accumulate=True)
    of_token, actual = counts / counts.sum(1, keepdim=True), _actual(rows)
    return {
        "tag_shares": scores(shares.expand(len(actual), -1), actual),
        "token_shares": scores(of_token[_first_tokens(rows)], actual),
    }


def _first_tokens(rows: pa.Table) -> Tensor:
    """The first token of each word [words], int64."""
    row, place = map(torch.from_numpy, places(rows))
    return read(rows)["token"][row, place]


def golden(spec: TaggingSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> pa.Table:
    """Some texts that are read whole, with `predicted`, a tag a word, and `probabilities` of those tags."""
    is_whole = [0 not in row for row in rows.column(PLACE).to_pylist()]
    rows = rows.filter(pa.array(is_whole, pa.bool_())).slice(0, NUM_GOLDEN_ROWS)
    texts = transform.only([READ]).raw(rows).column("text")
    answers = list(answered(model, classification.labels(transform), rows))
    return pa.table(
        {
            "id": rows.column("id"),
            "text": texts,
            PREDICTED: pa.array([tags for tags, _ in answers], pa.list_(pa.string())),
            PROBABILITIES: pa.array([given for _, given in answers], pa.list_(pa.float64())),
        }
    )


def answered(model: nn.Module, names: Sequence[str], rows: pa.Table) -> Iterator[tuple[list[str], list[float]]]:
    """The likeliest tag of each of a row's words, and how likely it is held."""
    if not rows.num_rows:
        return
    given, place = probabilities(model, rows).max(1)
    lengths = pc.list_value_length(one_array(rows.column(PLACE))).to_pylist()
    for shares, tags in zip(given.split(lengths), place.split(lengths), strict=True):
        yield [names[tag] for tag in tags.tolist()], shares.tolist()
