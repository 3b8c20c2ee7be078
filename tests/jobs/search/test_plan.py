import json
from pathlib import Path

import pytest

from cluster.spec import load, with_values
from cluster.storage import Storage
from jobs.search.plan import Plan, Trial, plan_folder, read_plan, show_values, write_plan
from jobs.spec import EarlyStoppingSpec, TrainSpec

VALUES = {"train.batch_size": 256, "train.schedule": "cosine", "rate": 0.1 + 0.2, "train.on": True}
PLAN = Plan(
    values=VALUES,
    metric="ndcg_at_10",
    best=0.25,
    trials=(Trial(VALUES, 0.25, 4, 12.5), Trial({"train.batch_size": 64}, None, 0, 0.25)),
)


def test_a_plan_reads_back_equal_with_the_types_of_its_values(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_plan(storage, plan_folder("films", "0123"), PLAN, {"key": "0123"})
    read = read_plan(storage, "films", "0123")
    assert read == PLAN
    assert [type(value) for value in read.values.values()] == [int, str, float, bool]


def test_a_plan_lies_in_a_published_folder_with_its_manifest(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_plan(storage, plan_folder("films", "0123"), PLAN, {"key": "0123"})
    assert storage.folders("plans/films") == ["0123"]
    manifest = storage.manifest("plans/films/0123")
    assert manifest["key"] == "0123"
    assert [*manifest["files"]] == ["plan.json"]
    assert json.loads(storage.read("plans/films/0123/plan.json"))["values"] == VALUES


def test_other_inputs_have_no_plan(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert read_plan(storage, "films", "0123") is None
    write_plan(storage, plan_folder("films", "0123"), PLAN, {})
    assert read_plan(storage, "films", "4567") is None
    assert read_plan(storage, "books", "0123") is None


def test_a_plan_that_is_only_half_written_is_none(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("plans/films/0123/plan.json", b'{"values"')
    assert read_plan(storage, "films", "0123") is None


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, ""),
        ({"train.batch_size": 512, "train.schedule": "cosine"}, "train.batch_size=512 train.schedule=cosine"),
        ({"rate": 0.0123456, "decay": 1e-6, "momentum": 0.5}, "rate=0.01235 decay=1e-06 momentum=0.5"),
    ],
)
def test_values_show_as_the_overrides_that_give_them(values: dict[str, object], text: str) -> None:
    assert show_values(values) == text


def test_shown_values_can_be_given_as_overrides(tmp_path: Path) -> None:
    values = {"batch_size": 256, "schedule": "constant", "optimizer.weight_decay": 1e-6, "optimizer.name": "sgd"}
    path = tmp_path / "train.yaml"
    path.write_text("early_stopping: {metric: rmse}\n")
    planned = with_values(TrainSpec(early_stopping=EarlyStoppingSpec(metric="rmse")), values)
    assert load(TrainSpec, path, show_values(values).split()) == planned


def test_the_line_of_a_plan_names_values_metric_and_trials() -> None:
    assert PLAN.line() == (
        "train.batch_size=256 train.schedule=cosine rate=0.3 train.on=True (ndcg_at_10 0.2500, best of 2 trials)"
    )
