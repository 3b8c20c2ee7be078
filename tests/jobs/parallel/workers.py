"""Real processes that train together, as Ray Train would start them but without Ray."""

import os
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from multiprocessing import set_forkserver_preload
from pathlib import Path
from uuid import uuid4

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT_S = 180  # a deadline alone: a busy machine holds up a worker for many seconds
START_METHOD = "forkserver"  # each worker begins as a copy of a process that has imported the slow modules
PRELOADED = [
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.checkpoint.state_dict_saver",
    "torch.distributed.checkpoint.state_dict_loader",
    "torch.distributed.fsdp",
    "torch.distributed._composable.replicate_with_fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.parallel",
    "torch.nn.parallel",
    "torch.optim",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pyarrow.fs",
    "pydantic",
    "pytest",
]
Work = Callable[[Path], None]


def run_together(num_workers: int, work: Work, folder: Path, timeout_s: float = TIMEOUT_S) -> None:
    """Call `work(folder)` in `num_workers` new processes that form a process group; an error in one is raised here.

    Raises:
        TimeoutError: they are not done after `timeout_s`; one that waits for another for `TIMEOUT_S` raises.
        ProcessRaisedException: one of them raised; the text is its traceback.
        ProcessExitedException: one of them was killed.
    """
    set_forkserver_preload(PRELOADED)
    rendezvous = folder / f"rendezvous-{uuid4().hex}"  # a file: no port that another process could take
    arguments = (num_workers, work, folder, rendezvous, dict(os.environ))
    workers = mp.start_processes(_join_and_work, arguments, num_workers, join=False, start_method=START_METHOD)
    try:
        ends = time.monotonic() + timeout_s
        while not workers.join(ends - time.monotonic(), grace_period=1):  # returns whenever one of them is done
            if time.monotonic() > ends:
                raise TimeoutError(f"{num_workers} workers are not done after {timeout_s:g} s")
    finally:
        for process in workers.processes:
            process.kill()
            process.join()


def run_alone(work: Work, folder: Path) -> int:
    """Call `work(folder)` in a new process and return its exit code, minus the signal's number where one killed it."""
    set_forkserver_preload(PRELOADED)
    process = mp.get_context(START_METHOD).Process(target=_work, args=(work, folder, dict(os.environ)))
    process.start()
    try:
        process.join(TIMEOUT_S)
        if process.exitcode is None:
            raise TimeoutError(f"the worker is not done after {TIMEOUT_S} s")
        return process.exitcode
    finally:
        process.kill()
        process.join()


def _join_and_work(
    rank: int, num_workers: int, work: Work, folder: Path, rendezvous: Path, environment: Mapping[str, str]
) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=num_workers,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    try:
        _work(work, folder, environment)
    finally:
        dist.destroy_process_group()


def _work(work: Work, folder: Path, environment: Mapping[str, str]) -> None:
    """Do the work in the environment of the test: the copied process has that of the first test."""
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    work(folder)
