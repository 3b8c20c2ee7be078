import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.errors import StorageError
from cluster.storage import Storage
from serving.usage import UsageLog, Use, told, used_on, uses_on

DAY = "2026-03-01"


def clock() -> datetime:
    return datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def test_uses_are_added_up_by_key_and_replica(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for _ in range(2):
        log = UsageLog(storage, "films", clock)
        for number in range(10):
            log.add(Use("acme", f"{number % 2}" * 12, 1, 0, number == 0, 100, 1000, 0.5))
        log.add(Use("", "", num_refused=1))
        log.flush()
        log.flush()
    assert len(list(uses_on(storage, "films", DAY))) == 6, "three keys of two replicas, and nothing for an idle flush"
    assert used_on(storage, "films", DAY) == {"acme": 20, "": 0}
    lines = told(storage, "films", DAY)
    assert lines[1].split() == ["(no", "key)", "0", "2", "0", "0.00", "0.00", "0.0"]
    assert lines[2].split() == ["acme", "0" * 12, "10", "0", "2", "0.00", "0.01", "5.0"]


def test_what_cannot_be_written_is_kept(tmp_path: Path) -> None:
    storage, log = Storage(str(tmp_path)), UsageLog(Storage(str(tmp_path)), "films", clock)
    log.add(Use("acme", "1" * 12, 1))
    (tmp_path / "usage").write_text("in the way")
    with pytest.raises((StorageError, OSError)):
        log.flush()
    log.add(Use("acme", "1" * 12, 1))
    (tmp_path / "usage").unlink()
    log.flush()
    assert used_on(storage, "films", DAY) == {"acme": 2}


def test_a_day_without_use_is_empty(tmp_path: Path) -> None:
    assert used_on(Storage(str(tmp_path)), "films", DAY) == {}
    assert len(told(Storage(str(tmp_path)), "films", DAY)) == 1


def test_no_key_is_in_what_is_written(tmp_path: Path) -> None:
    log = UsageLog(Storage(str(tmp_path)), "films", clock)
    log.add(Use("acme", "1" * 12, 1))
    log.flush()
    (path,) = tmp_path.rglob("*.jsonl")
    assert set(json.loads(path.read_text())) == set(Use("", "").__dict__)
