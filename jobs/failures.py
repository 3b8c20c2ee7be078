"""Why training failed: which kind of failure it was, on which worker first, and what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cluster.errors import ClusterError, UserError, user_error_in

Kind = Literal["out of memory", "data", "user code", "preemption", "collective time-out"]

MARKS: dict[Kind, tuple[str, ...]] = {
    "out of memory": (
        "outofmemoryerror",
        "memoryerror",
        "bad_alloc",
        "can't start new thread",
        "can't allocate memory",
        "cannot allocate memory",
        "cuda out of memory",
        "memory usage threshold",
    ),
    "data": ("arrowinvalid", "arrowexception", "no such file", "filenotfounderror", "storageerror", "dataerror"),
    "preemption": (
        "actordiederror",
        "actorunavailableerror",
        "nodediederror",
        "worker died",
        "actor died",
        "node was terminated",
        "preempt",
        "worker process has died",
    ),
    "collective time-out": (
        "timed out",
        "timeout",
        "connection closed by peer",
        "connection reset by peer",
        "distbackenderror",
        "distnetworkerror",
        "nccl",
        "gloo",
    ),
}
"""What the type or the last line of an error holds, by kind, looked for in this order; else the code is at fault."""
ORDER: tuple[Kind, ...] = ("out of memory", "data", "user code", "preemption", "collective time-out")
"""Of errors that come together, which one the others follow from: who waits for a worker that failed tells of that."""
REMEDIES: dict[Kind, str] = {
    "out of memory": "Give a smaller train.batch_size, more layout.accumulation, layout.recompute=true or a higher "
    "layout.shard; against the memory of the host a smaller train.shuffle_rows, or fewer workers a node",
    "data": "Look at the file that the error names; where prepared rows are damaged, remove their folder and run "
    "jobs.prepare again",
    "user code": "The error is of the code that ran; its traceback is in the worker's log",
    "preemption": "A process or a node went away more often than train.max_failures allows: run the same line again, "
    "which goes on from the last checkpoint, or raise train.max_failures",
    "collective time-out": "A worker did not come to a collective: look in its log for what held it up, such as rows "
    "that came late, a full disk, or a network between nodes that is closed",
}


@dataclass(frozen=True)
class Failure:
    """What the failure of a run came from."""

    kind: Kind
    rank: int
    """Of the worker whose error it is."""
    said: str
    """The error in a line."""

    def line(self) -> str:
        """For who ran it."""
        return f"training failed, {self.kind} on worker {self.rank}: {self.said}. {REMEDIES[self.kind]}"


class TrainingFailedError(ClusterError):
    """Workers failed, of which one is told."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.line())
        self.failure = failure

    def __reduce__(self) -> tuple[type["TrainingFailedError"], tuple[Failure]]:
        return TrainingFailedError, (self.failure,)


def failure_of(error: BaseException) -> Failure:
    """What one error came from, which may tell of workers that failed elsewhere."""
    told = user_error_in(error)
    if isinstance(told, TrainingFailedError):
        return told.failure
    return Failure("user code", 0, str(told)) if told else classify({0: error})


def classify(errors: Mapping[int, BaseException]) -> Failure:
    """The failure that the others follow from; of several of its kind the one of the lowest rank.

    Args:
        errors: by rank, one at least.
    """
    found = [Failure(_kind(error), rank, _said(error)) for rank, error in errors.items()]
    return min(found, key=lambda failure: (ORDER.index(failure.kind), failure.rank))


def user_error_of(errors: Mapping[int, BaseException]) -> UserError | None:
    """The error with a message of its own that one of the workers ended with."""
    return next((own for error in errors.values() if (own := user_error_in(error))), None)


def _kind(error: BaseException) -> Kind:
    text = " ".join(f"{type(each).__name__} {_said(each)}" for each in _chain(error)).lower()
    return next((kind for kind, marks in MARKS.items() if any(mark in text for mark in marks)), "user code")


def _said(error: BaseException) -> str:
    """The last line of an error that comes from another process is the error, the lines before its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or getattr(current, "cause", None)
    return found
