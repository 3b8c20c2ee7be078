import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import DataError
from cluster.storage import Storage
from jobs.lineage import (
    Inputs,
    prepare_inputs,
    prepared_folder,
    raw_files,
    train_inputs,
    tune_inputs,
    why_new,
)
from jobs.spec import RingSpec, load_ring

SPEC = """
name: films
raw: {events: {path: raw/ratings}, items: {path: raw/movies}}
workload: {kind: recommender}
train: {early_stopping: {metric: ndcg_at_10}}
"""
INPUTS = Inputs("0123", {"seed": 0, "train": {"num_epochs": 3, "batch_size": 64}}, "abcd")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path / "ring"))
    storage.write("raw/ratings/a.csv", b"user_id,item_id\n1,2\n")
    storage.write("raw/ratings/more/b.csv", b"user_id,item_id\n1,3\n")
    storage.write("raw/movies/a.csv", b"item_id\n2\n3\n")
    return storage


def spec_of(storage: Storage, *overrides: str) -> RingSpec:
    path = Path(storage.path("films.yaml"))
    path.write_text(SPEC)
    return load_ring(path, [f"storage={storage.uri}", *overrides])


def note(storage: Storage, inputs: Inputs, moment: str = "2026-01-01", name: str = "") -> str:
    """Publish an output of these inputs."""
    folder = f"made/films/{name or inputs.key}"
    storage.commit(storage.stage(folder), folder, {**inputs.as_manifest(), "created_at": moment})
    return folder


def test_the_same_inputs_have_the_same_key(storage: Storage) -> None:
    for inputs_of in (prepare_inputs, tune_inputs, train_inputs):
        assert inputs_of(spec_of(storage), storage) == inputs_of(spec_of(storage), storage)


def test_data_spec_and_code_each_change_the_key() -> None:
    changed = [replace(INPUTS, data="4567"), replace(INPUTS, spec={"seed": 1}), replace(INPUTS, code="ef")]
    assert len({inputs.key for inputs in [INPUTS, *changed]}) == 4


def test_the_order_of_keys_in_the_spec_does_not_change_the_key() -> None:
    assert replace(INPUTS, spec=dict(reversed(INPUTS.spec.items()))).key == INPUTS.key


@pytest.mark.parametrize("change", ["append", "touch", "rename", "add", "remove"])
def test_any_change_of_the_raw_files_is_a_change_of_data(storage: Storage, change: str) -> None:
    before = prepare_inputs(spec_of(storage), storage)
    path = Path(storage.path("raw/ratings/a.csv"))
    if change == "append":
        times = path.stat()
        path.write_bytes(path.read_bytes() + b"\n")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "touch":
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000))
    elif change == "rename":
        path.rename(path.with_name("c.csv"))
    elif change == "add":
        storage.write("raw/movies/b.csv", b"item_id\n4\n")
    else:
        path.unlink()
    after = prepare_inputs(spec_of(storage), storage)
    assert after.data != before.data
    assert (after.spec, after.code) == (before.spec, before.code)
    for inputs_of in (tune_inputs, train_inputs):
        assert inputs_of(spec_of(storage), storage).data == after.key


@pytest.mark.parametrize(
    "override",
    [
        "workload.embedding_dim=64",
        "workload.relevant_from=3.5",
        "train.num_epochs=1",
        "train.optimizer.learning_rate=0.1",
        "tune.num_trials=9",
        "serving.port=9000",
        "layout.replicate=4",
        "seed=7",
    ],
)
def test_what_prepare_does_not_read_leaves_its_key(storage: Storage, override: str) -> None:
    assert prepare_inputs(spec_of(storage, override), storage) == prepare_inputs(spec_of(storage), storage)


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("prepare.split.test=0.2", "spec changed: prepare.split.test 0.1 -> 0.2"),
        ("prepare.max_bad_fraction=0.5", "spec changed: prepare.max_bad_fraction 0.05 -> 0.5"),
        ("raw.events.columns={user_id: who}", 'spec changed: raw.events.columns.user_id null -> "who"'),
        ("workload.max_rating=10", "spec changed: events.2.high 5.0 -> 10.0"),
    ],
)
def test_what_prepare_reads_changes_its_key_and_the_reason_shows_both_values(
    storage: Storage, override: str, change: str
) -> None:
    before = prepare_inputs(spec_of(storage), storage)
    note(storage, before)
    after = prepare_inputs(spec_of(storage, override), storage)
    assert after.key != before.key
    assert why_new(storage, "made/films", after) == change


