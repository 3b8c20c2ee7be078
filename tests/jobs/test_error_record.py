import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.storage import Storage
from jobs.error_record import ErrorRecord, error_so_far
from jobs.known_devices import kept_devices
from jobs.search.device import Device
from jobs.search.trial import LayoutTrial, Trial
from tests.jobs.search.test_forecast import device

DEVICE = device(8)


def trials(*times: float, of: Device = DEVICE) -> list[LayoutTrial | Trial]:
    """Layouts that were foreseen to take 1, 2, ... s, and took these."""
    foreseen = [LayoutTrial({}, 100, place + 1.0, rates=of.rates_key) for place in range(len(times))]
    return [replace(each, step_s=(time,), peak_bytes=(100,)) for each, time in zip(foreseen, times, strict=True)]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def record_of(storage: Storage, search: str, of: Device = DEVICE) -> ErrorRecord:
    """As a process has it that has just been started."""
    copied: ErrorRecord = pickle.loads(pickle.dumps(ErrorRecord(storage, search, of)))
    return copied


def test_every_measured_layout_counts_and_the_same_search_once(storage: Storage) -> None:
    assert error_so_far(storage, DEVICE) == ""
    measured = trials(1.1, 2.2, 3.3)
    for number in (1, 2, 3):  # one after the other, each time by a process that goes on after a kill
        record_of(storage, "films/abc").note(measured[:number])
        said = error_so_far(storage, DEVICE)
        assert said.startswith(f"{number} layout{'s' if number > 1 else ''} of 1 search, measured to foreseen: ")
    assert "time x1.10 (1.10 to 1.10), rank 1.00" in said
    record_of(storage, "films/abc").note(measured)
    assert error_so_far(storage, DEVICE) == said
    record_of(storage, "films/def").note(trials(0.5))
    record_of(storage, "loans/abc").note(trials(0.5))
    assert "5 layouts of 3 searches" in record_of(storage, "films/abc").line()


def test_a_new_calibration_begins_anew_and_the_cluster_at_hand_does_not(storage: Storage) -> None:
    record_of(storage, "films/abc").note(trials(1.1))
    calibrated = DEVICE.model_copy(update={"memory_gb_per_s": 51.0})
    assert error_so_far(storage, calibrated) == ""
    assert "1 layout" in error_so_far(storage, DEVICE.model_copy(update={"memory_gib": 2.0}))
    # The search goes on, with a layout that was foreseen and measured before: that one stays where it was.
    record_of(storage, "films/abc", calibrated).note([*trials(1.1), *trials(1.2, of=calibrated)])
    assert "1 layout of 1 search, measured to foreseen: memory +0% (worst +0%), time x1.20" in error_so_far(
        storage, calibrated
    )
    assert "1 layout of 1 search, measured to foreseen: memory +0% (worst +0%), time x1.10" in error_so_far(
        storage, DEVICE
    )


def test_what_was_not_foreseen_or_not_measured_writes_nothing(storage: Storage) -> None:
    record_of(storage, "films/abc").note([LayoutTrial({}, 100, 1.0, rates=DEVICE.rates_key, outcome="failed")])
    unknown = ErrorRecord(storage, "films/abc", None)
    unknown.note(trials(1.1))
    assert unknown.line() == ""
    assert not storage.exists("devices")


def test_the_record_is_no_device(storage: Storage) -> None:
    record_of(storage, "films/abc").note(trials(1.1))
    assert kept_devices(storage) == {}
