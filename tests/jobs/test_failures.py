"""Real errors, each raised by what really fails so."""

import json
import pickle
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from cluster.errors import DataError
from jobs.failures import MARKS, ORDER, REMEDIES, Failure, TrainingFailedError, classify, failure_of, user_error_of
from tests.jobs.parallel.workers import run_together


def raised(work: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whichever it is, is the question
        work()
    return caught.value


def kind_of(error: Exception) -> str:
    return classify({0: error}).kind


def test_every_kind_has_its_remedy_and_its_place() -> None:
    assert set(ORDER) == set(REMEDIES) == {*MARKS, "user code"}


@pytest.mark.parametrize("work", [lambda: torch.empty(10**15), lambda: np.empty(10**15)], ids=["torch", "numpy"])
def test_memory_that_cannot_be_had_is_out_of_memory(work: Callable[[], object]) -> None:
    assert kind_of(raised(work)) == "out of memory"


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("node memory usage above the threshold"),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("can't start new thread"),
    ],
)
def test_a_worker_ended_by_ray_or_by_a_gpu_for_its_memory_is_out_of_memory(error: Exception) -> None:
    assert kind_of(error) == "out of memory"


def test_a_damaged_or_missing_file_is_data(tmp_path: Path) -> None:
    (tmp_path / "part.parquet").write_bytes(b"no parquet at all")
    failure = classify({3: raised(lambda: pq.ParquetFile(tmp_path / "part.parquet"))})
    assert (failure.kind, failure.rank) == ("data", 3)
    assert "training failed, data on worker 3: " in failure.line()
    assert kind_of(raised(lambda: (tmp_path / "none").read_bytes())) == "data"


def test_an_error_of_the_code_is_its_own_whatever_stands_in_the_traceback() -> None:
    error = raised(lambda: {}["key"])
    assert kind_of(error) == "user code"
    traceback = "Traceback: in gloo.py, waiting timed out\nKeyError: 'key'"
    assert kind_of(RayTaskError("train", traceback, error)) == "user code"


def test_a_process_that_is_gone_is_a_preemption() -> None:
    assert kind_of(ActorDiedError()) == "preemption"


def hang(folder: Path) -> None:
    """The second worker does not come."""
    group = dist.new_group()
    if dist.get_rank() == 0:
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1), group)  # once it stands: that may take longer
        try:
            dist.all_reduce(torch.zeros(1), group=group)
        except RuntimeError as error:
            (folder / "said.json").write_text(json.dumps(str(error)))
    dist.barrier()  # a worker that had ended would be told as one that is gone


def test_a_collective_that_hangs_is_a_time_out(tmp_path: Path) -> None:
    run_together(2, hang, tmp_path)
    assert kind_of(RuntimeError(json.loads((tmp_path / "said.json").read_text()))) == "collective time-out"


def test_of_several_errors_the_one_that_the_others_follow_from_is_told() -> None:
    silence = RuntimeError("[gloo] Connection closed by peer")
    code = raised(lambda: {}["key"])
    assert classify({0: silence, 1: silence, 2: code}) == Failure("user code", 2, "'key'")
    assert classify({0: code, 1: MemoryError("all gone"), 2: silence}).kind == "out of memory"
    assert classify({2: silence, 1: silence}).rank == 1
    assert classify({0: silence, 1: ActorDiedError()}).kind == "preemption"


def test_an_error_with_a_message_of_its_own_is_told_as_such() -> None:
    own = DataError("the file is bad; mend it")
    failed = RayTaskError("train", "Traceback ...\nDataError: the file is bad", own)
    assert user_error_of({0: RuntimeError("gloo"), 1: failed}) is own
    assert user_error_of({0: RuntimeError("gloo"), 1: pa.ArrowInvalid("x")}) is None


def test_a_failure_of_workers_is_the_same_after_it_travelled() -> None:
    failure = Failure("out of memory", 3, "all gone")
    told = pickle.loads(pickle.dumps(TrainingFailedError(failure)))
    assert (told.failure, str(told)) == (failure, failure.line())
    assert failure_of(RayTaskError("trial", "Traceback ...\nTrainingFailedError: ...", told)) == failure
    assert failure_of(DataError("mend it")) == Failure("user code", 0, "mend it")
    assert failure_of(MemoryError("gone")).kind == "out of memory"
