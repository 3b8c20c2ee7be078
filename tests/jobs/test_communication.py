"""How busy the network is: none where a worker is alone, more where messages take longer."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from jobs.communication import communication_share, covered
from jobs.parallel.collectives import rank
from tests.jobs.parallel.workers import run_together


@pytest.mark.parametrize(
    ("intervals", "length"),
    [([], 0.0), ([(1, 3)], 2.0), ([(5, 6), (1, 3), (2, 4)], 4.0), ([(0, 10), (2, 3), (9, 12)], 12.0)],
)
def test_intervals_that_overlap_count_once(intervals: list[tuple[float, float]], length: float) -> None:
    assert covered(intervals) == length


def write_shares(folder: Path) -> None:
    """Of steps in which the other worker comes late, twice, and not at all; each with bounds by the clock."""
    shares = []
    communication_share(lambda: torch.ones(1), on_gpu=False)  # the first time the profiler takes long to start
    for waits_s in (0.05, 0.3, None):
        gate = folder / f"gate {waits_s}"
        clock: list[float] = []

        def step(waits_s: float | None = waits_s, gate: Path = gate, clock: list[float] = clock) -> int:
            if rank() == 1 and waits_s is not None:
                gate.read_text()  # until the other worker has waited
                dist.all_reduce(torch.ones(4))
            if rank() == 0:
                torch.ones(200, 200).matmul(torch.ones(200, 200))
                clock.append(time.perf_counter())
                time.sleep(0.1)  # work that is no message
                if waits_s is not None:
                    clock.append(time.perf_counter())
                    message = dist.all_reduce(torch.ones(4), async_op=True)
                    clock.append(time.perf_counter())
                    time.sleep(waits_s)
                    clock.append(time.perf_counter())
                    gate.write_text("come")
                    message.wait()
                    clock.append(time.perf_counter())
            return 7

        if rank() == 0 and waits_s is not None:
            os.mkfifo(gate)
        dist.barrier()
        if rank() == 0:
            clock.append(time.perf_counter())
            result, share = communication_share(step, on_gpu=False)
            clock.append(time.perf_counter())
            assert result == 7
            shares.append((share, clock))
        else:
            step()
    (folder / f"{rank()}.json").write_text(json.dumps(shares))


def test_the_share_is_the_time_that_messages_take(tmp_path: Path) -> None:
    run_together(2, write_shares, tmp_path)
    *late, (none, _) = json.loads((tmp_path / "0.json").read_text())
    assert none == 0
    for share, (begun, multiplied, before, sent, waited, received, ended) in late:
        least, most = waited - sent, received - before  # that the message can have taken
        assert least / (ended - begun) - 0.01 < share < most / (most + before - multiplied) + 0.01
