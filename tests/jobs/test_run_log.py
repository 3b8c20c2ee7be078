import math
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.layout import Layout
from cluster.storage import Storage
from jobs.anomalies import Anomaly
from jobs.run_log import LoggedEpoch, RunLog, Start
from tests.jobs.test_anomalies import ONE
from tests.s3 import S3Server

FIRST = Start(0, Layout(replicate=3), ("a", "a", "b"))
ODD = Anomaly("spike", 7, "the loss is 9", "Look for odd rows")


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog(Storage(str(tmp_path)), "checkpoints/films/key")


def test_a_run_that_has_not_begun_has_nothing(log: RunLog) -> None:
    assert log.epochs() == []
    assert log.starts() == []


def test_epochs_come_back_in_order_and_as_they_were(log: RunLog) -> None:
    first = replace(ONE, step_losses=(2.0, 1.5, 1.0))
    second = replace(ONE, epoch=2, loss=math.inf, is_best=False)
    log.add(second, [])
    log.add(first, [ODD])
    log.add_start(Start(480, Layout(tensor=2), ("b", "b"), "2 devices are there"))
    log.add_start(FIRST)
    assert log.epochs() == [LoggedEpoch(first, (ODD,)), LoggedEpoch(second, ())]
    assert log.starts() == [FIRST, Start(480, Layout(tensor=2), ("b", "b"), "2 devices are there")]


def test_a_loss_that_is_no_number_comes_back_too(log: RunLog) -> None:
    log.add(replace(ONE, loss=math.nan, step_losses=(1.0, math.nan)), [])
    [epoch] = log.epochs()
    assert math.isnan(epoch.report.loss)
    assert math.isnan(epoch.report.step_losses[1])


def test_of_starts_from_the_same_step_the_newest_stays(log: RunLog) -> None:
    log.add_start(FIRST)
    log.add_start(Start(0, Layout(replicate=2), ("a", "b")))
    assert [start.layout.replicate for start in log.starts()] == [2]


def test_an_epoch_that_is_trained_again_replaces_itself(log: RunLog) -> None:
    log.add(ONE, [ODD])
    log.add(replace(ONE, loss=0.5), [])
    assert [(epoch.report.loss, epoch.anomalies) for epoch in log.epochs()] == [(0.5, ())]


@pytest.mark.services
def test_the_log_of_a_run_on_s3_comes_back(s3: S3Server) -> None:
    log = RunLog(s3.storage("run-log"), "checkpoints/films/key")
    log.add(ONE, [ODD])
    log.add_start(FIRST)
    assert log.epochs() == [LoggedEpoch(ONE, (ODD,))]
    assert log.starts() == [FIRST]


def test_what_a_run_failed_with_stays_until_it_begins_anew(tmp_path: Path) -> None:
    log = RunLog(Storage(str(tmp_path)), "checkpoints/one/key")
    assert log.failure() == ""
    log.set_failure("training failed")
    assert log.failure() == "training failed"
    log.set_failure("")
    assert log.failure() == ""
