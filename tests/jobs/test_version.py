import json
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import root_mean_squared_error

from cluster.registry import Registry
from cluster.spec import with_values
from cluster.storage import Storage
from jobs import version
from jobs.spec import RingSpec
from jobs.version import _held_out
from jobs.workloads import WORKLOADS, language, recommender
from jobs.workloads.ranker import Query, Ranker
from jobs.workloads.recommender import Recommender
from tests.jobs.workloads import prepared as timeless
from tests.jobs.workloads.example import Prepared, all_scores, made_up, naive_ranking, prepare

SPEC = RingSpec.model_validate(
    {
        "name": "films",
        "raw": {"events": {"path": "raw/ratings"}, "items": {"path": "raw/movies"}},
        "prepare": {"split": {"within": "user_id"}},
        "workload": {"kind": "recommender", "embedding_dim": 8},
        "train": {"early_stopping": {"metric": "ndcg_at_10"}},
    }
)
PROFILE = {"rating": {"count": 40, "num_null": 0}}


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(*made_up(), SPEC.workload)


@pytest.fixture(scope="module")
def model(prepared: Prepared) -> Recommender:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return recommender.build(SPEC.workload, prepared.transform).train()


@pytest.fixture(scope="module")
def folder(prepared: Prepared, model: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("version")
    version.write(folder, SPEC, prepared.transform, model, prepared.train, prepared.test, PROFILE)
    return folder


def is_pickle(content: bytes) -> bool:
    try:
        return all(True for _ in pickletools.genops(content))
    except ValueError:
        return False


def test_it_holds_the_files_that_its_docstring_names(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "spec.yaml",
        "transform.json",
        "transform.arrow",
        "weights.safetensors",
        "metrics.json",
        "golden.parquet",
        "profile.json",
        "MODEL_CARD.md",
    }


def test_no_file_in_it_is_a_pickle_or_an_archive_that_may_hold_one(folder: Path, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "weights.pt")
    assert zipfile.is_zipfile(tmp_path / "weights.pt")
    assert is_pickle(pickle.dumps({"a": 1}))
    assert is_pickle(pickle.dumps([1], protocol=0))
    for path in folder.iterdir():
        assert not zipfile.is_zipfile(path), path.name
        assert not is_pickle(path.read_bytes()), path.name


def test_each_file_starts_as_its_format_says(folder: Path) -> None:
    assert (folder / "transform.arrow").read_bytes()[:6] == b"ARROW1"
    assert (folder / "golden.parquet").read_bytes()[:4] == b"PAR1"
    weights = (folder / "weights.safetensors").read_bytes()
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    assert {name for name in header if name != "__metadata__"} == {
        "users.weight",
        "items.weight",
        "genres",
        "user_bias.weight",
        "item_bias.weight",
        "popularity.weight",
        "to_rating.weight",
        "mean_rating",
    }


def test_what_is_read_back_answers_exactly_as_what_was_written(
    folder: Path, prepared: Prepared, model: Recommender
) -> None:
    found = version.read(folder)
    assert isinstance(found.model, Recommender)
    assert found.spec == SPEC
    assert found.transform == prepared.transform
    assert not found.model.training
    assert np.array_equal(all_scores(found.model, found.transform), all_scores(model, prepared.transform))
    batch = recommender.tensors(prepared.test)
    with torch.no_grad():
        expected = model.ratings(batch["user"], batch["item"])
        assert torch.equal(found.model.ratings(batch["user"], batch["item"]), expected)


def test_golden_rows_replayed_on_what_is_read_back_are_equal(folder: Path) -> None:
    found = version.read(folder)
    assert isinstance(found.model, Recommender)
    ids = found.transform.lookups["items"].column("item_id").to_pylist()
    assert found.golden.num_rows == 17
    rows = found.golden.to_pylist()
    answers = Ranker(found.model, found.transform).best([Query(row["user_id"]) for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        assert [ids[index - 1] for index, _ in answer] == row["item_ids"]
        assert [score for _, score in answer] == row["scores"]


def test_the_metrics_are_those_of_the_test_rows_computed_apart(
    folder: Path, prepared: Prepared, model: Recommender
) -> None:
    written = json.loads((folder / "metrics.json").read_text())
    ndcg, hit_rate = naive_ranking(all_scores(model, prepared.transform), prepared.test, prepared.train.table, 4.0)
    batch = recommender.tensors(prepared.test)
    actual = prepared.test.column("rating").to_pylist()
    with torch.no_grad():
        error = root_mean_squared_error(actual, model.ratings(batch["user"], batch["item"]).tolist())
    mean = np.mean(prepared.train.table.column("rating").to_pylist())
    assert written["test"] == pytest.approx({"ndcg_at_10": ndcg, "hit_rate_at_10": hit_rate, "rmse": error})
    assert written["baselines"]["mean_rating"]["rmse"] == pytest.approx(
        root_mean_squared_error(actual, [mean] * len(actual))
    )
    found = version.read(folder)
    assert (found.metrics, found.baselines) == (written["test"], written["baselines"])


def test_the_profile_is_that_of_the_training_rows(folder: Path, prepared: Prepared) -> None:
    assert json.loads((folder / "profile.json").read_text()) == PROFILE


def test_the_model_card_shows_each_metric_beside_the_baselines(folder: Path, prepared: Prepared) -> None:
    card = (folder / "MODEL_CARD.md").read_text()
    scores = json.loads((folder / "metrics.json").read_text())
    assert "| metric | model | popularity | mean_rating |" in card
    popularity = scores["baselines"]["popularity"]["ndcg_at_10"]
    assert f"| ndcg_at_10 | {scores['test']['ndcg_at_10']:.4f} | {popularity:.4f} | - |" in card
    mean_rating = scores["baselines"]["mean_rating"]["rmse"]
    assert f"| rmse | {scores['test']['rmse']:.4f} | - | {mean_rating:.4f} |" in card
    assert f"On {prepared.test.num_rows} held-out test rows: the latest 10 % of each user_id's rows by time." in card
    assert f"trained by Rayline on {prepared.train.table.num_rows} rows" in card


@pytest.mark.parametrize(
    ("split", "told"),
    [
        ({"by": "hash", "test": 0.2}, "20 % of all rows, chosen by a hash of user_id, item_id"),
        ({"by": "group", "column": "user_id"}, "10 % of all rows, chosen by a hash of user_id"),
        ({"by": "time"}, "the latest 10 % of all rows by time"),
    ],
)
def test_the_model_card_says_which_rows_test(split: dict[str, Any], told: str) -> None:
    assert _held_out(with_values(SPEC, {"prepare.split": split})) == told


def test_a_model_without_genres_is_written_and_read(tmp_path: Path) -> None:
    ratings, films = made_up()
    bare = prepare(ratings, films.select(["movieId"]), SPEC.workload)
    model = recommender.build(SPEC.workload, bare.transform)
    version.write(tmp_path, SPEC, bare.transform, model, bare.train, bare.test, PROFILE)
    assert np.array_equal(all_scores(version.read(tmp_path).model, bare.transform), all_scores(model, bare.transform))


def test_published_to_a_registry_it_reads_the_same(folder: Path, tmp_path: Path) -> None:
    registry = Registry(Storage(str(tmp_path)), "films")
    name = registry.publish(folder, {})
    with registry.open(name) as local:
        published = version.read(local)
    before = version.read(folder)
    assert published.spec == before.spec
    assert published.golden == before.golden
    assert np.array_equal(all_scores(published.model, published.transform), all_scores(before.model, before.transform))


def test_a_matrix_that_two_layers_share_is_written_once_and_read_into_both(tmp_path: Path) -> None:
    workload = {**timeless.SPECS["language"].model_dump(), "tie_embeddings": True}
    spec = SPEC.model_validate({**SPEC.model_dump(), "workload": workload})
    part = timeless.prepare(timeless.RAW["language"], spec.workload)
    model = language.build(spec.workload, part.transform)
    version.write(tmp_path, spec, part.transform, model, part.train, part.test, PROFILE)
    found = version.read(tmp_path).model
    assert torch.equal(found.get_parameter("embedding.token.weight"), model.get_parameter("embedding.token.weight"))
    assert found.get_parameter("head.output.weight") is found.get_parameter("embedding.token.weight")
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    assert (tmp_path / "weights.safetensors").stat().st_size < weights + 10_000


@pytest.mark.parametrize("kind", timeless.SPECS)
def test_a_version_of_every_workload_is_written_and_answers_the_same_when_read(kind: str, tmp_path: Path) -> None:
    workload, part = WORKLOADS[kind], timeless.prepare(timeless.RAW[kind], timeless.SPECS[kind])
    spec = RingSpec.model_validate(
        {
            "name": kind,
            "raw": {"events": {"path": "raw"}},
            "prepare": {"split": {"by": "hash", "valid": 0.15, "test": 0.15}},
            "workload": timeless.SPECS[kind].model_dump(),
            "train": {"early_stopping": {"metric": workload.metrics[0]}},
        }
    )
    torch.manual_seed(0)
    model = workload.build(spec.workload, part.transform)
    version.write(tmp_path, spec, part.transform, model, part.train, part.test, PROFILE)
    found = version.read(tmp_path)
    assert found.spec == spec
    assert found.metrics == workload.evaluate(spec.workload, model.eval(), part.transform, part.test)
    assert set(found.metrics) == set(workload.metrics)
    assert all(set(scores) <= set(workload.metrics) for scores in found.baselines.values())
    assert workload.golden(spec.workload, found.model, found.transform, part.test) == found.golden
    key = "document" if kind == "language" else "id"
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert f"held-out test rows: 15 % of all rows, chosen by a hash of {key}." in card
    assert "by time" not in card


def test_a_version_keeps_how_its_strategy_was_found(tmp_path: Path) -> None:
    version.write_plan(tmp_path, {"values": {"train.batch_size": 64}, "device_s": 1.5})
    assert json.loads((tmp_path / "plan.json").read_text()) == {"values": {"train.batch_size": 64}, "device_s": 1.5}
