from pathlib import Path

import pytest

from cluster.storage import Storage
from serving import predictions
from serving.predictions import PredictionLog, predictions_of


def test_answers_are_kept_with_who_gave_them_and_read_back(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    log = PredictionLog(storage, "loans")
    log.add("p1", "v1", "ann", "/predict", b'{"predictions": [1]}')
    assert list(predictions_of(storage, "loans")) == []
    log.flush()
    log.flush()
    [kept] = predictions_of(storage, "loans")
    assert (kept.prediction_id, kept.version, kept.unit, kept.path) == ("p1", "v1", "ann", "/predict")
    assert kept.answer == {"predictions": [1]}
    assert len(list(tmp_path.rglob("*.jsonl"))) == 1


def test_while_storage_is_away_they_wait_and_no_more_than_memory_may_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "MAX_WAITING_BYTES", 3)
    (tmp_path / "predictions").write_text("in the way")
    log = PredictionLog(Storage(str(tmp_path)), "loans")
    for number in range(5):
        log.add(f"p{number}", "v1", "", "/predict", b"1")
    with pytest.raises(OSError, match="predictions"):
        log.flush()
    (tmp_path / "predictions").unlink()
    log.flush()
    assert [kept.prediction_id for kept in predictions_of(Storage(str(tmp_path)), "loans")] == ["p0", "p1", "p2"]
    assert log.num_left_out == 2
    log.add("p5", "v1", "", "/predict", b"123")
    log.flush()
    assert len(list(predictions_of(Storage(str(tmp_path)), "loans"))) == 4, "what was written takes no room"


def test_they_are_read_from_a_day_on(tmp_path: Path) -> None:
    log = PredictionLog(Storage(str(tmp_path)), "loans")
    log.add("p1", "v1", "", "/predict", b"1")
    log.flush()
    assert len(list(predictions_of(Storage(str(tmp_path)), "loans", "2026-01-01"))) == 1
    assert list(predictions_of(Storage(str(tmp_path)), "loans", "9999-01-01")) == []
