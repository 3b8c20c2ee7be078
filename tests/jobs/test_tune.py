"""tune on the suite's cluster: the plan it writes, what it refuses, and what a death leaves behind."""

import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray._private.state import actors
from ray.util import placement_group_table

from cluster.errors import DataError, SpecError
from cluster.layout import Layout
from cluster.lifecycle import Cluster
from cluster.spec import dump, with_values
from jobs import train, tune
from jobs.error_record import ErrorRecord
from jobs.fit import EpochReport, fit
from jobs.lineage import prepared_folder, train_inputs, tune_inputs
from jobs.parallel.checkpoint import Checkpoints
from jobs.run_log import RunLog
from jobs.search.plan import Plan, from_plan_json, read_plan
from jobs.search.ranking import Ranking, Unfit
from jobs.search.trial import LayoutTrial
from jobs.spec import RingSpec
from tests.jobs.conftest import Ring
from tests.jobs.search.test_forecast import device

SEARCH = ("tune.num_trials=4", "workload.num_negatives=32")
"""Over the space of the spec: batch sizes 64 and 128, learning rates from 1e-3 to 1e-1, two epochs."""
RATES = [0.02, 0.002, 1e30]
WILD = (
    f"tune.space={{train.optimizer.learning_rate: {RATES}}}",
    "train.optimizer.name=sgd",
    "tune.num_trials=3",
    "tune.num_epochs=1",
    "seed=4",  # draws each of the three once
)


def plan_of(ring: Ring, *overrides: str) -> Plan | None:
    spec = ring.spec(*overrides)
    return read_plan(ring.storage, spec.name, tune_inputs(spec, ring.storage).key)


def searched(ring: Ring, *overrides: str) -> Plan:
    made = tune.run(ring.spec(*overrides), ring.storage)
    assert made.ran
    found = plan_of(ring, *overrides)
    assert found is not None
    assert made.summary == found.line()
    return found


def unfinished(ring: Ring) -> list[Path]:
    """Scratch folders of searches."""
    return [path for path in Path(ring.storage.path("plans/films")).iterdir() if path.name.endswith(".search")]


def in_use() -> dict[str, list[Any]]:
    """What trials may hold of the cluster: living actors, but those that Ray Data keeps, and placement groups."""
    living: Mapping[str, Any] = actors()
    return {
        "actors": [a for a in living.values() if a["State"] != "DEAD" and not a["IsDetached"]],
        "groups": [group for group in placement_group_table().values() if group["state"] != "REMOVED"],
    }


@pytest.fixture(scope="module")
def found(cluster: Cluster, prepared_ring: Ring) -> Plan:
    return searched(prepared_ring, *SEARCH)


@pytest.mark.ray
def test_every_trial_is_accounted_for_with_values_of_the_space(found: Plan) -> None:
    assert len(found.trials) == 4
    for trial in found.trials:
        assert set(trial.values) == {"train.batch_size", "train.optimizer.learning_rate"}
        assert trial.values["train.batch_size"] in (64, 128)
        assert 1e-3 <= float(trial.values["train.optimizer.learning_rate"]) <= 1e-1
        assert trial.best is not None
        assert 0 < trial.best <= 1
        assert trial.num_epochs in (1, 2)
        assert trial.device_s > 0
    assert max(trial.num_epochs for trial in found.trials) == 2
    assert len({trial.values["train.optimizer.learning_rate"] for trial in found.trials}) == 4


@pytest.mark.ray
def test_the_plan_is_the_best_of_its_trials(found: Plan) -> None:
    assert found.metric == "ndcg_at_10"
    assert found.best == max(trial.best for trial in found.trials if trial.best is not None)
    assert found.values in [trial.values for trial in found.trials if trial.best == found.best]


@pytest.mark.ray
def test_a_second_run_is_skipped_with_the_plan(prepared_ring: Ring, found: Plan) -> None:
    again = tune.run(prepared_ring.spec(*SEARCH), prepared_ring.storage)
    assert (again.ran, again.why, again.summary) == (False, "unchanged", found.line())
    assert prepared_ring.storage.is_published(again.folder)
    assert f"tune: skip, {again.folder} is there: {found.line()}" == tune.plan(
        prepared_ring.spec(*SEARCH), prepared_ring.storage
    )