TEXTS = """
name: films
raw: {events: {path: raw/ratings}}
prepare: {split: {by: hash}}
workload: {kind: language}
train: {early_stopping: {metric: bits_per_byte, mode: min}}
"""


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("workload.context_length=64", "spec changed: workload.context_length 128 -> 64"),
        ("workload.num_layers=2", None),
    ],
)
def test_of_the_model_only_what_makes_training_rows_of_events_changes_prepares_key(
    storage: Storage, override: str, change: str | None
) -> None:
    path = Path(storage.path("texts.yaml"))
    path.write_text(TEXTS)
    before, after = (prepare_inputs(load_ring(path, given), storage) for given in ([], [override]))
    note(storage, before)
    assert (after == before) == (change is None)
    assert change is None or why_new(storage, "made/films", after) == change


def test_the_kind_of_the_workload_is_part_of_what_prepare_reads(storage: Storage) -> None:
    path = Path(storage.path("texts.yaml"))
    path.write_text(TEXTS)
    table = "workload={kind: tabular, label: text, numeric: [a]}"
    metric = "train.early_stopping.metric=log_loss"
    kinds = [prepare_inputs(load_ring(path, given), storage).spec["workload"] for given in ([], [table, metric])]
    language = {"kind": "language", "context_length": 128, "tokenizer": "bytes", "packing": False}
    assert kinds == [language, {"kind": "tabular"}]


@pytest.mark.parametrize(
    ("override", "trains", "tunes"),
    [
        ("workload.embedding_dim=64", True, True),
        ("train.num_epochs=1", True, True),
        ("seed=7", True, True),
        ("layout.replicate=4", False, False),
        ("layout.precision=bf16", True, True),
        ("tune.max_concurrent=1", False, True),
        ("tune.layouts=all", False, True),
        ("tune.devices=4", False, True),
        ("layout.compile=true", False, False),
        ("placement.cpus_per_worker=2", False, False),
        ("tune.workers=layout", False, False),
        ("train.max_failures=9", False, False),
        ("train.collective_timeout_s=9", False, False),
        ("serving.port=9000", False, False),
    ],
)
def test_train_and_tune_depend_on_their_own_sections(
    storage: Storage, override: str, trains: bool, tunes: bool
) -> None:
    before, after = spec_of(storage), spec_of(storage, override)
    assert (train_inputs(after, storage).key != train_inputs(before, storage).key) is trains
    assert (tune_inputs(after, storage).key != tune_inputs(before, storage).key) is tunes


@pytest.mark.parametrize("override", ["layout.compile=true", "placement.gpu_type=H100"])
def test_a_search_of_layouts_depends_on_what_else_makes_them_fast(storage: Storage, override: str) -> None:
    searched = spec_of(storage, "tune.layouts=all"), spec_of(storage, "tune.layouts=all", override)
    assert len({tune_inputs(spec, storage).key for spec in searched}) == 2
    assert len({train_inputs(spec, storage).key for spec in searched}) == 1


def test_train_depends_on_the_weights_that_it_goes_on_from(storage: Storage) -> None:
    spec = spec_of(storage)
    assert len({train_inputs(spec, storage, weights).key for weights in ("", "0123", "4567")}) == 3
    assert train_inputs(spec, storage, "") == train_inputs(spec, storage)


