"""A few real steps of a spec on its layout: how long one takes, and the most memory that each worker needs for it.

Called on every worker of a process group, as `jobs.fit.fit` is; what it measures is the very step that `fit` takes.
"""

import gc
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from cluster.storage import Storage
from jobs.fit import Training, set_up
from jobs.parallel.collectives import all_of
from jobs.parallel.feed import Feed, StepRows
from jobs.spec import RingSpec

NUM_WARM = 2
"""Steps before the first that is timed: the first one makes the optimizer's state, the second has all that there is."""
T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """What steps took."""

    step_s: tuple[float, ...]
    """Of each step, on the worker that took longest; without what it waited for rows."""
    peak_bytes: tuple[int, ...]
    """Of each rank, the most memory at a time from before the model was built: see `peak_of`."""

    @property
    def median_s(self) -> float:
        """Of a step."""
        return median(self.step_s)


def measure(spec: RingSpec, storage: Storage, prepared: str, num_steps: int, device: torch.device) -> Measured:
    """Set up, take two steps for their memory, then time so many; the same on every worker."""
    (training, rows), peak_bytes = peak_of(lambda: _warmed(spec, storage, prepared, device), device)
    own = []
    for number in range(NUM_WARM, NUM_WARM + num_steps):
        own.append(_timed_step(training, next(rows), number, device))
    rows.close()
    each = all_of((own, peak_bytes))
    slowest = tuple(max(times) for times in zip(*(times for times, _ in each), strict=True))
    return Measured(slowest, tuple(peak for _, peak in each))


def _warmed(
    spec: RingSpec, storage: Storage, prepared: str, device: torch.device
) -> tuple[Training, Generator[StepRows, None, None]]:
    training = set_up(spec, storage, prepared, device)
    training.parted.model.train()
    rows = _for_ever(training.feed)
    for number in range(NUM_WARM):
        training.step(next(rows), number, wants_norm=False)
    return training, rows


def _for_ever(feed: Feed) -> Generator[StepRows, None, None]:
    """The steps of one epoch after the other."""
    epoch = 0
    while True:
        yield from feed.epoch(epoch, 0)
        epoch += 1


def _timed_step(training: Training, rows: StepRows, number: int, device: torch.device) -> float:
    started = time.perf_counter()
    training.step(rows, number, wants_norm=False)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def peak_of(work: Callable[[], T], device: torch.device) -> tuple[T, int]:
    """What `work` returns, and the most bytes that torch held at a time for it.

    On a GPU, of its memory. On a CPU, what torch's allocator gave out for the thread that works and for what it starts
    in C++, such as the backward pass and collectives; not for the thread that reads rows ahead, whose rows are in host
    memory on a GPU's worker, too. There every operation is written down, which takes longer.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = work()
        return result, int(torch.cuda.max_memory_allocated(device)) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
    return result, highest(sorted(_changes(profiler), key=lambda change: change.at_ns))


@dataclass(frozen=True)
class Change:
    """Memory that was given out, or, below 0, given back."""

    at_ns: int
    address: int
    num_bytes: int


def highest(changes: Iterable[Change]) -> int:
    """The most bytes at a time, of changes in their order.

    What is given back in a thread that the profiler does not know, as a thread of gloo gives back a message, is not
    written down. It is seen to be gone when its place is given out again.
    """
    starts: list[int] = []
    sizes: dict[int, int] = {}
    total = peak = 0
    for change in changes:
        end = change.address + max(change.num_bytes, 1)
        first = bisect_left(starts, change.address)
        if first and starts[first - 1] + sizes[starts[first - 1]] > change.address:
            first -= 1
        last = bisect_left(starts, end)
        total -= sum(sizes.pop(start) for start in starts[first:last])
        starts[first:last] = []
        if change.num_bytes > 0:
            starts.insert(first, change.address)
            sizes[change.address] = change.num_bytes
            total += change.num_bytes
            peak = max(peak, total)
    return peak


def _changes(profiler: profile) -> Iterator[Change]:
    """Of torch's CPU allocator, as the profiler has written them down."""
    results = profiler.profiler.kineto_results if profiler.profiler else None
    waiting: list[Any] = list(results.experimental_event_tree()) if results else []
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.tag == _EventType.Allocation:
            fields = event.extra_fields
            yield Change(event.start_time_ns, fields.ptr, fields.alloc_size)
