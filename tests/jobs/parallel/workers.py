"""Real processes that train together, as Ray Train would start them but without Ray."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT_S = 60


def run_together(num_workers: int, work: Callable[[Path], None], folder: Path) -> None:
    """Call `work(folder)` in `num_workers` new processes that form a process group; an error in one is raised here."""
    context = mp.spawn(_join_and_work, (num_workers, work, folder), nprocs=num_workers, join=False)
    try:
        ends = time.monotonic() + TIMEOUT_S
        while not context.join(ends - time.monotonic(), grace_period=1):  # returns whenever one of them is done
            if time.monotonic() > ends:
                raise TimeoutError(f"{num_workers} workers are not done after {TIMEOUT_S} s")
    finally:
        for process in context.processes:
            process.kill()
            process.join()


def run_alone(work: Callable[[Path], None], folder: Path) -> int:
    """Call `work(folder)` in a new process and return its exit code, minus the signal's number where one killed it."""
    process = mp.get_context("spawn").Process(target=work, args=(folder,))
    process.start()
    try:
        process.join(TIMEOUT_S)
        if process.exitcode is None:
            raise TimeoutError(f"the worker is not done after {TIMEOUT_S} s")
        return process.exitcode
    finally:
        process.kill()


def _join_and_work(rank: int, num_workers: int, work: Callable[[Path], None], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",  # no port that another process could take
        rank=rank,
        world_size=num_workers,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    try:
        work(folder)
    finally:
        dist.destroy_process_group()