def test_a_storage_that_moved_keeps_its_keys(storage: Storage, tmp_path: Path) -> None:
    before = prepare_inputs(spec_of(storage), storage)
    moved = Storage(f"file://{tmp_path}/moved")
    shutil.move(storage.path(""), moved.path(""))
    assert prepare_inputs(spec_of(moved), moved) == before


def test_the_first_run_says_so(storage: Storage) -> None:
    assert why_new(storage, "made/films", INPUTS) == "first run"


def test_the_reason_names_all_that_changed_since_the_newest_output(storage: Storage) -> None:
    note(storage, INPUTS, "2026-01-01")
    note(storage, replace(INPUTS, data="4567"), "2026-01-03")
    note(storage, replace(INPUTS, code="ef"), "2026-01-02")
    now = Inputs("89", {"seed": 1, "train": {"num_epochs": 3, "batch_size": 64, "schedule": "cosine"}}, "ff")
    assert why_new(storage, "made/films", now) == (
        'data changed; spec changed: seed 0 -> 1; spec changed: train.schedule null -> "cosine"; code changed'
    )


def test_long_values_are_cut_in_the_reason(storage: Storage) -> None:
    note(storage, replace(INPUTS, spec={"text": "x" * 1000}))
    assert len(why_new(storage, "made/films", replace(INPUTS, spec={"text": "y" * 1000}))) < 120


def test_outputs_without_inputs_and_unfinished_ones_are_passed_over(storage: Storage) -> None:
    storage.commit(storage.stage("made/films/copied"), "made/films/copied", {"created_at": "2030"})
    storage.write(f"made/films/{INPUTS.key}/rows.parquet", b"")
    assert why_new(storage, "made/films", INPUTS) == "first run"


def test_an_output_under_another_name_counts_as_gone(storage: Storage) -> None:
    note(storage, INPUTS, name="renamed")
    assert why_new(storage, "made/films", INPUTS) == "its output is gone"


def test_a_removed_output_is_made_anew(storage: Storage) -> None:
    storage.remove(note(storage, INPUTS))
    assert why_new(storage, "made/films", INPUTS) == "first run"


def test_prepared_rows_are_found_by_their_key_or_the_stage_to_run_is_named(storage: Storage) -> None:
    spec = spec_of(storage)
    with pytest.raises(DataError, match=r"\(first run\); run first: python -m jobs\.prepare SPEC"):
        prepared_folder(spec, storage)
    inputs = prepare_inputs(spec, storage)
    folder = f"prepared/films/{inputs.key}"
    storage.commit(storage.stage(folder), folder, {**inputs.as_manifest(), "created_at": "2026"})
    assert prepared_folder(spec, storage) == folder


def test_raw_files_are_all_below_the_folder_or_the_one_that_is_named(storage: Storage) -> None:
    paths = [storage.path(f"raw/ratings/{name}") for name in ("a.csv", "more/b.csv")]
    assert [path for path, _, _ in raw_files(storage, "raw/ratings")] == paths
    (single,) = raw_files(storage, "raw/ratings/a.csv")
    stat = Path(paths[0]).stat()
    assert single == (paths[0], stat.st_size, stat.st_mtime_ns)


def test_missing_raw_data_names_the_keys_that_set_its_place(storage: Storage) -> None:
    with pytest.raises(DataError, match=r"raw data 'raw/rating' does not exist in '.*ring'.*raw\.events\.path="):
        raw_files(storage, "raw/rating")


def test_raw_data_of_no_bytes_is_refused_with_the_count(storage: Storage) -> None:
    storage.write("raw/none/a.csv", b"")
    storage.write("raw/none/b.csv", b"")
    with pytest.raises(DataError, match=r"raw data 'raw/none' in '.*ring' is empty: 2 files, 0 bytes"):
        raw_files(storage, "raw/none")
