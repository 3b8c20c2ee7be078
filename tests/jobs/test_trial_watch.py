"""What is written down of trials, told as Ray Tune tells it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.cloudpickle
from ray.exceptions import ActorDiedError

from cluster.storage import Storage
from jobs.failures import Failure, TrainingFailedError, failure_of
from jobs.search.book import Book
from jobs.search.trial import Trial
from jobs.trial_watch import KillCount, TrialWatch, error_of

KNOWN = Trial(5, {"rate": 0.5}, {}, curve=({"num_epochs": 1.0, "score": 0.4},), best=0.4, num_starts=1, device_s=3.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("jobs.trial_watch.time", clock)
    return clock


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the kernel has killed, by node."""
    counts = {"node": 0}
    monkeypatch.setattr("jobs.trial_watch.kernel_kills", lambda: dict(counts))
    return counts


@pytest.fixture
def book(tmp_path: Path) -> Book[Trial]:
    return Book(Storage(str(tmp_path)), "trials", Trial)


def begun(config: dict[str, Any]) -> Trial:
    return KNOWN if config["number"] == 5 else Trial(config["number"], {"rate": 0.1}, {"shard": 2})


@pytest.fixture
def watch(book: Book[Trial], clock: Clock, kills: dict[str, int]) -> TrialWatch:
    return TrialWatch(book, begun, "score", "max", num_epochs=2, num_trials=4, num_done=1)


def of_tune(number: int, failed: Path | None = None) -> Any:
    return SimpleNamespace(
        trial_id=f"id{number}",
        config={"number": number},
        pickled_error_file=str(failed) if failed and failed.suffix == ".pkl" else None,
        error_file=str(failed) if failed else None,
    )


def result(epoch: int, score: float) -> dict[str, Any]:
    return {"point": {"num_epochs": epoch, "score": score}, "score": score, "num_epochs": epoch}


def test_a_trial_is_in_the_book_from_its_start_on(watch: TrialWatch, book: Book[Trial], clock: Clock) -> None:
    watch.on_trial_start(1, [], of_tune(0))
    assert book.read()["000000"] == Trial(0, {"rate": 0.1}, {"shard": 2}, num_starts=1)
    clock.now += 2
    watch.on_trial_result(1, [], of_tune(0), result(1, 0.3))
    noted = book.read()["000000"]
    assert (noted.outcome, noted.best, noted.num_epochs, noted.device_s) == ("under way", 0.3, 1, 4.0)


@pytest.mark.parametrize(("epochs", "outcome"), [(2, "finished"), (1, "stopped"), (0, "diverged")])
def test_how_a_trial_ended_follows_from_its_epochs(
    watch: TrialWatch, book: Book[Trial], epochs: int, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    watch.on_trial_start(1, [], of_tune(0))
    for epoch in range(epochs):
        watch.on_trial_result(1, [], of_tune(0), result(epoch + 1, 0.25))
    watch.on_trial_complete(1, [], of_tune(0))
    assert book.read()["000000"].outcome == outcome
    shown = f"score 0.2500 after {epochs} epochs" if epochs else "diverged"
    assert capsys.readouterr().out == f"trial 2/4  rate=0.1  {shown}  0 s left\n"


def test_a_trial_that_is_begun_again_keeps_its_epochs_and_what_it_took(
    watch: TrialWatch, book: Book[Trial], clock: Clock
) -> None:
    watch.on_trial_start(1, [], of_tune(5))
    watch.on_trial_result(1, [], of_tune(5), result(1, 0.9))  # told once more
    clock.now += 1
    watch.on_trial_result(1, [], of_tune(5), result(2, 0.2))
    noted = book.read()["000005"]
    assert [point["score"] for point in noted.curve] == [0.4, 0.2]
    assert (noted.best, noted.num_starts, noted.device_s) == (0.4, 2, 4.0)


@pytest.mark.parametrize(
    ("error", "outcome", "said"),
    [
        (TrainingFailedError(Failure("out of memory", 3, "all gone")), "out of memory", "all gone"),
        (MemoryError("no more"), "out of memory", "no more"),
        (KeyError("key"), "failed", "'key'"),
        (TrainingFailedError(Failure("preemption", 0, "worker died")), "died", "worker died"),
    ],
)
def test_what_a_trial_failed_with_is_written_down(
    watch: TrialWatch, book: Book[Trial], tmp_path: Path, error: BaseException, outcome: str, said: str
) -> None:
    (tmp_path / "error.pkl").write_bytes(ray.cloudpickle.dumps(error))
    watch.on_trial_start(1, [], of_tune(0))
    watch.on_trial_error(1, [], of_tune(0, tmp_path / "error.pkl"))
    assert (book.read()["000000"].outcome, book.read()["000000"].said) == (outcome, said)


def test_a_trial_that_fails_before_it_has_begun_is_written_down_too(watch: TrialWatch, book: Book[Trial]) -> None:
    watch.on_trial_error(1, [], of_tune(0))
    assert (book.read()["000000"].outcome, book.read()["000000"].num_starts) == ("failed", 1)


def test_an_error_that_is_known_as_text_alone_is_told_by_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "error.txt").write_text("Traceback:\n  somewhere\nMemoryError: all gone\n")
    assert failure_of(error_of(of_tune(0, tmp_path / "error.txt"))) == Failure(
        "out of memory", 0, "MemoryError: all gone"
    )
    assert failure_of(error_of(of_tune(0))).kind == "user code"


def test_deaths_of_workers_are_counted_and_starts_after_a_kill_of_the_driver_are_not(kills: dict[str, int]) -> None:
    count, trial = KillCount(), Trial(0, {}, {}, num_starts=4)
    for expected in (1, 2):
        trial = count.judged(trial, Failure("preemption", 0, "worker died"))
        assert (trial.outcome, trial.said, trial.num_deaths) == ("died", "worker died", expected)
    assert count.judged(trial, Failure("user code", 0, "'key'")).num_deaths == 2


def test_a_process_that_is_gone_ran_out_of_memory_where_the_kernel_has_killed_one(kills: dict[str, int]) -> None:
    count = KillCount()
    gone = Failure("preemption", 0, str(ActorDiedError()))
    assert count.judge(gone)[0] == "died"
    kills["node"] = 1
    assert count.judge(gone)[0] == "out of memory"
    assert count.judge(gone)[0] == "died"


def test_a_member_of_a_population_that_ends_early_has_diverged(
    book: Book[Trial], clock: Clock, kills: dict[str, int]
) -> None:
    watch = TrialWatch(book, begun, "score", "max", 2, 4, 1, "diverged")
    watch.on_trial_start(1, [], of_tune(0))
    watch.on_trial_result(1, [], of_tune(0), result(1, 0.25))
    watch.on_trial_complete(1, [], of_tune(0))
    assert book.read()["000000"].outcome == "diverged"
