import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cluster.errors import DataError
from jobs.features.bins import Bins
from jobs.features.compare import Compare
from jobs.features.impute import Impute
from jobs.features.logarithm import Logarithm
from jobs.features.one_hot import OneHot
from jobs.features.outliers import Outliers
from jobs.features.scaling import Scaling
from jobs.features.split import TrainRows
from jobs.features.target_encoding import TargetEncoding
from jobs.features.transform import Transform
from jobs.features.vocabulary import Vocabulary

UNFITTED = Transform(
    (Vocabulary(column="user_id", output="user"), Vocabulary(column="item_id", output="item", min_count=2))
)
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
    return UNFITTED.fit([TrainRows(TRAIN.slice(start, 2)) for start in (0, 2)]).with_lookups(LOOKUPS)


def test_every_step_is_fitted_on_all_parts_in_any_order() -> None:
    parts = [TrainRows(TRAIN.slice(start, 1)) for start in range(4)]
    whole = UNFITTED.fit([TrainRows(TRAIN)])
    assert UNFITTED.fit(parts) == UNFITTED.fit(parts[::-1]) == whole
    assert [step.state().column("value").to_pylist() for step in whole.steps] == [["u1", "u2", "ü"], ["a", "b"]]


def test_apply_appends_a_column_a_step_and_keeps_the_others() -> None:
    applied = fitted().apply(TRAIN)
    assert applied.select(TRAIN.column_names) == TRAIN
    assert applied.column("user").to_pylist() == [1, 2, 1, 3]
    assert applied.column("item").to_pylist() == [1, 1, 2, 2]


def test_a_step_is_found_by_the_column_it_makes() -> None:
    assert list(fitted().step("item").makes) == ["item"]


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


def test_transforms_are_alike_where_steps_and_what_they_learned_are(tmp_path: Path) -> None:
    transform = fitted()
    transform.save(tmp_path)
    assert transform.alike(Transform.load(tmp_path))
    assert not transform.alike(Transform(transform.steps[:-1]))
    assert not transform.alike(UNFITTED)
    assert not UNFITTED.alike(transform)


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
        "column": "item_id",
        "output": "item",
        "of": "text",
        "min_count": 2,
    }


def test_only_training_rows_can_be_fitted_on() -> None:
    with pytest.raises(ValueError, match="training rows only"):
        UNFITTED.statistics(1, TrainRows(TRAIN.set_column(2, "split", pa.array(["test"] * 4))))


def test_steps_of_several_kinds_are_saved_and_loaded_as_what_they_are(tmp_path: Path) -> None:
    unfitted = Transform((Scaling(column="rating", output="scaled"), Vocabulary(column="user_id", output="user")))
    transform = unfitted.fit([TrainRows(TRAIN)])
    transform.save(tmp_path)
    loaded = Transform.load(tmp_path)
    assert loaded == transform
    assert [type(step) for step in loaded.steps] == [Scaling, Vocabulary]
    assert loaded.apply(TRAIN) == transform.apply(TRAIN)


ROWS = {
    "id": [f"r{n}" for n in range(40)],
    "x": [None if n % 7 == 0 else float(n % 11) for n in range(40)],
    "far": [1000.0 if n == 3 else float(n) for n in range(40)],
    "word": ["abc"[n % 3] for n in range(40)],
    "split": ["train" if n % 4 else "test" for n in range(40)],
}
STEPS = Transform(
    (
        Impute(column="x", fill="mean"),
        Scaling(column="x", method="min_max"),
        Outliers(column="far", then="drop", limit=3.0),
        Logarithm(column="x", output="log", shift=1.0),
        Bins(column="log", num_bins=3),
        OneHot(column="word", output="hot"),
        Vocabulary(column="word", output="index"),
    )
)


def rows(**columns: list[object]) -> pa.Table:
    return pa.table({**ROWS, **columns})


def parts_of(table: pa.Table) -> list[TrainRows]:
    return [TrainRows.of(table.slice(start, 7)) for start in range(0, table.num_rows, 7)]


def test_steps_are_fitted_in_one_scan_a_level() -> None:
    scans = [[step.kind for step in scan] for scan in STEPS.scans]
    # The outliers leave out rows, so what comes after them waits; bins wait for the scaled column besides.
    assert scans == [["impute", "outliers"], ["scaling", "one_hot", "vocabulary"], ["bins"]]


