"""A trial as Ray Tune calls it, in this process; as Tune makes them, on gangs too, in test_tune and its neighbours."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ray.tune.result import DONE, RESULT_DUPLICATE

from cluster.layout import Layout
from cluster.placement import Demand
from cluster.spec import dump
from jobs import prepare
from jobs.fit import EpochReport, fit
from jobs.lineage import prepared_folder
from jobs.search.space import Values
from jobs.search.trial import Point, Trial
from jobs.space_trials import SpaceTrial, _resources
from jobs.trial_run import BYTES, NOT_TRIED, Search, trial_spec
from jobs.worker_group import Workers
from tests.jobs.conftest import Ring

FOLDER = "plans/films/a.search"
SLOW: Values = {"train.optimizer.learning_rate": 0.01}
FAST: Values = {"train.optimizer.learning_rate": 0.05}
END = {RESULT_DUPLICATE: True, DONE: True}
Begin = Callable[..., SpaceTrial]


def workers_of(number: int) -> Workers:
    """Two from the second trial on."""
    return Workers(Layout() if number == 0 else Layout(shard=2), Demand({"CPU": 1.0}))


@pytest.fixture
def small(ring: Ring) -> Ring:
    prepare.run(ring.spec("prepare.in_process_bytes=10000000"), ring.storage)
    return ring


@pytest.fixture
def begin(small: Ring) -> Iterator[Begin]:
    """Makes a trial with a config, of a search that knows some trials."""
    spec = small.spec("prepare.in_process_bytes=10000000")
    settings = {
        "spec": dump(spec),
        "storage": small.storage.uri,
        "prepared": prepared_folder(spec, small.storage),
        "folder": FOLDER,
        "metric": "ndcg_at_10",
        "last_epoch": None,
    }
    made: list[SpaceTrial] = []

    def make(
        config: dict[str, Any], begun: dict[int, Trial] | None = None, last_epoch: int | None = None
    ) -> SpaceTrial:
        class Given(SpaceTrial):
            def setup(self, config: dict[str, Any], *given: Any, **named: Any) -> None:
                alone = Workers(Layout(), Demand({"CPU": 1.0}))
                super().setup(config, {**settings, "last_epoch": last_epoch}, lambda number: alone, begun or {})

        made.append(Given(config))
        return made[-1]

    yield make
    for trial in made:
        trial.cleanup()


def undisturbed(ring: Ring, values: dict[str, Any]) -> list[float]:
    """The metric after each epoch, of `fit` itself."""
    spec = ring.spec("prepare.in_process_bytes=10000000")
    found: list[EpochReport] = []
    prepared = prepared_folder(spec, ring.storage)
    fit(trial_spec(spec, values, Layout()), ring.storage, prepared, None, found.append)
    return [epoch.metrics["ndcg_at_10"] for epoch in found]


def points(results: list[dict[str, Any]]) -> list[float]:
    return [result["point"]["ndcg_at_10"] for result in results]


def test_a_trial_that_is_stopped_leaves_its_workers_to_the_next_one(small: Ring, begin: Begin) -> None:
    trial = begin({"number": 0, **SLOW})
    assert points([trial.step()]) == undisturbed(small, SLOW)[:1]
    workers = trial._gang
    assert trial.reset_config({"number": 1, **FAST})
    assert points([trial.step(), trial.step()]) == undisturbed(small, FAST)
    assert trial.step() == END
    assert trial._gang is workers


def test_a_trial_begins_with_its_first_epoch_and_on_workers_that_are_alive(small: Ring, begin: Begin) -> None:
    trial = begin({"number": 0, **SLOW})
    assert trial._gang is None
    trial.step()
    dead = trial._gang
    trial.cleanup()
    trial.reset_config({"number": 1, **FAST})
    assert points([trial.step()]) == undisturbed(small, FAST)[:1]
    assert trial._gang is not dead


def test_a_trial_whose_workers_die_between_two_epochs_fails_and_waits_for_nobody(small: Ring, begin: Begin) -> None:
    trial = begin({"number": 0, **SLOW})
    trial.step()
    trial.cleanup()
    with pytest.raises(RuntimeError, match="the workers ended amid a trial"):
        trial.step()


def test_an_epoch_whose_last_step_diverges_is_no_result(begin: Begin) -> None:
    """Its loss is of before that step, and finite; the metric, of after it, is not."""
    values: Values = {
        "train.batch_size": 4096,
        "train.optimizer.name": "sgd",
        "train.optimizer.learning_rate": 1e30,
        "train.early_stopping.metric": "rmse",
        "train.early_stopping.mode": "min",
    }
    assert begin({"number": 0, **values}).step() == END


def test_a_trial_that_is_begun_again_tells_what_is_known_and_goes_on_from_its_checkpoint(
    small: Ring, begin: Begin
) -> None:
    first = begin({"number": 0, **SLOW})
    known = Trial(0, SLOW, {}, curve=(first.step()["point"],))
    first.cleanup()  # the checkpoint is written once the workers have ended
    again = begin({"number": 0, **SLOW}, {0: known})
    assert points([again.step(), again.step()]) == undisturbed(small, SLOW)
    assert again.step() == END


def test_a_member_of_a_population_tells_only_what_is_new(small: Ring, begin: Begin) -> None:
    first = begin({"number": 0, **SLOW}, last_epoch=1)
    point: Point = first.step()["point"]
    assert (point["num_epochs"], first.step()) == (1, END)
    second = begin({"number": 0, **SLOW}, {0: Trial(0, SLOW, {}, curve=(point,))}, last_epoch=2)
    assert points([second.step()]) == undisturbed(small, SLOW)[1:]
    assert second.step() == END


def test_one_that_cannot_fit_is_not_trained(small: Ring, begin: Begin) -> None:
    assert begin({"number": 0, NOT_TRIED: "too large", **SLOW}).step() == END
    search = Search(small.spec(), small.storage, "", FOLDER, workers_of, lambda spec, layout: None)  # type: ignore[arg-type,return-value]
    search.book.note("000007", Trial(7, {}, {}, predicted_bytes=10, outcome="out of memory"))
    larger = begin({"number": 0, BYTES: 11, **SLOW})
    assert larger.step() == END
    assert larger._gang is None


def test_what_is_reserved_is_for_the_workers_and_next_to_nothing_for_what_is_left_out() -> None:
    alone, together = _resources({"number": 0}, workers_of), _resources({"number": 1}, workers_of)
    assert (alone.bundles, alone.head_bundle_is_empty) == ([{"CPU": 1.0}], False)
    assert (together.bundles, together.head_bundle_is_empty) == ([{"CPU": 1.0}, {"CPU": 1.0}], True)
    assert _resources({"number": 0, NOT_TRIED: "too large"}, workers_of).required_resources == {"CPU": 0.001}
