import json
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.features.scaling import Scaling
from jobs.features.split import TrainRows
from jobs.features.transform import Transform
from jobs.features.vocabulary import Vocabulary

UNFITTED = Transform((Vocabulary("user_id", "user"), Vocabulary("item_id", "item", min_count=2)))
TRAIN = pa.table(
    {"user_id": ["u1", "u2", "u1", "ü"], "item_id": ["a", "a", "b", "b"], "split": ["train"] * 4, "rating": [1.0] * 4}
)
LOOKUPS = {
    "items": pa.table(
        {
            "item_id": pa.array(["a", "b"]),
            "title": pa.array(["Amélie (2001)", None]),
            "genres": pa.array([["Drama", None], None], pa.list_(pa.string())),
        }
    ),
    "history": pa.table({"user": pa.array([1, 1], pa.int32()), "rating": pa.array([0.1, 5.0])}),
    "no rows": pa.table({"genre": pa.array([], pa.string())}),
}


def fitted() -> Transform:
    parts = [UNFITTED.statistics(TrainRows(TRAIN.slice(start, 2))) for start in (0, 2)]
    return UNFITTED.fitted(parts).with_lookups(LOOKUPS)


def test_every_step_is_fitted_on_all_parts_in_any_order() -> None:
    parts = [UNFITTED.statistics(TrainRows(TRAIN.slice(start, 1))) for start in range(4)]
    whole = UNFITTED.fitted([UNFITTED.statistics(TrainRows(TRAIN))])
    assert UNFITTED.fitted(parts) == UNFITTED.fitted(parts[::-1]) == whole
    assert [step.state().column("value").to_pylist() for step in whole.steps] == [["u1", "u2", "ü"], ["a", "b"]]


def test_apply_appends_a_column_a_step_and_keeps_the_others() -> None:
    applied = fitted().apply(TRAIN)
    assert applied.select(TRAIN.column_names) == TRAIN
    assert applied.column("user").to_pylist() == [1, 2, 1, 3]
    assert applied.column("item").to_pylist() == [1, 1, 2, 2]


def test_a_step_is_found_by_the_column_it_makes() -> None:
    assert fitted().step("item").output == "item"


def test_saved_and_loaded_is_equal_to_the_last_value(tmp_path: Path) -> None:
    transform = fitted()
    transform.save(tmp_path)
    loaded = Transform.load(tmp_path)
    assert loaded == transform
    assert list(loaded.lookups) == list(LOOKUPS)
    for name, table in LOOKUPS.items():
        assert loaded.lookups[name].schema == table.schema
    rows = pa.table({"user_id": ["u2", "unseen", None], "item_id": ["b", "a", "zz"]})
    assert loaded.apply(rows) == transform.apply(rows)


def test_saved_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        fitted().save(tmp_path / name)
    for file in ("transform.json", "transform.arrow"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_loaded_transform_can_be_saved_again(tmp_path: Path) -> None:
    fitted().save(tmp_path)
    (tmp_path / "again").mkdir()
    Transform.load(tmp_path).save(tmp_path / "again")
    assert Transform.load(tmp_path / "again") == fitted()


def test_tables_of_several_chunks_are_saved_whole(tmp_path: Path) -> None:
    chunked = pa.concat_tables([LOOKUPS["items"], LOOKUPS["items"].slice(1)])
    fitted().with_lookups({"items": chunked}).save(tmp_path)
    assert Transform.load(tmp_path).lookups["items"].to_pylist() == chunked.to_pylist()


def test_an_unfitted_transform_saves_too(tmp_path: Path) -> None:
    UNFITTED.save(tmp_path)
    assert Transform.load(tmp_path) == UNFITTED


def test_settings_are_plain_json(tmp_path: Path) -> None:
    fitted().save(tmp_path)
    names = json.loads((tmp_path / "transform.json").read_text())
    assert names["steps"][1] == {
        "kind": "vocabulary",
        "settings": {"column": "item_id", "output": "item", "min_count": 2},
    }


def test_only_training_rows_can_be_fitted_on() -> None:
    with pytest.raises(ValueError, match="training rows only"):
        UNFITTED.statistics(TrainRows(TRAIN.set_column(2, "split", pa.array(["test"] * 4))))


def test_steps_of_several_kinds_are_saved_and_loaded_as_what_they_are(tmp_path: Path) -> None:
    unfitted = Transform((Scaling("rating", "scaled"), Vocabulary("user_id", "user")))
    transform = unfitted.fitted([unfitted.statistics(TrainRows(TRAIN))])
    transform.save(tmp_path)
    loaded = Transform.load(tmp_path)
    assert loaded == transform
    assert [type(step) for step in loaded.steps] == [Scaling, Vocabulary]
    assert loaded.apply(TRAIN) == transform.apply(TRAIN)
