"""Training on devices that come and go, beside the same run that nothing happened to."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.placement import Node
from cluster.spec import dump
from cluster.storage import Storage
from jobs import prepare, train
from jobs.elastic import layouts_that_fit
from jobs.error_record import ErrorRecord
from jobs.fit import EpochReport, fit
from jobs.layout_forecast import forecaster_of
from jobs.lineage import prepared_folder, train_inputs
from jobs.prepared_files import as_parquet
from jobs.run_log import RunLog
from jobs.search.forecast import FILLED, Forecast
from jobs.search.trial import LayoutTrial
from jobs.spec import RingSpec, load_ring
from jobs.worker_group import workers_of
from tests.jobs.noted_steps import NotedStart, last_of_each, noted_starts, written_down
from tests.jobs.search.test_forecast import device

ROOT = Path(__file__).parents[2]
NUM_ROWS, BATCH_SIZE = 1200, 48
SPEC = """
name: table
storage: {storage}
raw: {{events: {{path: raw}}}}
prepare: {{split: {{by: hash, valid: 0.1, test: 0.1}}}}
workload:
  {{kind: tabular, label: label, numeric: [a, b], categorical: [place], hidden_dim: 16, feed_forward_dim: 32,
   num_layers: 2, dropout: 0.1}}
layout: {{replicate: 4, tensor: 2}}
train:
  num_epochs: 4
  batch_size: 48
  device: cpu
  max_failures: 0
  checkpoint_every_steps: 5
  elastic: {{min_workers: 2, max_workers: 8, look_every_s: 1}}
  early_stopping: {{metric: log_loss, mode: min, patience: 4}}
"""


LINES = (
    "train: a node is about to go; stopping, so that others can go on",
    "train: there is room for more workers; stopping, so that others can go on",
)


@dataclass(frozen=True)
class Expected:
    """What is to come of a story of `elastic_nodes`."""

    overrides: tuple[str, ...]
    layouts: list[str]
    """Of each start."""
    lossless: list[int]
    """Starts, by number, that follow the one before without a step that is lost or made once more."""
    lines: tuple[str, ...]


EXPECTED = {
    "short": Expected(
        ("layout={replicate: 2, tensor: 2}", "train.num_epochs=2", "train.elastic.max_workers=4"),
        ["tensor=2 accumulation=2", "replicate=2 tensor=2", "tensor=2 accumulation=2"],
        [1, 2],
        (
            *LINES,
            "train: 2 devices are there, training with tensor=2 accumulation=2",
            "train: 4 devices are there, going on with replicate=2 tensor=2 instead of tensor=2 accumulation=2",
            "train: 2 devices are there, going on with tensor=2 accumulation=2 instead of replicate=2 tensor=2",
        ),
    ),
    "long": Expected(
        (),
        [
            "replicate=4 tensor=2",
            "replicate=3 tensor=2 accumulation=2",
            "replicate=2 tensor=2 accumulation=2",
            "replicate=4 tensor=2",
        ],
        [2, 3],  # the first follows a death
        (
            *LINES,
            "train: 8 devices are there, training with replicate=4 tensor=2",
            "train: 6 devices are there, going on with replicate=3 tensor=2 accumulation=2 "
            "instead of replicate=4 tensor=2",
            "train: 8 devices are there, going on with replicate=4 tensor=2 "
            "instead of replicate=2 tensor=2 accumulation=2",
        ),
    ),
}


@dataclass(frozen=True)
class Run:
    expected: Expected
    spec: RingSpec
    reports: list[EpochReport]
    """By epoch; of the disturbed run, from its log."""
    starts: list[NotedStart]
    log: str = ""

    @property
    def storage(self) -> Storage:
        return Storage(self.spec.storage)

    @property
    def folder(self) -> str:
        """Of its checkpoints."""
        return f"checkpoints/table/{train_inputs(self.spec, self.storage).key}"


def given(folder: Path, *overrides: str) -> RingSpec:
    (folder / "spec.yaml").write_text(SPEC.format(storage=folder / "storage"))
    return load_ring(folder / "spec.yaml", overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With prepared rows, of which no two have the same `a`."""
    folder = tmp_path_factory.mktemp("elastic")
    draw = np.random.default_rng(0)
    numbers = np.arange(NUM_ROWS) / NUM_ROWS
    other, places = draw.normal(size=NUM_ROWS), draw.choice(["north", "south"], NUM_ROWS)
    label = np.where(numbers + other + (places == "north") > 1, "yes", "no")
    rows = pa.table({"id": [str(n) for n in range(NUM_ROWS)], "a": numbers, "b": other, "place": places})
    spec = given(folder)
    storage = Storage(spec.storage)
    storage.write("raw/rows.parquet", as_parquet(rows.append_column("label", [label.tolist()])))
    prepare.run(spec, storage)
    return folder


