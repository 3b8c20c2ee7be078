"""Training told to a real MLflow server, in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from cluster.errors import SpecError, StorageError
from cluster.lifecycle import Cluster
from cluster.processes import dying_with_parent
from jobs import train
from jobs.lineage import train_inputs
from jobs.mlflow_run import MlflowRun, flat, mlflow_run
from jobs.run_log import RunLog
from jobs.spec import RingSpec
from tests.jobs.conftest import Ring
from tests.ports import kept_ports

ADD_AND_DIE = """
import os, signal, sys
from jobs.mlflow_run import mlflow_run
from jobs.spec import load_ring
with mlflow_run(load_ring(sys.argv[1], sys.argv[2:]), "key of a killed run") as run:
    run.add({"train/loss": 0.5}, 10)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server with an empty store."""
    folder, (port,) = tmp_path_factory.mktemp("mlflow"), kept_ports(1)
    address = f"http://127.0.0.1:{port}"
    options = {"backend-store-uri": f"sqlite:///{folder}/runs.db", "port": port, "workers": 1}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *(f"--{key}={value}" for key, value in options.items())],
        cwd=folder,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=(folder / "log").open("w"),
        stderr=subprocess.STDOUT,
        preexec_fn=dying_with_parent(),
        start_new_session=True,
    )
    try:
        _wait(f"{address}/health", process, folder / "log")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5)
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(log.read_text())


def told(server: str, experiment: str = "films") -> list[Run]:
    """What the server has of an experiment, the newest run first."""
    client = MlflowClient(server)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def history(server: str, run: Run, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in MlflowClient(server).get_metric_history(run.info.run_id, name)]


def spec_of(ring: Ring, server: str) -> RingSpec:
    return ring.spec(f"train.mlflow={server}")


@pytest.mark.ray
def test_a_training_run_shows_with_its_spec_its_epochs_and_its_version(
    cluster: Cluster, prepared_ring: Ring, server: str
) -> None:
    spec = spec_of(prepared_ring, server)
    made = train.run(spec, prepared_ring.storage)
    (run,) = told(server)
    assert run.info.run_name == train_inputs(spec, prepared_ring.storage).key
    assert run.info.status == "FINISHED"
    assert run.data.params["train.optimizer.learning_rate"] == "0.02"
    assert run.data.params["layout.replicate"] == "2"
    assert run.data.tags["rayline.version"] == made.folder.rsplit("/", 1)[1]
    epochs = [
        logged.report for logged in RunLog(prepared_ring.storage, f"checkpoints/films/{run.info.run_name}").epochs()
    ]
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4]
    assert history(server, run, "train/loss") == [(epoch.step, epoch.scalars()["train/loss"]) for epoch in epochs]
    row = re.search(r"\| ndcg_at_10 \| (\S+) ", made.summary)
    assert row
    assert f"{run.data.metrics['test/ndcg_at_10']:.4f}" == row[1]


def test_telling_mlflow_makes_no_other_version(ring: Ring) -> None:
    quiet, loud = (train_inputs(ring.spec(*told_to), ring.storage) for told_to in ((), ("train.mlflow=http://a",)))
    assert quiet == loud


def test_a_killed_run_goes_on_as_the_same_run(ring: Ring, server: str) -> None:
    died = subprocess.run([sys.executable, "-c", ADD_AND_DIE, ring.spec_file, f"train.mlflow={server}", "name=killed"])
    assert died.returncode == -signal.SIGKILL
    (run,) = told(server, "killed")
    assert run.info.status == "RUNNING"
    spec = ring.spec(f"train.mlflow={server}", "name=killed")
    with mlflow_run(spec, "another key") as other:
        assert other
    with mlflow_run(spec, "key of a killed run") as resumed:
        assert resumed
        assert resumed.run_id == run.info.run_id
        resumed.add({"train/loss": 0.25}, 20)
    assert history(server, run, "train/loss") == [(10, 0.5), (20, 0.25)]
    assert {found.info.status for found in told(server, "killed")} == {"FINISHED"}


def test_a_failed_run_says_what_it_failed_with(ring: Ring, server: str) -> None:
    spec = ring.spec(f"train.mlflow={server}", "name=failed")
    with pytest.raises(SpecError), mlflow_run(spec, "key"):
        raise SpecError("training diverged")
    (run,) = told(server, "failed")
    assert (run.info.status, run.data.tags["rayline.failure"]) == ("FAILED", "training diverged")
    with mlflow_run(spec, "key"):
        assert told(server, "failed")[0].info.status == "RUNNING"
    (run,) = told(server, "failed")
    assert (run.info.status, run.data.tags["rayline.failure"]) == ("FINISHED", "")


def test_a_spec_without_mlflow_tells_none(ring: Ring) -> None:
    with mlflow_run(ring.spec(), "key") as run:
        assert run is None


def test_a_server_that_is_not_there_is_said_before_training(ring: Ring) -> None:
    with (
        pytest.raises(StorageError, match=r"train.mlflow=http://127.0.0.1:9 does not answer .* leave train.mlflow out"),
        mlflow_run(spec_of(ring, "http://127.0.0.1:9"), "key"),
    ):
        raise AssertionError("nothing is to be trained")


def test_a_server_that_goes_away_ends_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    MlflowRun("http://127.0.0.1:9", "run").add({"train/loss": 0.5}, 10)
    assert "MLflow at http://127.0.0.1:9 did not take the numbers of step 10" in capsys.readouterr().out


def test_a_missing_extra_is_named(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(SpecError, match=r"pip install '\.\[mlflow\]'"), mlflow_run(spec_of(ring, "http://a"), "k"):
        raise AssertionError("nothing is to be trained")


def test_a_spec_is_told_by_its_dotted_keys() -> None:
    assert flat({"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}]}) == {"a.b": 1, "a.c": {}, "d": [1, {"e": 2}]}