@pytest.mark.ray
def test_a_search_leaves_only_its_plan(prepared_ring: Ring, found: Plan) -> None:
    assert unfinished(prepared_ring) == []
    wait_until_free()


@pytest.mark.ray
def test_a_changed_space_is_named_as_the_reason(prepared_ring: Ring, found: Plan) -> None:
    changed = prepared_ring.spec(*SEARCH, "tune.space={train.batch_size: [64, 256]}")
    planned = tune.plan(changed, prepared_ring.storage)
    assert "tune: run (spec changed: tune.space.train.batch_size.1 128 -> 256; " in planned
    assert "spec changed: tune.space.train.optimizer.learning_rate " in planned


@pytest.mark.ray
def test_train_goes_by_the_plan(prepared_ring: Ring, found: Plan) -> None:
    planned = train.plan(prepared_ring.spec(*SEARCH), prepared_ring.storage)
    assert f"plan: {found.line()}" in planned
    assert f"global batch {found.values['train.batch_size']}, at most 4 epochs" in planned
    assert f"adamw, learning rate {found.values['train.optimizer.learning_rate']:g} (cosine)" in planned
    without = train.plan(prepared_ring.spec(*SEARCH, "seed=5"), prepared_ring.storage)
    assert "plan: none yet (python -m jobs.tune SPEC makes one)" in without


@pytest.mark.ray
def test_trials_that_diverge_are_kept_as_failed_and_the_others_count(prepared_ring: Ring, cluster: Cluster) -> None:
    by_rmse = ("train.early_stopping={metric: rmse, mode: min}",)
    plan = searched(prepared_ring, *WILD, *by_rmse)
    rates = [trial.values["train.optimizer.learning_rate"] for trial in plan.trials]
    assert sorted(set(rates)) == sorted(RATES)
    for trial, rate in zip(plan.trials, rates, strict=True):
        assert (trial.best is None) == (rate == 1e30)
    values = [trial.best for trial in plan.trials if trial.best is not None]
    assert plan.best == min(values) < max(values) < 10
    assert plan.values in [trial.values for trial in plan.trials if trial.best == plan.best]


@pytest.mark.ray
def test_a_search_in_which_every_trial_fails_says_why(prepared_ring: Ring, cluster: Cluster) -> None:
    code, output = prepared_ring.call(
        "jobs.tune", *WILD, "tune.space={train.optimizer.learning_rate: [1.0e+30]}", "tune.num_trials=2"
    )
    assert code == 2, output
    assert "trial 2/2  train.optimizer.learning_rate=1e+30  diverged  0 s left" in output
    assert "rayline: training diverged in all 2 trials: the loss is not finite. Search lower values of" in output
    ours = [line for line in output.splitlines() if "(run_trial pid=" not in line]  # Ray's farewell to an actor
    assert not any("Traceback" in line for line in ours)
    assert unfinished(prepared_ring) == []


def wait_until_free(limit_s: float = 120) -> None:
    gc.collect()  # an earlier training in this process may not have let go of its controller
    deadline = time.monotonic() + limit_s
    while any(holding := in_use().values()):
        assert time.monotonic() < deadline, holding
        time.sleep(0.2)


@pytest.mark.ray
def test_a_killed_search_holds_nothing_and_the_next_run_completes(prepared_ring: Ring, cluster: Cluster) -> None:
    search = (*SEARCH, "seed=1")
    wait_until_free()
    long = ("tune.num_trials=2", "tune.num_epochs=2000")
    process = prepared_ring.start("jobs.tune", *search, *long)
    while not (in_use()["actors"] and in_use()["groups"]):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.kill()
    process.communicate()
    wait_until_free()
    assert plan_of(prepared_ring, *search, *long) is None
    assert len(searched(prepared_ring, *search, "tune.num_trials=2").trials) == 2


