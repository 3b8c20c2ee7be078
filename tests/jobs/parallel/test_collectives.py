from pathlib import Path

import pytest
import torch

from jobs.parallel.collectives import all_of, done_by_first, from_first, rank, sum_over_all, world_size
from tests.jobs.parallel.workers import run_together

NUM_WORKERS = 3


class NotThereError(Exception):
    """What only the first worker can find out."""


def fail() -> None:
    raise NotThereError(f"said by {rank()}")


def report_from_a_worker(folder: Path) -> None:
    given = torch.tensor([1.0, 10.0], requires_grad=True)
    said = {
        "rank": rank(),
        "world_size": world_size(),
        "sum": sum_over_all(given * (rank() + 1)),
        "from_first": from_first({"rank": rank(), "path": f"step-{rank()}"}),
        "done": done_by_first(lambda: f"by {rank()}"),
        "all": all_of(f"of {rank()}"),
        "given": given.detach(),
    }
    with pytest.raises(NotThereError) as caught:
        done_by_first(fail)
    torch.save({**said, "error": str(caught.value)}, folder / f"{rank()}.pt")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What three workers say, in the order of their ranks."""
    folder = tmp_path_factory.mktemp("three")
    run_together(NUM_WORKERS, report_from_a_worker, folder)
    return [torch.load(folder / f"{index}.pt") for index in range(NUM_WORKERS)]


def test_workers_know_their_place(three: list[dict[str, object]]) -> None:
    assert [(worker["rank"], worker["world_size"]) for worker in three] == [(index, 3) for index in range(NUM_WORKERS)]


def test_a_sum_is_the_same_on_each_and_leaves_its_terms_alone(three: list[dict[str, torch.Tensor]]) -> None:
    for worker in three:
        assert worker["sum"].tolist() == [6.0, 60.0]
        assert not worker["sum"].requires_grad
        assert worker["given"].tolist() == [1.0, 10.0]


def test_what_the_first_has_is_on_each(three: list[dict[str, object]]) -> None:
    assert all(worker["from_first"] == {"rank": 0, "path": "step-0"} for worker in three)


def test_what_each_has_is_on_each_by_rank(three: list[dict[str, object]]) -> None:
    assert all(worker["all"] == ["of 0", "of 1", "of 2"] for worker in three)


def test_what_the_first_does_is_done_once_and_known_to_each(three: list[dict[str, object]]) -> None:
    assert all(worker["done"] == "by 0" for worker in three)


def test_an_error_of_the_first_is_raised_on_each(three: list[dict[str, object]]) -> None:
    assert all(worker["error"] == "said by 0" for worker in three)


def test_one_process_speaks_for_itself() -> None:
    assert (rank(), world_size(), from_first("a"), all_of("a")) == (0, 1, "a", ["a"])
    assert sum_over_all(torch.tensor([2.0])).tolist() == [2.0]
    with pytest.raises(NotThereError, match="said by 0"):
        done_by_first(fail)
