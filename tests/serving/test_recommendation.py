import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from cluster.errors import RegistryError
from cluster.registry import Registry
from cluster.storage import Storage
from jobs.version import read
from jobs.workloads.ranker import Query
from serving.recommendation import FOR_THE_UNDECIDED, Item, Recommendations


@pytest.fixture
def vectors(published: Any, recommendations: Recommendations) -> dict[str, np.ndarray]:
    """Item id -> its vector, computed from the version's files with NumPy alone."""
    folder = Path(published.storage.path(f"models/recommender/{published.version}"))
    weights = load_file(folder / "weights.safetensors")
    items = read(folder).transform.lookups["items"].to_pylist()
    names = sorted({genre for item in items for genre in item["genres"] or ()})
    found = {}
    for index, item in enumerate(items, start=1):
        own = [weights["genres"][names.index(genre)] for genre in item["genres"] or ()]
        found[item["item_id"]] = weights["items.weight"][index] + (np.mean(own, axis=0) if own else 0)
    return found


def top(recommendations: Recommendations, query: Query) -> list[Item]:
    [items] = recommendations.top([query])
    return items


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("user_id", ["1", "2", "17"])
def test_a_reason_is_the_most_similar_liked_item(
    published: Any, recommendations: Recommendations, vectors: dict[str, np.ndarray], user_id: str
) -> None:
    mine = published.ratings.filter(pc.equal(published.ratings.column("user_id"), user_id)).to_pylist()
    liked = {row["item_id"]: row["rating"] for row in mine if row["rating"] >= 4.0}
    for item in top(recommendations, Query(user_id)):
        nearest = max(liked, key=lambda other: cosine(vectors[item.item_id], vectors[other]))
        name = nearest if int(nearest[1:]) % 10 == 0 else f"Film {nearest[1:]}"
        assert item.reason == f"similar to {name}, which you rated {liked[nearest]:g}"


def test_nothing_a_user_rated_in_training_is_recommended(published: Any, recommendations: Recommendations) -> None:
    mine = published.ratings.filter(pc.equal(published.ratings.column("user_id"), "3")).column("item_id").to_pylist()
    items = top(recommendations, Query("3", 100))
    assert not {item.item_id for item in items} & set(mine)
    assert 0 < len(items) < 60


def test_users_who_ask_together_are_answered_as_each_alone(recommendations: Recommendations) -> None:
    queries = [Query("1", 7), Query("a stranger", 3), Query("2", 100, ["m1"]), Query("1", 1)]
    together = recommendations.top(queries)
    for query, items in zip(queries, together, strict=True):
        alone = top(recommendations, query)
        assert [item.model_dump(exclude={"score"}) for item in items] == [
            item.model_dump(exclude={"score"}) for item in alone
        ]
        assert [item.score for item in items] == pytest.approx([item.score for item in alone])


def test_an_item_without_title_or_genres_is_still_an_answer(recommendations: Recommendations) -> None:
    everything = {item.item_id: item for item in top(recommendations, Query("a stranger", 100))}
    assert everything["m10"].title is None
    assert everything["m7"].genres == []
    assert everything["m8"].title == "Film 8"


def test_a_user_who_liked_nothing_gets_another_reason(
    recommendations: Recommendations, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = recommendations.spec.workload.model_copy(update={"relevant_from": 5.1})
    spec = recommendations.spec.model_copy(update={"workload": strict})
    monkeypatch.setattr(Recommendations, "spec", spec)
    assert {item.reason for item in top(recommendations, Query("1", 3))} == {FOR_THE_UNDECIDED}


def test_the_most_active_user_is_known(published: Any, recommendations: Recommendations) -> None:
    counts = published.ratings.group_by("user_id").aggregate([([], "count_all")]).to_pylist()
    most = max(row["count_all"] for row in counts)
    by_user = {row["user_id"]: row["count_all"] for row in counts}
    assert by_user[recommendations.most_active_user()] == most
    assert recommendations.knows(recommendations.most_active_user())


def copy(published: Any, target: Path) -> tuple[Registry, Path]:
    shutil.copytree(published.storage.path("models"), target / "models")
    return Registry(Storage(str(target)), "recommender"), target / "models" / "recommender" / published.version


def test_a_flipped_byte_is_refused_on_load(published: Any, tmp_path: Path) -> None:
    registry, folder = copy(published, tmp_path)
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(RegistryError, match=r"weights\.safetensors differs from its checksum"):
        Recommendations.load(registry, published.version)


@pytest.mark.parametrize("change", ["scores", "items"])
def test_answers_unlike_the_golden_ones_are_refused(published: Any, tmp_path: Path, change: str) -> None:
    _, folder = copy(published, tmp_path)
    golden = pq.read_table(folder / "golden.parquet")
    rows = golden.to_pylist()
    if change == "scores":
        rows[0]["scores"][3] += 0.01
    else:
        rows[0]["item_ids"][0] = "another"
    content = read(folder)
    off = type(golden).from_pylist(rows, golden.schema)
    changed = type(content)(content.spec, content.transform, content.model, content.metrics, content.baselines, off)
    with pytest.raises(RegistryError, match=r"1 of 10 golden items are off by more than 0\.0001"):
        Recommendations(published.version, "2026", changed).check_golden()
    Recommendations(published.version, "2026", content).check_golden()
