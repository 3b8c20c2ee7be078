"""Workers that stay for one trial after the other: of one process here, of several in test_quality_trials."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.placement import Demand
from jobs.gang import Gang
from jobs.search.trial import Point
from jobs.spec import EarlyStoppingSpec, TrainSpec
from jobs.worker_group import Workers


def count(settings: dict[str, Any], tell: Callable[[Point], bool], device: torch.device) -> None:
    """Trains nothing: an epoch is a number, and one of them goes wrong."""
    begun: list[str] = settings["begun"]
    for epoch in range(1, settings["num_epochs"] + 1):
        begun.append(f"{settings['name']}{epoch}")
        if epoch == settings.get("fails_at"):
            raise SpecError("no such epoch")
        if not tell({"num_epochs": epoch}):
            return


@pytest.fixture
def gang() -> Iterator[Gang]:
    made = Gang(
        Workers(Layout(), Demand({"CPU": 1.0})), count, TrainSpec(early_stopping=EarlyStoppingSpec(metric="loss")), ""
    )
    yield made
    made.end()


def test_an_epoch_is_trained_when_it_is_asked_for_and_not_before(gang: Gang) -> None:
    begun: list[str] = []
    gang.begin({"name": "a", "num_epochs": 2, "begun": begun})
    assert gang.epoch() == {"num_epochs": 1}
    assert begun == ["a1"]
    assert gang.epoch() == {"num_epochs": 2}
    assert gang.epoch() is None


def test_workers_that_leave_a_trial_begin_the_next_one(gang: Gang) -> None:
    begun: list[str] = []
    gang.begin({"name": "a", "num_epochs": 9, "begun": begun})
    gang.epoch()
    gang.begin({"name": "b", "num_epochs": 1, "begun": begun})
    assert gang.epoch() == {"num_epochs": 1}
    assert gang.epoch() is None
    gang.begin({"name": "c", "num_epochs": 1, "begun": begun})
    assert gang.epoch() == {"num_epochs": 1}
    assert begun == ["a1", "b1", "c1"]


def test_what_was_told_of_a_trial_that_nobody_waited_for_is_not_taken_for_the_next_ones(gang: Gang) -> None:
    begun: list[str] = []
    gang.begin({"name": "a", "num_epochs": 1, "begun": begun})
    gang.begin({"name": "b", "num_epochs": 2, "begun": begun})
    assert [gang.epoch(), gang.epoch(), gang.epoch()] == [{"num_epochs": 1}, {"num_epochs": 2}, None]
    assert begun == ["a1", "b1", "b2"]


def test_a_trial_that_came_to_its_end_unheard_ends_no_worker(gang: Gang) -> None:
    gang.begin({"name": "a", "num_epochs": 0, "begun": []})
    gang.begin({"name": "b", "num_epochs": 1, "begun": []})
    assert [gang.epoch(), gang.epoch()] == [{"num_epochs": 1}, None]


def test_what_a_worker_raises_is_raised_where_its_epoch_is_waited_for(gang: Gang) -> None:
    gang.begin({"name": "a", "num_epochs": 3, "fails_at": 2, "begun": []})
    gang.epoch()
    with pytest.raises(SpecError, match="no such epoch"):
        gang.epoch()
    with pytest.raises(SpecError, match="no such epoch"):
        gang.epoch()
    assert not gang.is_alive
