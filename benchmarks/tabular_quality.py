"""How good the shipped tabular models are beside scikit-learn's on the very same prepared rows.

python benchmarks/tabular_quality.py [--seeds 3]     # about 5 minutes on two cores; writes the .md beside it
"""

import argparse
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sklearn
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import OneHotEncoder

from cluster.lifecycle import connected
from cluster.registry import Registry
from cluster.storage import Storage
from jobs import examples, prepare, train, version
from jobs.prepared import read_split
from jobs.spec import RingSpec, load_ring
from jobs.workloads import tabular
from jobs.workloads.classification import probabilities

ROOT = Path(__file__).parents[1]
Scores = tuple[float, float, float]
"""Accuracy, log loss and the area under the ROC curve."""
Columns = dict[str, np.ndarray]
RIVALS: dict[str, Callable[[int, list[int]], Any]] = {
    "LogisticRegression": lambda seed, categories: LogisticRegression(max_iter=300),
    "MLPClassifier": lambda seed, categories: MLPClassifier((64, 64), early_stopping=True, random_state=seed),
    "HistGradientBoostingClassifier": lambda seed, categories: HistGradientBoostingClassifier(
        categorical_features=categories, random_state=seed
    ),
}


def columns_of(rows: pa.Table) -> Columns:
    """What the model is given of each row, as arrays."""
    return {name: tensor.numpy() for name, tensor in tabular.tensors(rows).items()}


def wide(columns: Columns, encoder: OneHotEncoder) -> np.ndarray:
    """Numbers, gaps and vectors beside categories in one-hot columns, for models that know no categories."""
    hot = encoder.transform(columns["categories"])
    return np.hstack([columns["numbers"], columns["is_missing"], columns["vectors"], hot])


def narrow(columns: Columns) -> np.ndarray:
    """Numbers, with their gaps, and vectors beside categories as they are, for trees."""
    numbers = np.where(columns["is_missing"] > 0, np.nan, columns["numbers"])
    return np.hstack([numbers, columns["vectors"], columns["categories"]])


def scored(actual: np.ndarray, given: np.ndarray) -> Scores:
    return (
        float(accuracy_score(actual, given.argmax(1))),
        float(log_loss(actual, given, labels=[0, 1])),
        float(roc_auc_score(actual, given[:, 1])),
    )


def rivals(known: Columns, asked: Columns, seed: int) -> Iterator[tuple[str, Scores]]:
    """The scores of scikit-learn's models, fitted on the training rows."""
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32).fit(known["categories"])
    num_categories = known["categories"].shape[1]
    for name, model_of in RIVALS.items():
        is_of_trees = name.startswith("Hist")
        inputs, test = (narrow(part) if is_of_trees else wide(part, encoder) for part in (known, asked))
        places = list(range(inputs.shape[1] - num_categories, inputs.shape[1]))
        fitted = model_of(seed, places).fit(inputs, known["class"])
        yield name, scored(asked["class"], fitted.predict_proba(test))


def measured(spec: RingSpec, storage: Storage) -> dict[str, Scores]:
    """Test scores by model."""
    prepared = prepare.run(spec, storage).folder
    name = train.run(spec, storage).folder.rsplit("/", 1)[1]
    known, asked = (columns_of(read_split(storage, prepared, part, tabular.ties)) for part in ("train", "test"))
    with Registry(storage, spec.name).open(name) as folder:
        model = version.read(folder).model
    batch = tabular.tensors(read_split(storage, prepared, "test", tabular.ties))
    shares = np.bincount(known["class"]) / len(known["class"])
    return {
        "class shares": scored(asked["class"], np.tile(shares, (len(asked["class"]), 1))),
        "Rayline": scored(asked["class"], probabilities(model, batch).numpy()),
        **dict(rivals(known, asked, spec.seed)),
    }


def lines_of(data: str, runs: list[dict[str, Scores]]) -> Iterator[str]:
    for name in runs[0]:
        cells = [told([run[name][place] for run in runs]) for place in range(3)]
        yield f"| {data} | {name} | {' | '.join(cells)} |"


def told(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return mean if max(values) - min(values) < 5e-5 else f"{mean} ({min(values):.4f} to {max(values):.4f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    num_seeds = {"tabular": parser.parse_args().seeds, "flights": 1}
    lines = ["| data | model | accuracy | log loss | ROC AUC |", "|---|---|---:|---:|---:|"]
    with tempfile.TemporaryDirectory() as folder, connected():
        storage = Storage(folder)
        for name, data in (("tabular", "credit"), ("flights", "flights")):
            examples.main([name, folder])
            path = ROOT / f"jobs/specs/{name}.yaml"
            specs = [load_ring(path, [f"storage={folder}", f"seed={seed}"]) for seed in range(num_seeds[name])]
            lines += lines_of(data, [measured(spec, storage) for spec in specs])
            print("\n".join(lines), flush=True)
    Path(__file__).with_suffix(".md").write_text(
        f"""# The tabular models beside scikit-learn's

The credit table (4,454 loans) and the flights (336,776), through `jobs/specs/tabular.yaml` and `flights.yaml` as they
are. scikit-learn {sklearn.__version__} is fitted on the very training rows that prepare wrote and scored on the same
test rows: with categories in one-hot columns, for trees as categories; its settings are its own but for two hidden
layers of 64 with early stopping and 300 iterations of the logistic regression. `class shares` gives every row the
shares of the classes in training. Rayline's early stopping sees the validation rows, that of scikit-learn's MLP a tenth
of the training rows. Credit: mean of {num_seeds["tabular"]} seeds (lowest to highest); flights: one seed.
{platform.machine()} with Python {platform.python_version()}. Made by `python benchmarks/tabular_quality.py`.

{chr(10).join(lines)}
"""
    )


if __name__ == "__main__":
    main()
