"""How busy the network is: none where a worker is alone, more where messages take longer."""

import json
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
    """Of steps that wait for the other worker for a fifth of a second, for half of one, and not at all."""
    shares = []
    for waits_s in (0.2, 0.5, None):

        def step(waits_s: float | None = waits_s) -> int:
            if rank() == 0:
                torch.ones(200, 200).matmul(torch.ones(200, 200))
                time.sleep(0.2)  # work that is no message
            if waits_s is not None:
                if rank() == 1:
                    time.sleep(0.2 + waits_s)
                dist.all_reduce(torch.ones(4))
            return 7

        dist.barrier()
        if rank() == 0:
            result, share = communication_share(step, on_gpu=False)
            assert result == 7
            shares.append(share)
        else:
            step()
    (folder / f"{rank()}.json").write_text(json.dumps(shares))


def test_the_share_is_the_time_that_messages_take(tmp_path: Path) -> None:
    run_together(2, write_shares, tmp_path)
    short, long, none = json.loads((tmp_path / "0.json").read_text())
    assert none == 0
    assert 0.2 < short < long
    assert long > 0.5
