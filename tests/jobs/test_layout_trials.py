"""Layouts measured on the suite's cluster: gangs of two sizes, and one that runs out of memory."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cluster.layout import Layout
from cluster.lifecycle import Cluster
from jobs import train, tune
from jobs.layout_trials import LayoutSearch, layout_trials, was_interrupted
from jobs.lineage import prepared_folder, tune_inputs
from jobs.search.plan import read_plan
from jobs.search.ranking import Outlook
from jobs.search.trial import LayoutTrial
from jobs.tune import _workers_of
from tests.jobs.conftest import Ring

LAYOUTS = (
    "tune.layouts=[{replicate: 2}, {shard: 2}, {accumulation: 2}]",
    "tune.num_steps=3",
    "placement.cpus_per_worker=0.5",
)


def search_of(ring: Ring, name: str, *overrides: str) -> LayoutSearch:
    spec = ring.spec(*overrides)
    prepared = prepared_folder(spec, ring.storage)
    return LayoutSearch(spec, ring.storage, prepared, f"plans/films/{name}.search", partial(_workers_of, spec, 0), 1)


@pytest.mark.ray
def test_the_fastest_of_gangs_of_several_sizes_is_what_train_takes(prepared_ring: Ring, cluster: Cluster) -> None:
    spec, storage = prepared_ring.spec(*LAYOUTS), prepared_ring.storage
    assert tune.run(spec, storage).ran
    plan = read_plan(storage, "films", tune_inputs(spec, storage).key)
    assert plan is not None
    assert plan.layout in [trial.layout for trial in plan.layouts]
    assert [trial.outcome for trial in plan.layouts] == ["finished"] * 3
    for trial in plan.layouts:
        assert len(trial.step_s) == 3
        assert min(trial.step_s) > 0
        assert len(trial.peak_bytes) == (1 if trial.layout == {"accumulation": 2} else 2)
        assert trial.device_s > 0
    assert min(trial.median_s for trial in plan.layouts) == next(
        trial.median_s for trial in plan.layouts if trial.layout == plan.layout
    )
    assert (plan.values, plan.best, plan.trials) == ({}, None, ())
    assert plan.why.startswith("Layout ")
    assert "3 layouts of 1 search, measured to foreseen: memory " in plan.forecast_error
    rates = {trial.rates for trial in plan.layouts}
    assert [path.parent.parent.name for path in Path(storage.path("devices/errors")).rglob("*.json")] == [*rates]
    planned, note = train.planned(spec, plan)
    assert planned.layout == Layout(**plan.layout)
    assert "(fastest of 3 measured)" in note


@pytest.mark.ray
def test_a_layout_that_runs_out_of_memory_is_a_result_and_larger_ones_are_left_out(
    prepared_ring: Ring, cluster: Cluster
) -> None:
    search = search_of(prepared_ring, "memory", f"workload.embedding_dim={10**11}", "tune.num_steps=1")
    forecasts = [Outlook(Layout(accumulation=passes), 100 - passes, 1.0) for passes in (1, 4, 2)]
    trials = layout_trials(search, forecasts)
    assert [trial.outcome for trial in trials] == ["not tried", "out of memory", "not tried"]
    assert "can't allocate memory" in trials[1].said
    assert "one that was predicted 0.00 GiB ran out of memory" in trials[0].said
    assert [trial.num_starts for trial in trials] == [0, 1, 0]
    assert layout_trials(search, forecasts) == trials  # all are known, so none is measured again
    assert layout_trials(search, forecasts[1:2]) == trials[1:2]  # as where fewer devices have fewer layouts


def test_a_layout_that_was_begun_and_did_not_end_tells_of_an_interruption() -> None:
    fresh = LayoutTrial({}, num_starts=0)
    begun, died = replace(fresh, num_starts=1), replace(fresh, num_starts=1, outcome="died")
    assert was_interrupted({"0": fresh, "1": fresh}, {"0": begun, "1": fresh})
    assert was_interrupted({"0": fresh}, {"0": fresh})
    assert not was_interrupted({"0": fresh, "1": fresh}, {"0": died, "1": fresh})