@pytest.fixture(scope="module", params=["short", pytest.param("long", marks=pytest.mark.slow)])
def disturbed(folder: Path, request: pytest.FixtureRequest) -> Run:
    """On nodes that come and go."""
    expected, own = EXPECTED[request.param], folder / request.param
    spec = given(folder, *expected.overrides)
    storage = Storage(spec.storage)
    own.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        arguments = [request.param, str(own), str(folder / "spec.yaml"), *expected.overrides]
        command = [sys.executable, "-m", "tests.jobs.elastic_nodes", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    log = own / "train.log"
    said = log.read_text() if log.exists() else ""
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{said[-6000:]}"
    run = Run(expected, spec, [], noted_starts(own), said)
    return replace(run, reports=[epoch.report for epoch in RunLog(storage, run.folder).epochs()])


@pytest.fixture(scope="module")
def undisturbed(folder: Path, disturbed: Run) -> Run:
    """The same in one process."""
    alone = disturbed.spec.model_copy(update={"layout": Layout()})
    storage = Storage(alone.storage)
    reports: list[EpochReport] = []
    with TemporaryDirectory() as noted:
        with written_down(Path(noted)):
            fit(alone, storage, prepared_folder(alone, storage), None, reports.append)
        return Run(disturbed.expected, alone, reports, noted_starts(Path(noted)))


@pytest.mark.ray
def test_the_layout_is_the_best_legal_one_for_the_devices_that_are_there(disturbed: Run) -> None:
    starts = RunLog(disturbed.storage, disturbed.folder).starts()
    assert [start.layout.line() for start in starts] == disturbed.expected.layouts
    for start in starts:
        start.layout.check_batch(BATCH_SIZE)
        assert max(Counter(start.nodes).values()) == 2
        assert all(start.nodes[rank] == start.nodes[rank + 1] for rank in range(0, len(start.nodes), 2))


@pytest.mark.ray
def test_the_loss_of_every_step_is_that_of_the_undisturbed_run(undisturbed: Run, disturbed: Run) -> None:
    wanted = last_of_each(undisturbed.starts)
    assert last_of_each(disturbed.starts).keys() == wanted.keys() == set(range(max(wanted) + 1))
    for start in disturbed.starts:  # also what was made once more
        found = [step.loss for step in start.steps]
        assert found == pytest.approx([wanted[step.number].loss for step in start.steps], rel=1e-5)
    epochs = [report.loss for report in disturbed.reports]
    assert epochs == pytest.approx([report.loss for report in undisturbed.reports], rel=1e-5)
    norms = [report.gradient_norm for report in disturbed.reports]  # AdamW hides gradients that are too large
    assert norms == pytest.approx([report.gradient_norm for report in undisturbed.reports], rel=1e-4)
    metrics = [report.metrics for report in disturbed.reports]
    assert metrics == [pytest.approx(report.metrics, rel=1e-4) for report in undisturbed.reports]


@pytest.mark.ray
def test_every_sample_is_trained_on_once_an_epoch_and_in_its_own_step(undisturbed: Run, disturbed: Run) -> None:
    wanted, found = last_of_each(undisturbed.starts), last_of_each(disturbed.starts)
    num_epochs = disturbed.spec.train.num_epochs
    by_epoch: list[list[str]] = [[] for _ in range(num_epochs)]
    for number, step in found.items():
        first, second = step.rows[0::2], step.rows[1::2]
        assert first == second  # tensor peers have the same rows
        rows = [row for replica in first for row in replica]
        assert sorted(rows) == sorted(wanted[number].rows[0])
        by_epoch[number * num_epochs // len(found)] += rows
    assert len({len(rows) for rows in by_epoch}) == 1
    for rows in by_epoch:
        assert len(rows) == len(set(rows))
    assert {frozenset(rows) for rows in by_epoch} == {frozenset(by_epoch[0])}


@pytest.mark.ray
def test_no_pass_has_more_rows_than_in_the_layout_of_the_spec(disturbed: Run) -> None:
    most = max(step.largest_pass for start in disturbed.starts for step in start.steps)
    assert most == BATCH_SIZE // disturbed.spec.layout.num_replicas


@pytest.mark.ray
def test_a_node_that_is_drained_and_one_that_comes_cost_no_step(disturbed: Run) -> None:
    numbers = [[step.number for step in start.steps] for start in disturbed.starts]
    for place in disturbed.expected.lossless:
        assert numbers[place][0] == numbers[place - 1][-1] + 1
    assert numbers[1][0] <= numbers[0][-1] + 1


@pytest.mark.ray
def test_it_is_said_what_changes_and_why(disturbed: Run) -> None:
    for line in disturbed.expected.lines:
        assert line in disturbed.log
    page = disturbed.storage.read(f"{disturbed.folder}/report.html")
    assert b"Workers came and went" in page


def test_bounds_that_leave_out_the_layout_are_refused_before_any_worker(folder: Path) -> None:
    spec = given(folder, "train.elastic.max_workers=6")
    with pytest.raises(SpecError, match=r"train.elastic: layout .* has 8 workers, which is not between min_workers=2"):
        train.run(spec, Storage(spec.storage))


def test_plan_says_between_which_layouts_a_run_may_change(folder: Path) -> None:
    spec = given(folder, "seed=1")
    planned = train.plan(spec, Storage(spec.storage))
    assert "  as there is room for, one of: replicate=4 tensor=2; replicate=3 tensor=2 accumulation=2; " in planned


class Tiny:
    """A spec on GPUs of a user's table, of whose memory a third of the model fits, and a half does not."""

    def __init__(self, folder: Path, memory_gib: float | None = None) -> None:
        sharded = ("layout={shard: 4}", "train.elastic={max_workers: 4}", "workload.hidden_dim=256")
        spec = given(folder, *sharded)
        self.storage = Storage(spec.storage)
        forecaster = forecaster_of(spec, self.storage, device(1000))
        halves, thirds = (forecaster.forecast(Layout(shard=parts, accumulation=2)) for parts in (2, 3))
        assert isinstance(halves, Forecast)
        assert isinstance(thirds, Forecast)
        between_gib = (halves.memory_bytes + thirds.memory_bytes) / 2 / FILLED / 2**30
        lines = dump(device(memory_gib or between_gib)).splitlines()
        table = folder / "table.yaml"
        table.write_text("\n".join(["devices:", "  tiny:", *(f"    {line}" for line in lines)]))
        on_tiny = (f"tune.device_table={table}", "placement.gpu_type=tiny", "train.device=gpu")
        self.spec = given(folder, *sharded, *on_tiny)
        self.nodes = [Node("a", {"CPU": 8.0, "GPU": 8.0}, {}, "tiny")]

    def that_fit(self) -> list[Layout]:
        """As a run finds out on a cluster that has the nodes."""
        return layouts_that_fit(self.spec, self.storage, workers_of(self.spec, self.spec.layout, 8), self.nodes)


def test_layouts_that_the_devices_do_not_hold_are_not_among_those_of_a_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = Tiny(folder)
    assert [layout.shard for layout in tiny.that_fit()] == [4, 3]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("train: without shard=2 accumulation=2, which takes ")
    assert second.startswith("train: without accumulation=4, which takes ")
    measured = LayoutTrial({}, 100, 1.0, (1.5,), (90,), rates=device(1).rates_key)
    ErrorRecord(tiny.storage, "table/earlier", device(1)).note([measured])
    planned = train.plan(tiny.spec, tiny.storage).splitlines()
    assert any(line.startswith("  so far on tiny: 1 layout of 1 search, ") for line in planned)
    assert "  as there is room for, one of: shard=4; shard=3 accumulation=2" in planned
    assert f"  {second.removeprefix('train: ')}" in planned


def test_where_the_devices_hold_none_it_is_said_before_any_worker(folder: Path) -> None:
    tiny = Tiny(folder, memory_gib=0.0001)
    message = r"train.elastic: none of the 4 layouts of 1 to 4 workers fits: shard=4 takes .* has 0.0001, .*; give"
    with pytest.raises(SpecError, match=message):
        tiny.that_fit()
    assert any(re.match(f"  {message}", line) for line in train.plan(tiny.spec, tiny.storage).splitlines())


def test_on_devices_of_which_nothing_is_known_all_layouts_are_left(folder: Path) -> None:
    tiny = Tiny(folder)
    tiny.nodes = []
    assert [layout.num_workers for layout in tiny.that_fit()] == [4, 3, 2, 1]
