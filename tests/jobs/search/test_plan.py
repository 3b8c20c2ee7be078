import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.layout import Layout
from cluster.spec import load, with_values
from cluster.storage import Storage
from jobs.search.plan import Ancestor, Foreseen, LeftOut, Plan, plan_folder, read_plan, show_values, write_plan
from jobs.search.space import Values
from jobs.search.trial import LayoutTrial, Trial
from jobs.spec import EarlyStoppingSpec, TrainSpec, load_ring

SPEC = Path(__file__).parents[3] / "jobs/specs/recommender.yaml"
VALUES: Values = {"train.batch_size": 256, "train.schedule": "cosine", "rate": 0.1 + 0.2, "train.on": True}
PLAN = Plan(
    values=VALUES,
    metric="ndcg_at_10",
    best=0.25,
    trials=(
        Trial(
            0, VALUES, {"shard": 2}, 2**20, 0.5, ({"num_epochs": 4, "ndcg_at_10": 0.25},), 0.25, "finished", "", 1, 25.0
        ),
        Trial(1, {"train.batch_size": 64}, {}, outcome="failed", said="why", num_starts=2, device_s=0.5),
    ),
)
LAID_OUT = replace(
    PLAN,
    layout={"replicate": 2, "schedule": "gpipe"},
    layouts=(LayoutTrial({"replicate": 2}, 2**20, 0.5, (0.1, 0.2), (3, 4), "finished", "", 1, 10.0),),
    ranking=(Foreseen({"replicate": 2}, 2**20, 0.5), Foreseen({}, 2**21, 0.75)),
    left_out=(LeftOut({"tensor": 8}, "no such heads"),),
    why="It is the fastest.",
)


GROWN = replace(
    PLAN,
    lineage=(Ancestor(0, 1, {"rate": 0.1}), Ancestor(2, 0, {"rate": 0.08})),
    num_epochs=4,
    checkpoint="plans/films/89ab.weights",
)


def test_a_plan_reads_back_equal_with_the_types_of_its_values(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_plan(storage, plan_folder("films", "0123"), PLAN, {"key": "0123"})
    write_plan(storage, plan_folder("films", "4567"), LAID_OUT, {"key": "4567"})
    read = read_plan(storage, "films", "0123")
    assert read == PLAN
    assert [type(value) for value in read.values.values()] == [int, str, float, bool]
    assert read_plan(storage, "films", "4567") == LAID_OUT
    write_plan(storage, plan_folder("films", "89ab"), GROWN, {"key": "89ab"})
    assert read_plan(storage, "films", "89ab") == GROWN


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
    assert GROWN.line().endswith("(ndcg_at_10 0.2500, best of 2 members after 4 epochs)")
    assert LAID_OUT.line().startswith("layout replicate=2 schedule=gpipe (fastest of 1 measured), train.batch_size=256")
    assert replace(LAID_OUT, best=None, values={}).line() == (
        "layout replicate=2 schedule=gpipe (fastest of 1 measured)"
    )


def test_what_a_search_took_is_kept_with_the_plan(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_plan(storage, plan_folder("films", "0123"), LAID_OUT, {"key": "0123"})
    assert LAID_OUT.device_s == 35.5
    assert json.loads(storage.read("plans/films/0123/plan.json"))["device_s"] == 35.5


def test_a_plan_puts_its_layout_and_then_its_values_into_the_spec() -> None:
    spec = load_ring(SPEC, ["storage=/nowhere", "layout={shard: 4}"])
    values = {"layout.precision": "bf16", "train.batch_size": 256}
    assert replace(PLAN, values=values).put_into(spec).layout == Layout(shard=4, precision="bf16")
    planned = replace(LAID_OUT, values=values).put_into(spec)
    assert planned.layout == Layout(replicate=2, schedule="gpipe", precision="bf16")
    assert planned.train.batch_size == 256


def test_weights_are_told_from_others_by_what_they_were_trained_with_and_how_long() -> None:
    others = [replace(GROWN, num_epochs=5), replace(GROWN, lineage=(Ancestor(0, 1, {"rate": 0.2}), *GROWN.lineage[1:]))]
    assert len({plan.weights_key for plan in (GROWN, *others)}) == 3
    assert GROWN.weights_key == replace(GROWN, best=0.5, checkpoint="elsewhere", trials=()).weights_key
    assert PLAN.weights_key == ""
