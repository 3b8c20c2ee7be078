import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from cluster.errors import RegistryError
from cluster.registry import Registry
from cluster.storage import Storage
from jobs.spec import load_ring
from jobs.version import Version, read
from jobs.workloads import tabular
from serving.classifier import Classifier
from tests.jobs.published import publish

SPECS = Path(__file__).parents[2] / "jobs/specs"


@pytest.fixture
def content(loans: Any) -> Version:
    storage, spec, version = loans
    with Registry(storage, spec.name).open(version) as folder:
        return read(folder)


def changed(content: Version, column: str, row: int, value: Any) -> Version:
    values = content.golden.column(column).to_pylist()
    values[row] = value
    place = content.golden.column_names.index(column)
    golden = content.golden.set_column(place, column, pa.array(values, content.golden.schema.field(column).type))
    return Version(content.spec, content.transform, content.model, content.metrics, content.baselines, golden)


def test_it_asks_for_what_serving_reads_and_not_for_the_label_or_what_only_fitting_reads(
    classifier: Classifier,
) -> None:
    assert {column.name for column in classifier.columns} == {"in/come", "age", "home", "shop", "model_config", "marks"}


def test_golden_rows_alone_and_together_are_answered_as_in_training(classifier: Classifier, content: Version) -> None:
    rows = [classifier.row.model_validate(row) for row in classifier.examples]
    golden = content.golden.to_pylist()
    assert len(rows) == len(golden) == tabular.NUM_GOLDEN_ROWS
    for given in (classifier.predict(rows), [classifier.predict([row])[0] for row in rows]):
        for prediction, expected in zip(given, golden, strict=True):
            assert prediction.label == expected["predicted"]
            assert list(prediction.probabilities.values()) == pytest.approx(expected["probabilities"], abs=1e-6)


def test_another_probability_is_refused_with_row_label_and_both_values(content: Version) -> None:
    shares = content.golden.column("probabilities").to_pylist()[3]
    altered = Classifier("v7", "", changed(content, "probabilities", 3, [shares[0] + 0.01, shares[1] - 0.01]))
    label = altered.labels[0]
    values = f"the probability of '{label}' is {shares[0]:.6g}, was {shares[0] + 0.01:.6g}, and may differ by 0.0001"
    expected = f"version v7 answers golden row 3 unlike it did in training: {values}"
    with pytest.raises(RegistryError, match=expected):
        altered.check_golden()


def test_weights_that_are_no_numbers_are_refused(content: Version) -> None:
    with torch.no_grad():
        next(content.model.parameters()).fill_(float("nan"))
    with pytest.raises(RegistryError, match=r"refuses its own golden rows: body rows 0 the model has no answer"):
        Classifier("v7", "", content).check_golden()


def test_a_golden_row_that_a_request_could_not_hold_is_refused(content: Version) -> None:
    with pytest.raises(RegistryError, match=r"v7 refuses its own golden rows: body rows 2 age '7' is below 18\. S"):
        Classifier("v7", "", changed(content, "age", 2, 7.0)).check_golden()


def test_a_text_is_answered_as_in_training(tmp_path: Path) -> None:
    lines = [{"id": str(n), "text": f"{['hello', 'bye'][n % 2]} {n}", "label": "ab"[n % 2]} for n in range(60)]
    storage = Storage(str(tmp_path))
    storage.write("raw/texts/a.jsonl", "\n".join(map(json.dumps, lines)).encode())
    overrides = [f"storage={tmp_path}", "train={num_epochs: 2, batch_size: 8, early_stopping: {metric: accuracy}}"]
    overrides += ["layout={}", "prepare.split={by: hash, valid: 0.2, test: 0.2}"]
    spec = load_ring(SPECS / "text.yaml", overrides)
    registry, version = Registry(storage, spec.name), publish(spec, storage)
    classifier = Classifier.load(registry, version)  # which checks the golden rows
    assert [column.name for column in classifier.columns] == ["text"]
    rows = [classifier.row.model_validate({"text": text}) for text in ("hello 7", "bye 7")]
    assert all(set(given.probabilities) == {"a", "b"} for given in classifier.predict(rows))
    alone, together = classifier.predict(rows[1:])[0], classifier.predict(rows)[1]
    assert alone.probabilities == pytest.approx(together.probabilities, abs=1e-6)