@pytest.mark.ray
def test_a_trial_on_a_layout_comes_to_what_it_comes_to_in_one_process(prepared_ring: Ring, cluster: Cluster) -> None:
    on_layout = ("tune.workers=layout", "layout={shard: 2}", "placement.cpus_per_worker=0.5")
    (trial,) = searched(prepared_ring, *SEARCH, "tune.num_trials=1", "tune.num_epochs=1", *on_layout).trials
    wait_until_free()
    alone = with_values(prepared_ring.spec(*SEARCH, "layout={}"), {**trial.values, "train.num_epochs": 1})
    storage, epochs = prepared_ring.storage, list[EpochReport]()
    fit(alone, storage, prepared_folder(alone, storage), None, epochs.append)
    assert trial.best == pytest.approx(epochs[0].metrics["ndcg_at_10"], abs=1e-3)


POPULATION = (
    *("tune.scheduler=pbt", "tune.num_trials=2", "workload.num_negatives=32", "layout={}", "train.num_epochs=3"),
    "tune.space={train.optimizer.learning_rate: {low: 1e-3, high: 1e-1, log: true}}",
)


@pytest.mark.ray
def test_train_goes_on_from_the_weights_of_a_population(prepared_ring: Ring, cluster: Cluster) -> None:
    storage, spec = prepared_ring.storage, prepared_ring.spec(*POPULATION)
    plan = searched(prepared_ring, *POPULATION)
    assert not storage.exists(plan.checkpoint.replace(".weights", ".search"))
    best, other = sorted(plan.trials, key=lambda trial: trial.number != plan.lineage[-1].member)
    assert plan.best == best.curve[-1]["ndcg_at_10"] >= other.curve[-1]["ndcg_at_10"]
    assert [trial.num_epochs for trial in plan.trials] == [2, 2]
    assert sum(stint.source != trial.number for trial in plan.trials for stint in trial.stints) == 1
    log = RunLog(storage, f"checkpoints/films/{train_inputs(plan.put_into(spec), storage, plan.weights_key).key}")
    begins = f"train: run from the weights that the search has trained for 2 epochs, {plan.checkpoint}"
    assert train.plan(spec, storage).startswith(begins)
    version = train.run(spec, storage).folder
    (start,), (epoch,) = log.starts(), log.epochs()
    assert (start.step, epoch.report.epoch, epoch.report.num_epochs) == (best.step, 3, 3)
    alone = Checkpoints(storage, "scratch/undisturbed")
    Checkpoints(storage, plan.checkpoint).hand_over(best.step, alone)
    reports: list[EpochReport] = []
    fit(plan.put_into(spec), storage, prepared_folder(spec, storage), alone, reports.append)
    assert epoch.report.loss == pytest.approx(reports[0].loss, rel=1e-5)
    assert from_plan_json(json.loads(storage.read(f"{version}/plan.json"))) == plan


