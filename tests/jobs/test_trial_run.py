"""What a trial trains and where, without a cluster; the trials themselves are in the tests of those that make them."""

from pathlib import Path

import pytest

from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.placement import Demand
from cluster.storage import Storage
from jobs.parallel.checkpoint import Checkpoints
from jobs.search.ranking import Outlook, Unfit
from jobs.search.trial import Stint, Trial
from jobs.spec import RingSpec, load_ring
from jobs.trial_run import NOT_TRIED, Search, config_of, foreseen, trial_spec, values_in
from jobs.worker_group import Workers

SPEC = Path(__file__).parents[2] / "jobs/specs/recommender.yaml"
PBT = ("tune.scheduler=pbt", "tune.perturb_every=2", "train.checkpoint_every_steps=5", "train.keep_checkpoints=1")


def spec(*overrides: str) -> RingSpec:
    return load_ring(SPEC, ["storage=/nowhere", "tune.num_trials=2", "tune.num_epochs=4", *overrides])


def search(storage: Storage) -> Search:
    def foresee(point: RingSpec, layout: Layout) -> Outlook | Unfit:
        return Outlook(layout, 7, 0.5) if point.train.batch_size == 64 else Unfit(layout, "too large")

    return Search(spec(), storage, "", "plans/a.search", lambda number: Workers(Layout(), Demand({"CPU": 1})), foresee)


def test_a_trial_is_trained_for_its_own_number_of_epochs_and_a_member_by_the_schedule_of_the_run() -> None:
    alone = trial_spec(spec("train.num_epochs=9"), {"train.batch_size": 64}, Layout(shard=2))
    assert (alone.train.num_epochs, alone.train.batch_size, alone.layout) == (4, 64, Layout(shard=2))
    own = trial_spec(spec("train.keep_checkpoints=1", "train.checkpoint_every_steps=5"), {}, Layout()).train
    assert (own.checkpoint_every_steps, own.keep_checkpoints) == (None, 2)  # the one before, if the last is untold
    member = trial_spec(spec("train.num_epochs=9", *PBT), {"train.warmup": 0.1}, Layout()).train
    assert (member.num_epochs, member.warmup, member.early_stopping.patience) == (9, 0.1, 9)
    assert (member.checkpoint_every_steps, member.keep_checkpoints) == (None, 3)  # also the one it began with
    with pytest.raises(SpecError, match="batch_size"):
        trial_spec(spec(), {"train.batch_size": 0}, Layout())


def test_a_config_has_the_values_and_what_is_foreseen(tmp_path: Path) -> None:
    fits = config_of(search(Storage(str(tmp_path))), 3, {"train.batch_size": 64})
    forecast = {"predicted_bytes": 7, "predicted_step_s": 0.5, "rates": ""}
    assert fits == {"number": 3, "train.batch_size": 64, **forecast}
    assert foreseen(fits) == forecast
    assert values_in(fits) == {"train.batch_size": 64}
    too_large = config_of(search(Storage(str(tmp_path))), 3, {"train.batch_size": 128})
    assert (too_large[NOT_TRIED], values_in(too_large)) == ("too large", {"train.batch_size": 128})
    assert config_of(search(Storage(str(tmp_path))), 3, {"no.key": 1}) == {"number": 3, "no.key": 1}


def test_checkpoints_are_in_a_folder_of_the_trial_and_in_a_new_one_where_it_took_over(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    alone = Trial(2, {}, {})
    member = Trial(2, {}, {}, stints=(Stint(0, 0, 2, {}), Stint(3, 30, 1, {}), Stint(6, 60, 2, {})))
    found = [search(storage).checkpoints(each) for each in (alone, member)]
    assert found == [Checkpoints(storage, f"plans/a.search/checkpoints/{name}") for name in ("000002", "000002-3")]
