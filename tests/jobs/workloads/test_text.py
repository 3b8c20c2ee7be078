"""The text workload beside scikit-learn, and what it refuses."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.naive_bayes import MultinomialNB

from jobs.features.bpe import START
from jobs.features.split import SPLIT, TrainRows
from jobs.features.transform import Transform
from jobs.workloads import text
from jobs.workloads.classification import CLASS, labels
from jobs.workloads.text import TextSpec

SPEC = TextSpec(
    context_length=16, num_positions=16, hidden_dim=16, num_heads=2, feed_forward_dim=32, tokenizer="bytes", dropout=0.0
)
WORDS = {"greet": ["hello", "good day", "hi there"], "leave": ["bye", "see you", "good night"]}


def prepared(spec: TextSpec = SPEC, seed: int = 0, num_rows: int = 60) -> tuple[Transform, pa.Table]:
    draw = np.random.default_rng(seed)
    kinds = draw.choice(["greet", "leave"], num_rows, p=[0.4, 0.6]).tolist()
    texts = [f"{draw.choice(WORDS[kind])} {draw.choice(['sir', 'all'])}" for kind in kinds]
    columns = {"id": [str(n) for n in range(num_rows)], "text": texts, "label": kinds, SPLIT: ["train"] * num_rows}
    rows = TrainRows(pa.table(columns))
    transform = Transform(text.steps(spec)).fit([rows])
    return transform, transform.apply(rows.table)


def test_a_row_is_a_text_from_its_beginning_and_its_class() -> None:
    transform, rows = prepared()
    batch = text.tensors(rows)
    for number in range(rows.num_rows):
        given = rows.column("text")[number].as_py().encode()[:15]
        length = 1 + len(given)
        assert batch["token"][number].tolist() == [START, *given, *[START] * (16 - length)]
        assert batch["is_there"][number].tolist() == [True] * length + [False] * (16 - length)
        assert labels(transform)[int(batch[CLASS][number])] == rows.column("label")[number].as_py()


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_a_short_training_learns_what_texts_say(tokenizer: str) -> None:
    spec = SPEC.model_copy(update={"tokenizer": tokenizer})
    transform, rows = prepared(spec)
    torch.manual_seed(0)
    model, batch = text.build(spec, transform).train(), text.tensors(rows)
    batch["key"] = torch.arange(rows.num_rows)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        text.loss(spec, model(batch), batch).mean().backward()
        optimizer.step()
    scores = text.evaluate(spec, model.eval(), transform, rows)
    baselines = text.baselines(spec, transform, TrainRows(rows), rows)
    assert scores["accuracy"] > 0.95
    assert scores["log_loss"] < baselines["class_shares"]["log_loss"] / 3
    golden = text.golden(spec, model, transform, rows)
    assert golden.column_names == ["id", "text", "predicted", "probabilities"]
    assert golden.column("text").to_pylist() == rows.column("text").to_pylist()[: golden.num_rows]


def test_naive_bayes_is_that_of_scikit_learn() -> None:
    transform, known = prepared()
    asked = transform.apply(prepared(seed=1)[1].select(["id", "text", "label"]))
    counts = []
    for rows in (known, asked):
        batch = text.tensors(rows)
        there = batch["is_there"] & (batch["token"] != START)
        found = [np.bincount(token[seen], minlength=288) for token, seen in zip(batch["token"], there, strict=True)]
        counts.append((np.array(found), batch[CLASS].numpy()))
    model = MultinomialNB().fit(*counts[0])
    given = model.predict_proba(counts[1][0])
    found = text.baselines(SPEC, transform, TrainRows(known), asked)["naive_bayes"]
    assert found["accuracy"] == pytest.approx((given.argmax(1) == counts[1][1]).mean())
    assert found["log_loss"] == pytest.approx(-np.log(given[np.arange(len(given)), counts[1][1]]).mean(), rel=1e-6)


def test_replaced_tokens_are_of_the_text() -> None:
    spec = TextSpec(**{**SPEC.model_dump(), "augment": {"replace": 0.9}})
    _, rows = prepared()
    batch = text.tensors(rows) | {"key": torch.arange(rows.num_rows)}
    changed = text.augment(spec, batch, lambda: batch)
    there = batch["is_there"]
    assert torch.equal(changed["token"][~there], batch["token"][~there])
    assert torch.equal(changed["token"][:, 0], batch["token"][:, 0])
    assert 0.3 < (changed["token"] != batch["token"])[there].double().mean() < 0.95
    assert text.augment(SPEC, batch, lambda: batch) is batch
