"""A training run in MLflow, where `train.mlflow` names its server: the numbers of every epoch, while they come.

Needs the extra `mlflow`. The experiment is named as the spec is, the run as its checkpoints' folder; a run that goes on
after it was killed goes on in MLflow too. What MLflow does not take is told and changes nothing: the run log beside the
checkpoints has it all.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cluster.errors import SpecError, StorageError
from jobs.spec import RingSpec

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

KEY = "rayline.key"
"""The tag that a run is found again by."""
MOST_PARAMS = 100
"""That MLflow takes in one request."""
OURS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # training waits while it retries; of itself it would for four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Settings of MLflow's client, where the environment does not say otherwise."""


class MlflowRun:
    """One run of one server."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.run_id = uri, run_id

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Log one value a name."""
        from mlflow.entities import Metric  # of the extra

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, step) for name, value in scalars.items()]
        with self._heard(f"the numbers of step {step}"):
            client(self.uri).log_batch(self.run_id, metrics=metrics)

    def add_version(self, name: str, metrics: Mapping[str, float]) -> None:
        """Log the published version, with its metrics on the test rows."""
        with self._heard("the version's name"):
            client(self.uri).set_tag(self.run_id, "rayline.version", name)
        self.add({f"test/{metric}": value for metric, value in metrics.items()}, 0)

    def end(self, failure: str) -> None:
        """Say that the run is over, and what it failed with where it did."""
        with self._heard("the end of the run"):
            client(self.uri).set_tag(self.run_id, "rayline.failure", failure)
            client(self.uri).set_terminated(self.run_id, "FAILED" if failure else "FINISHED")

    @contextmanager
    def _heard(self, what: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException  # of the extra

        try:
            yield
        except MlflowException as error:
            print(f"train: mind: MLflow at {self.uri} did not take {what}: {_first_line(error)}", flush=True)


@contextmanager
def mlflow_run(spec: RingSpec, key: str) -> Iterator[MlflowRun | None]:
    """The run of MLflow for the training run of this key, new or gone on with; None without `train.mlflow`.

    It ends with the block, failed where an error leaves that.

    Raises:
        SpecError: the extra is not installed.
        StorageError: the server does not answer.
    """
    if spec.train.mlflow is None:
        yield None
        return
    run = _open(spec.train.mlflow, spec, key)
    try:
        yield run
    except BaseException as error:
        run.end(str(error) or type(error).__name__)
        raise
    run.end("")


def client(uri: str) -> "MlflowClient":
    """MLflow's own, of this server.

    Raises:
        SpecError: the extra is not installed.
    """
    for name, value in OURS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.tracking import MlflowClient  # of the extra, and takes seconds
    except ImportError:
        raise SpecError(
            f"train.mlflow={uri} needs the extra: pip install '.[mlflow]', on every node; or leave it out"
        ) from None
    return MlflowClient(uri)


def _first_line(error: Exception) -> str:
    """What an error says, without its details."""
    return str(error).partition("\n")[0]


def _open(uri: str, spec: RingSpec, key: str) -> MlflowRun:
    opened = client(uri)
    from mlflow.entities import Param  # of the extra
    from mlflow.exceptions import MlflowException  # of the extra

    try:
        found = opened.get_experiment_by_name(spec.name)
        experiment = found.experiment_id if found else opened.create_experiment(spec.name)
        runs = opened.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
        if runs:
            opened.update_run(runs[0].info.run_id, status="RUNNING")
            return MlflowRun(uri, runs[0].info.run_id)
        run_id = opened.create_run(experiment, run_name=key, tags={KEY: key}).info.run_id
        params = [Param(name, str(value)) for name, value in flat(spec.model_dump(mode="json")).items()]
        for first in range(0, len(params), MOST_PARAMS):
            opened.log_batch(run_id, params=params[first : first + MOST_PARAMS])
    except MlflowException as error:
        raise StorageError(
            f"train.mlflow={uri} does not answer as an MLflow server: {_first_line(error)}. "
            "Start one (mlflow server), give its address, or leave train.mlflow out"
        ) from None
    return MlflowRun(uri, run_id)


def flat(values: Any, path: str = "") -> dict[str, object]:
    """A spec's values by their dotted keys, as an override gives them."""
    if not isinstance(values, Mapping) or not values:
        return {path: values}
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= flat(value, f"{path}.{key}".strip("."))
    return found
