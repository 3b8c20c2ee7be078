"""Trials on the suite's cluster that are killed, that run out of memory, and a driver that is killed meanwhile."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.lifecycle import Cluster
from jobs import tune
from jobs.lineage import prepared_folder, tune_inputs
from jobs.quality_trials import quality_trials
from jobs.search.book import Book
from jobs.search.plan import read_plan
from jobs.search.ranking import Outlook, Unfit
from jobs.search.trial import Trial
from jobs.spec import RingSpec
from jobs.trial_run import Search
from jobs.tune import _same
from jobs.worker_group import workers_of
from tests.jobs.conftest import Ring

ROOT = Path(__file__).parents[2]
HUGE = 10**11
SIZES = (
    "seed=5",  # draws each of the four widths once, in this order
    "tune.num_trials=4",
    "tune.num_epochs=1",
    "tune.max_concurrent=1",
    f"tune.space={{workload.embedding_dim: [8, {HUGE}, {10 * HUGE}, 9]}}",
)


def by_size(spec: RingSpec, layout: Layout) -> Outlook | Unfit:
    """A forecast that goes by the width of the model, and takes one width for too much."""
    size = int(spec.workload.embedding_dim)  # type: ignore[union-attr]
    return Unfit(layout, "too wide") if size == 9 else Outlook(layout, size, 0.5, "of a test")


def search_of(ring: Ring, name: str, *overrides: str) -> Search:
    spec = ring.spec(*overrides)
    workers = partial(_same, workers_of(spec, Layout(), 0))
    folder = f"plans/films/{name}.search"
    return Search(spec, ring.storage, prepared_folder(spec, ring.storage), folder, workers, by_size)


@pytest.mark.ray
def test_what_runs_out_of_memory_is_a_result_and_what_would_is_left_out(prepared_ring: Ring, cluster: Cluster) -> None:
    trials = quality_trials(search_of(prepared_ring, "sizes", *SIZES))
    assert [trial.values for trial in trials] == [
        {"workload.embedding_dim": width} for width in (8, HUGE, 10 * HUGE, 9)
    ]
    assert [trial.outcome for trial in trials] == ["finished", "out of memory", "not tried", "not tried"]
    fits, died, larger, unfit = trials
    assert (fits.predicted_bytes, fits.predicted_step_s, fits.rates, fits.num_epochs) == (8, 0.5, "of a test", 1)
    assert "can't allocate memory" in died.said
    assert "one that was predicted" in larger.said
    assert unfit.said == "too wide"
    assert quality_trials(search_of(prepared_ring, "sizes", *SIZES)) == trials


@pytest.mark.ray
def test_a_search_whose_driver_was_killed_goes_on_where_it_was(prepared_ring: Ring, cluster: Cluster) -> None:
    overrides = ("tune.num_trials=3", "tune.num_epochs=40", "tune.max_concurrent=1", "seed=4")
    spec, storage = prepared_ring.spec(*overrides), prepared_ring.storage
    key = tune_inputs(spec, storage).key
    book = Book(storage, f"plans/films/{key}.search/trials", Trial)
    prepared_ring.kill("trial", 2, "jobs.tune", *overrides)
    before = [*book.read().values()]
    assert [(trial.outcome, trial.num_epochs) for trial in before] == [("under way", 2)]
    with pytest.raises(SpecError, match=r"placement\.gpu_type=H100 needs a GPU"):
        tune.run(prepared_ring.spec(*overrides, "placement.gpu_type=H100"), storage)
    assert [*book.read().values()] == before
    for name, trial in book.read().items():
        book.note(name, replace(trial, layout={"shard": 2}))  # as if tune.workers had been `layout`
    made = tune.run(spec, storage)
    assert made.ran
    plan = read_plan(storage, "films", key)
    assert plan is not None
    assert [trial.number for trial in plan.trials] == [0, 1, 2]
    for old, new in zip(before, plan.trials, strict=False):
        assert (new.values, new.curve[: len(old.curve)]) == (old.values, old.curve)
        assert (new.num_starts, new.layout) == ((2, {}) if old.outcome == "under way" else (1, {"shard": 2}))
    assert [point["num_epochs"] for point in plan.trials[0].curve] == [*range(1, plan.trials[0].num_epochs + 1)]
    assert not Path(storage.path(f"plans/films/{key}.search")).exists()


@pytest.mark.slow
@pytest.mark.ray
def test_gangs_of_two_sizes_with_a_worker_and_the_driver_killed_leave_nothing_and_lose_no_trial() -> None:
    """A small form of the benchmark, on a cluster of its own: two nodes of four GPUs that are numbers alone."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        line = [sys.executable, "-m", "benchmarks.gang_search", "--trials", "3", "--sizes", "2,1", "--kills", "1"]
        done = subprocess.run([*line, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["wrong"] == []
    assert 3 <= seen["most_gpus"] <= 5  # all three at once would be 5
    assert seen["outcomes"]["out of memory"] == 1
