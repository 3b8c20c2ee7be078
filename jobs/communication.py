"""How long a step's messages between workers take, by torch's profiler."""

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # else the profiler prints that it starts and that it stops

MESSAGES = ("gloo:", "nccl:", "nccldevkernel", "ncclkernel")
"""What the names of collectives, and of the kernels that carry them, begin with."""
T = TypeVar("T")
Interval = tuple[float, float]


def communication_share(take: Callable[[], T], on_gpu: bool) -> tuple[T, float]:
    """Take a step, and the share of its time in which a message of this worker was under way.

    A message may travel while the worker computes: the share says how busy the network was, not how long it was waited
    for. The step takes longer than others.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        taken = take()
    all_events = [(event.name.lower(), event.time_range.start, event.time_range.end) for event in profiler.events()]
    begun, ended = min(start for _, start, _ in all_events), max(end for _, _, end in all_events)
    messages = [(start, end) for name, start, end in all_events if name.startswith(MESSAGES)]
    return taken, covered(messages) / max(ended - begun, 1e-9)


def covered(intervals: Iterable[Interval]) -> float:
    """The length of all intervals together, where they overlap once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total