def test_each_step_is_fitted_on_what_the_steps_before_it_leave() -> None:
    fitted = STEPS.fit(parts_of(rows()))
    train = [n for n in range(40) if n % 4]
    known = [n % 11 for n in train if n % 7]
    filled = [n % 11 if n % 7 else sum(known) / len(known) for n in train]
    low, high = min(filled), max(filled)
    kept = [n for n in train if n != 3]
    scaled = {n: (value - low) / (high - low) for n, value in zip(train, filled, strict=True)}
    expected = np.unique(np.quantile([math.log(scaled[n] + 1) for n in kept], [1 / 3, 2 / 3]))
    assert fitted.step("log").state().column("edge").to_pylist() == pytest.approx(expected, rel=1e-6)
    assert fitted.step("index").state().column("value").to_pylist() == ["b", "c", "a"]


def test_no_row_outside_of_training_changes_what_is_fitted() -> None:
    wild = {
        "x": [1e9 if n % 4 == 0 else value for n, value in enumerate(ROWS["x"])],
        "far": [-1e9 if n % 4 == 0 else value for n, value in enumerate(ROWS["far"])],
        "word": [f"unseen {n}" if n % 4 == 0 else value for n, value in enumerate(ROWS["word"])],
    }
    assert STEPS.fit(parts_of(rows(**wild))) == STEPS.fit(parts_of(rows()))
    wild["far"][1] = 500.0
    assert STEPS.fit(parts_of(rows(**wild))) != STEPS.fit(parts_of(rows()))


def test_prepare_leaves_out_training_rows_alone_and_apply_none() -> None:
    fitted = STEPS.fit(parts_of(rows()))
    table = rows(far=[1000.0 if n in (3, 4) else float(n) for n in range(40)])
    assert fitted.apply(table).num_rows == 40
    left = fitted.prepare(table).column("id").to_pylist()
    assert set(ROWS["id"]) - set(left) == {"r3"}


def test_what_a_step_replaces_stays_as_it_was_read() -> None:
    applied = STEPS.fit(parts_of(rows())).apply(rows())
    assert applied.column("raw:x").to_pylist() == ROWS["x"]
    assert applied.column("x").null_count == 0
    read = STEPS.raw(applied)
    assert read.column_names == ["x", "far", "word"]
    assert read.to_pylist() == rows().select(["x", "far", "word"]).to_pylist()


def test_only_the_steps_that_columns_need_are_kept() -> None:
    assert [step.kind for step in STEPS.only(["log"]).steps] == ["impute", "scaling", "log", "bins"]
    assert [step.kind for step in STEPS.only(["index"]).steps] == ["vocabulary"]
    assert STEPS.only(["word"]).steps == ()


def test_a_row_that_is_served_needs_no_target() -> None:
    encoding = TargetEncoding(column="word", output="share", target="late", positive="yes", key="id")
    steps = Transform((Compare(column="far", above=20.0, output="late"), encoding))
    fitted = steps.fit(parts_of(rows()))
    served = fitted.only(["share"])
    assert [step.kind for step in served.steps] == ["target_encoding"]
    applied = fitted.apply(rows())
    assert served.raw(applied).column_names == ["word"]
    test = applied.filter(pc.equal(applied.column("split"), "test"))
    assert served.apply(served.raw(test)).column("share").to_pylist() == test.column("share").to_pylist()


def test_one_row_is_made_into_what_the_table_is() -> None:
    fitted = STEPS.fit(parts_of(rows()))
    draw = np.random.default_rng(0)
    raw = rows().drop_columns(["split"]).take(draw.integers(0, 40, 300)).to_pylist()
    for row in raw:
        row["x"] = None if row["x"] is None else row["x"] + float(draw.normal())
    columns = ["x", "log", "hot", "index"]
    table = fitted.apply(pa.Table.from_pylist(raw)).select(columns).to_pylist()
    assert [{name: made[name] for name in columns} for made in map(fitted.apply_row, raw)] == table


def test_what_each_step_learned_is_told_in_its_order() -> None:
    lines = STEPS.fit(parts_of(rows())).told().splitlines()
    assert lines[0].startswith("1. impute  column=x  of=number  fill=mean")
    assert lines[1].startswith("     x: ")
    assert [line.split()[1] for line in lines if not line.startswith(" ")] == [step.kind for step in STEPS.steps]


def test_fitted_steps_of_every_kind_are_saved_and_loaded_as_they_are(tmp_path: Path) -> None:
    fitted = STEPS.fit(parts_of(rows()))
    fitted.save(tmp_path)
    assert Transform.load(tmp_path) == fitted
    assert Transform.load(tmp_path).apply(rows()) == fitted.apply(rows())


def test_a_file_of_another_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    fitted().save(tmp_path)
    names = json.loads((tmp_path / "transform.json").read_text())
    (tmp_path / "transform.json").write_text(json.dumps({**names, "format": 99}))
    with pytest.raises(DataError, match=r"has format 99, this code reads 3; make it again with jobs\.prepare"):
        Transform.load(tmp_path)
