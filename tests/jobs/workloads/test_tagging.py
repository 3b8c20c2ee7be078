"""The tagging workload beside scikit-learn, and what it makes of words that are not read."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from jobs.features.split import SPLIT, TrainRows
from jobs.features.transform import Transform
from jobs.workloads import tagging
from jobs.workloads.classification import labels
from jobs.workloads.tagging import NO_TAG, PLACE, TAGS, TaggingSpec

SPEC = TaggingSpec(
    **{"context_length": 12, "num_positions": 16, "vocabulary_size": 300, "dropout": 0.0},
    **{"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "feed_forward_dim": 32},
)
TAG_OF = {"the": "DET", "a": "DET", "cat": "NOUN", "ships": "NOUN", "sail": "VERB", "Grüße": "NOUN"}
SHARES = [0.3, 0.1, 0.1, 0.1, 0.3, 0.1]
"""Of the words, in texts."""


def prepared(spec: TaggingSpec = SPEC, seed: int = 0, num_rows: int = 60) -> tuple[Transform, pa.Table]:
    """Texts whose words have the tags above, but that "sail" after "the" is a noun."""
    draw = np.random.default_rng(seed)
    texts = [draw.choice(list(TAG_OF), draw.integers(1, 7), p=SHARES).tolist() for _ in range(num_rows)]
    tags = [[tag_of(words, place) for place in range(len(words))] for words in texts]
    columns = {"id": [str(n) for n in range(num_rows)], "text": [" ".join(words) for words in texts], "tags": tags}
    rows = TrainRows(pa.table({**columns, SPLIT: ["train"] * num_rows}))
    transform = Transform(tagging.steps(spec)).fit([rows])
    return transform, transform.apply(rows.table)


def tag_of(words: list[str], place: int) -> str:
    return "NOUN" if place and words[place - 1 : place + 1] == ["the", "sail"] else TAG_OF[words[place]]


def test_the_tag_of_a_word_is_at_its_first_token_and_nowhere_else() -> None:
    transform, rows = prepared()
    batch, names = tagging.tensors(rows), labels(transform)
    for number, row in enumerate(rows.to_pylist()):
        classes = batch[TAGS][number]
        wanted = {place: tag for place, tag in zip(row[PLACE], row["tags"], strict=True) if place}
        found = {place: names[tag] for place, tag in enumerate(classes.tolist()) if tag != NO_TAG}
        assert found == wanted
        assert batch["is_there"][number][list(wanted)].all()


def test_the_loss_of_a_row_is_the_mean_over_its_words() -> None:
    transform, rows = prepared()
    torch.manual_seed(0)
    logits = torch.randn(rows.num_rows, SPEC.context_length, len(labels(transform)))
    batch = tagging.tensors(rows)
    losses = tagging.loss(SPEC, logits, batch)
    shares = logits.softmax(-1)
    for number, wanted in enumerate(batch[TAGS]):
        each = [-shares[number, place, tag].log() for place, tag in enumerate(wanted.tolist()) if tag != NO_TAG]
        assert losses[number].item() == pytest.approx(float(sum(each)) / len(each), rel=1e-5)
    batch[TAGS][3] = NO_TAG
    assert tagging.loss(SPEC, logits, batch)[3] == 0
    assert torch.equal(tagging.apart(logits, logits, batch, 2.0), torch.zeros(rows.num_rows))


def test_a_short_training_learns_what_no_word_says_alone() -> None:
    transform, rows = prepared()
    torch.manual_seed(0)
    model, batch = tagging.build(SPEC, transform).train(), tagging.tensors(rows)
    batch["key"] = torch.arange(rows.num_rows)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(120):
        optimizer.zero_grad()
        tagging.loss(SPEC, model(batch), batch).mean().backward()
        optimizer.step()
    scores = tagging.evaluate(SPEC, model.eval(), transform, rows)
    baselines = tagging.baselines(SPEC, transform, TrainRows(rows), rows)
    assert baselines["tag_shares"]["accuracy"] < baselines["token_shares"]["accuracy"] < 0.95 < scores["accuracy"]
    assert scores["log_loss"] < baselines["token_shares"]["log_loss"] / 2
    golden = tagging.golden(SPEC, model, transform, rows)
    assert golden.column("text").to_pylist() == rows.column("text").to_pylist()[: golden.num_rows]
    assert golden.column("predicted").to_pylist() == rows.column("tags").to_pylist()[: golden.num_rows]
    assert all(0.5 < share <= 1 for row in golden.column("probabilities").to_pylist() for share in row)


def test_a_word_that_is_not_read_counts_as_wrong_and_makes_no_golden_row() -> None:
    spec = SPEC.model_copy(update={"context_length": 4})
    transform, rows = prepared(spec)
    words = rows.column(PLACE).to_pylist()
    num_unread = sum(row.count(0) for row in words)
    assert num_unread
    perfect = tagging.scores(*certain(rows, len(labels(transform))))
    assert perfect["accuracy"] == pytest.approx(1 - num_unread / sum(map(len, words)))
    model = tagging.build(spec, transform).eval()
    assert 0 < tagging.golden(spec, model, transform, rows).num_rows == min(16, sum(0 not in row for row in words))


def certain(rows: pa.Table, num_tags: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities that are right wherever a word is read, and what is asked."""
    tags = torch.tensor([tag - 1 for row in rows.column(TAGS).to_pylist() for tag in row])
    is_read = torch.tensor([place > 0 for row in rows.column(PLACE).to_pylist() for place in row])
    return torch.eye(num_tags, dtype=torch.float64)[tags], tags.where(is_read, torch.tensor(-1))


def test_a_tag_that_training_did_not_show_is_never_right() -> None:
    transform, _ = prepared()
    asked = pa.table({"id": ["1"], "text": ["the cat"], "tags": [["DET", "new"]]})
    rows = transform.apply(asked)
    assert rows.column(TAGS).to_pylist()[0][1] == 0
    model = tagging.build(SPEC, transform).eval()
    assert tagging.evaluate(SPEC, model, transform, rows)["accuracy"] <= 0.5
    assert (tagging.tensors(rows)[TAGS] != NO_TAG).sum() == 1


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_macro_f1_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    predicted, actual = map(torch.tensor, zip(*pairs, strict=True))
    assert tagging.macro_f1(predicted, actual) == pytest.approx(f1_score(actual, predicted, average="macro"))


def test_token_shares_count_a_tokens_tags_in_training() -> None:
    transform, rows = prepared(num_rows=200)
    asked = transform.apply(prepared(seed=1)[1].select(["id", "text", "tags"]))
    found = tagging.baselines(SPEC, transform, TrainRows(rows), asked)["token_shares"]
    predicted = [TAG_OF[word] for text in asked.column("text").to_pylist() for word in text.split()]
    actual = [tag for tags in asked.column("tags").to_pylist() for tag in tags]
    is_read = [place > 0 for places in asked.column(PLACE).to_pylist() for place in places]
    right = [one == other and read for one, other, read in zip(predicted, actual, is_read, strict=True)]
    assert found["accuracy"] == pytest.approx(np.mean(right))