@pytest.mark.ray
def test_where_no_layout_fits_the_memory_it_is_said_before_any_trial(
    prepared_ring: Ring, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_fits(spec: RingSpec, layouts: Sequence[Layout]) -> Ranking:
        return Ranking((), tuple(Unfit(layout, "takes 99 GiB a device") for layout in layouts))

    monkeypatch.setattr(tune, "ByForecast", lambda storage, device, prepared: none_fits)
    message = "none of 2 layouts of up to 6 devices fits; the first, replicate=2: takes 99 GiB a device. Give a smaller"
    with pytest.raises(SpecError, match=message):
        tune.run(prepared_ring.spec("tune.layouts=[{replicate: 2}, {shard: 2}]"), prepared_ring.storage)
    key = tune_inputs(prepared_ring.spec("tune.layouts=[{replicate: 2}, {shard: 2}]"), prepared_ring.storage).key
    assert not prepared_ring.storage.exists(f"plans/films/{key}.search")


def test_num_trials_of_0_leaves_the_search_out(ring: Ring) -> None:
    made = tune.run(ring.spec(), ring.storage)
    assert (made.ran, made.folder, made.why) == (False, "", "tune.num_trials is 0")
    assert tune.plan(ring.spec(), ring.storage) == "tune: skip, tune.num_trials is 0"


def test_plan_says_what_would_be_searched_and_writes_nothing(ring: Ring) -> None:
    planned = tune.plan(ring.spec("tune.num_trials=4"), ring.storage)
    assert planned.splitlines() == [
        "tune: run (first run)",
        "  4 trials of at most 2 epochs, 2 at once, for the best ndcg_at_10, over",
        "    train.batch_size: 64, 128",
        "    train.optimizer.learning_rate: 0.001 to 0.1, in the logarithm",
    ]
    assert not ring.storage.exists("plans")


def test_plan_says_on_how_many_workers_a_trial_trains(ring: Ring) -> None:
    planned = tune.plan(ring.spec("tune.num_trials=4", "tune.workers=layout", "layout={shard: 2}"), ring.storage)
    assert "  4 trials of at most 2 epochs, on 2 workers (shard=2), 2 at once, for the best ndcg_at_10, over" in planned


def test_plan_says_what_population_there_would_be(ring: Ring) -> None:
    planned = tune.plan(ring.spec(*POPULATION), ring.storage)
    head = "  a population of 2, compared after each epoch of 2, 2 at once, for the best ndcg_at_10, over"
    assert planned.splitlines()[1] == head
    wide = tune.plan(ring.spec(*POPULATION, "tune.num_epochs=3", "tune.perturb_every=2"), ring.storage)
    assert "  a population of 2, compared after every 2 epochs of 3, 2 at once," in wide


def test_plan_says_which_layouts_are_searched(ring: Ring) -> None:
    layouts = "tune.layouts=[{replicate: 2}, {shard: 2}]"
    assert tune.plan(ring.spec(layouts), ring.storage).splitlines() == [
        "tune: run (first run)",
        "  2 layouts: 5 steps of the 4 that the forecast finds fastest",
    ]
    ring.storage.write("devices/measured.yaml", dump(device(3)).encode())
    measured = LayoutTrial({}, 100, 1.0, (1.5,), (90,), rates=device(3).rates_key)
    ErrorRecord(ring.storage, "films/earlier", device(3)).note([measured])
    assert tune.plan(ring.spec(layouts), ring.storage).splitlines()[2] == (
        "  so far on measured: 1 layout of 1 search, measured to foreseen: "
        "memory -10% (worst -10%), time x1.50 (1.50 to 1.50)"
    )
    ring.storage.remove("devices")
    both = tune.plan(
        ring.spec(
            "tune={layouts: all, devices: 4, num_trials: 2, workers: layout, space: {train.batch_size: [64, 128]}}"
        ),
        ring.storage,
    )
    assert both.splitlines()[1:3] == [
        "  all layouts of 4 devices: 5 steps of the 4 that the forecast finds fastest",
        "  2 trials of at most 3 epochs, on the fastest layout, as many at once as there is room for, "
        "for the best ndcg_at_10, over",
    ]


@pytest.mark.parametrize("stage", [tune.run, tune.plan])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tune.layouts=[]"], "tune.layouts lists none"),
        (
            ["tune.layouts=[{tensor: 2}]"],
            r"tune.layouts.0 \(tensor=2\): layout.tensor=2 makes no sense for the recommender",
        ),
        (["tune.layouts=[{replicate: 8}]", "tune.devices=4"], "needs 8 devices, there are 4"),
        (
            ["tune.layouts=[{replicate: 2}, {replicate: 4}]", "train.elastic={max_workers: 2}"],
            r"tune.layouts.1 \(replicate=4\): train.elastic: .* 4 workers, which is not between min_workers=1 and max",
        ),
        (["tune.num_trials=1", "train.elastic={min_workers: 3, max_workers: 4}"], "2 workers, which is not between"),
        (["tune.layouts=[{replicate: 3}]"], "train.batch_size=64 rows do not divide over layout.replicate=3"),
        (
            ["tune.layouts=all", "train.early_stopping.metric=ndcg"],
            "'ndcg' is no metric of this workload. Did you mean",
        ),
    ],
)
def test_a_layout_or_metric_that_is_none_is_said_before_any_trial(
    ring: Ring, stage: Callable[..., object], overrides: list[str], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        stage(ring.spec(*overrides), ring.storage)


def test_an_override_on_the_command_line_is_not_searched(ring: Ring) -> None:
    planned = tune.plan(ring.spec("tune.num_trials=4", "train.batch_size=32"), ring.storage)
    assert "train.batch_size" not in planned
    assert "train.optimizer.learning_rate: 0.001 to 0.1" in planned
    assert ring.spec("tune.layouts=all", "layout.precision=bf16").tune.layouts == "all"
    ring.spec_file.write_text(ring.spec_file.read_text().replace("tune:", "tune:\n  layouts: all"))
    assert ring.spec().tune.layouts == "all"
    assert ring.spec("layout.shard=2").tune.layouts is None


def test_nothing_prepared_is_said_with_the_command(ring: Ring) -> None:
    with pytest.raises(DataError, match=r"nothing is prepared .* python -m jobs.prepare SPEC"):
        tune.run(ring.spec("tune.num_trials=4"), ring.storage)


@pytest.mark.parametrize("stage", [tune.run, tune.plan])
@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{}", "tune.space is empty but tune.num_trials is not 0; give keys to search, or tune.num_trials=0"),
        ("{train.batch_size: []}", "tune.space.train.batch_size lists no value; give one"),
        ("{train.batch_sizes: [64]}", "unknown key 'train.batch_sizes'. Did you mean 'batch_size'"),
        ("{train.batch_size: [64, 65]}", "tune.space.train.batch_size=65: train.batch_size=65 rows do not divide"),
        ("{train.batch_size: {low: 64, high: 128}}", "tune.space.train.batch_size=64.0: .*valid integer"),
        ("{train.optimizer.name: [adamw, adamax]}", "tune.space.train.optimizer.name=adamax: .*'adam', 'rmsprop' or"),
        ("{train.optimizer.weight_decay: {low: -1.0, high: 1.0}}", "weight_decay=-1.0: .*greater than or equal to 0"),
        ("{workload.dropout: [0.1, 1.0]}", "tune.space.workload.dropout=1.0: .*less than 1"),
        ("{workload.min_rating: [1.0]}", "workload.min_rating=1.0: another value needs other prepared rows"),
        (
            "{prepare.split.test: [0.2]}",
            "only keys of workload and train, and layout.precision, can be searched, 'prepare",
        ),
        ("{layout.replicate: [1, 2]}", "only keys of workload and train, and layout.precision, can be searched"),
        ("{train.num_epochs: [3]}", "train.num_epochs cannot be searched, tune.num_epochs says how long a trial is"),
        ("{train.early_stopping.patience: [3]}", "train.early_stopping cannot be searched"),
    ],
)
def test_a_space_that_the_spec_does_not_take_is_refused_before_any_trial(
    ring: Ring, stage: Callable[..., object], space: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        stage(ring.spec("tune.num_trials=4", f"tune.space={space}"), ring.storage)


@pytest.mark.parametrize("stage", [tune.run, tune.plan])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.space={train.batch_size: [64, 128]}", "train.batch_size cannot be searched with tune.scheduler=pbt"),
        ("tune.space={}", "tune.space is empty"),
        ("tune.num_trials=1", "a population of one"),
        ("tune.num_epochs=4", "tune.num_epochs=4 is more than train.num_epochs=3"),
        ("tune.perturb_every=2", "tune.perturb_every=2 is not less than tune.num_epochs=2"),
    ],
)
def test_what_cannot_be_searched_by_a_population_is_refused_before_any_trial(
    ring: Ring, stage: Callable[..., object], override: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        stage(ring.spec(*POPULATION, override), ring.storage)


@pytest.mark.ray
def test_a_value_that_changes_what_a_checkpoint_holds_is_refused(prepared_ring: Ring, cluster: Cluster) -> None:
    space = "tune.space={workload.embedding_dim: [8, 16]}"
    with pytest.raises(
        SpecError, match=r"workload.embedding_dim=16 .* holds genres \[4, 16\], .*, another one genres \[4, 8\]"
    ):
        tune.run(prepared_ring.spec(*POPULATION, space), prepared_ring.storage)
