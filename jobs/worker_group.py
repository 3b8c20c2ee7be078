"""The workers that a spec's layout asks for, and the function that they run, with Ray Train."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback, WorkerGroupError
from ray.train.torch import TorchConfig

from cluster.environment import applied
from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.placement import Demand, PlacementSpec
from cluster.reservation import PlacedTrainer
from jobs.failures import TrainingFailedError, classify, user_error_of
from jobs.spec import RingSpec, TrainSpec

BACKENDS = "cpu:gloo,cuda:nccl"
"""On GPUs; what is in host memory, such as metrics, still goes by gloo."""
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # with it, each line of progress comes twice
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",  # with it, each report is logged beside our own line
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nothing here acts on its warnings yet, and it logs an error a run
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a dead worker and a report are seen; 2 s is an epoch here
}


@dataclass(frozen=True)
class Workers:
    """A layout's workers, as Ray is asked for them."""

    layout: Layout
    demand: Demand
    """Of each."""

    @property
    def on_gpu(self) -> bool:
        """Whether they train on GPUs."""
        return "GPU" in self.demand.each

    @property
    def device(self) -> str:
        """The kind of device, as torch names it."""
        return "cuda" if self.on_gpu else "cpu"

    @property
    def backend(self) -> str:
        """Of torch.distributed; workers that share a GPU cannot speak by NCCL."""
        return BACKENDS if self.on_gpu and self.demand.each["GPU"] >= 1 else "gloo"


def workers_of(spec: RingSpec, layout: Layout, gpus: float) -> Workers:
    """What the workers of a layout need in a cluster with so many GPUs.

    Raises:
        SpecError: the precision, or the kind of GPU that is asked for, needs a GPU and there is none for each of them.
    """
    given: PlacementSpec = spec.placement
    needed = layout.num_workers * given.gpus_per_worker
    on_gpu = spec.train.device == "gpu" or (spec.train.device == "auto" and gpus >= needed)
    if not on_gpu and (layout.precision == "fp16" or given.gpu_type):
        key, way_out = (
            ("layout.precision=fp16", "give layout.precision=bf16 or fp32")
            if layout.precision == "fp16"
            else (f"placement.gpu_type={given.gpu_type}", "leave it out")
        )
        raise SpecError(
            f"{key} needs a GPU for each of {layout.num_workers} workers, train.device={spec.train.device} "
            f"and the cluster has {gpus:g}; {way_out}"
        )
    if not on_gpu:
        return Workers(layout, Demand({"CPU": given.cpus_per_worker}))
    return Workers(layout, Demand({"CPU": given.cpus_per_worker, "GPU": given.gpus_per_worker}, given.gpu_type))


def device_here(kind: str) -> torch.device:
    """The device of this worker of Ray Train, of the kind that `Workers.device` names."""
    return ray.train.torch.get_device() if kind == "cuda" else torch.device(kind)


def num_gpus() -> float:
    """Of the connected cluster."""
    return float(ray.cluster_resources().get("GPU", 0))


def run_on_workers(
    workers: Workers,
    trainer: Callable[..., PlacedTrainer],
    function: Callable[[dict[str, Any]], object],
    settings: dict[str, Any],
    *,
    name: str,
    scratch: str,
    train: TrainSpec,
    callbacks: Sequence[UserCallback] = (),
) -> None:
    """Call a function with these settings on every worker, anew after each of `train.max_failures` deaths.

    Args:
        trainer: which reservation they stand in, and whether others follow when there is room for more or fewer.
        scratch: a local folder for what Ray Train writes down of the run.

    Raises:
        TrainingFailedError: workers died more often; the message says of what, and what to do.
        RaylineError: what the function raised of our own.
    """
    with applied(TRAIN_ENVIRONMENT), _interrupt_restored():
        placed = trainer(
            workers.layout,
            workers.demand,
            function,
            train_loop_config=settings,
            torch_config=TorchConfig(backend=workers.backend, timeout_s=train.collective_timeout_s),
            scaling_config=ScalingConfig(
                num_workers=workers.layout.num_workers,
                use_gpu=workers.on_gpu,
                resources_per_worker=dict(workers.demand.each),
            ),
            run_config=RunConfig(
                name=name,
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=train.max_failures),
                callbacks=list(callbacks),  # type: ignore[arg-type]  # Ray's hint names those of its first version
            ),
        )
        try:
            placed.fit()
        except WorkerGroupError as error:
            failures = error.worker_failures
            raise user_error_of(failures) or TrainingFailedError(classify(failures)) from error


@contextmanager
def _interrupt_restored() -> Iterator[None]:
    """Put Ctrl-C back as it was: Ray Train leaves its own in place, and with it the controller of the finished run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
