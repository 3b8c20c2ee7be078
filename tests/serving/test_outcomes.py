"""Feedback joined to what it speaks of."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.errors import StorageError
from cluster.storage import Storage
from serving.feedback import Event, FeedbackLog, Label
from serving.outcomes import Outcome, outcomes_of, outcomes_since
from serving.predictions import PredictionLog
from serving.shares import Shares

AT = "2026-05-04T12:00:00+00:00"
WHEN = datetime(2026, 5, 4, 12, tzinfo=UTC)
ANSWER = b'{"predictions": [{"label": "good"}, {"label": "bad"}]}'


def said(storage: Storage, *events: Event | Label) -> None:
    async def append() -> None:
        for event in events:
            folder = "labels" if isinstance(event, Label) else "feedback"
            await FeedbackLog(storage, "loans", folder=folder).append(event)

    asyncio.run(append())


def predicted(storage: Storage) -> None:
    log = PredictionLog(storage, "loans")
    log.add("p1", "v1", "ann", "/predict", ANSWER)
    log.add("p2", "v2", "", "/predict", ANSWER)
    log.flush()


def test_a_label_is_right_or_wrong_of_the_version_that_answered_that_row(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    predicted(storage)
    said(
        storage,
        Label("e1", "p1", 0, "good", AT),
        Label("e2", "p1", 1, "good", AT),
        Label("e3", "p2", 1, "bad", AT),
        Label("e3", "p2", 1, "bad", AT),
        Label("e4", "p2", 2, "bad", AT),
        Label("e5", "unknown", 0, "bad", AT),
    )
    assert outcomes_of(storage, "loans") == [
        Outcome("v1", "ann", 1.0, WHEN),
        Outcome("v1", "ann", 0.0, WHEN),
        Outcome("v2", "p2", 1.0, WHEN),
    ]


def test_a_rating_is_about_the_answer_it_names_whoever_took_it(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    predicted(storage)
    said(
        storage,
        Event("e1", "ann", "m1", 4.0, 0, AT, "v9", "p2"),
        Event("e2", "bob", "m1", 3.0, 0, AT, "v9", "never kept"),
        Event("e3", "eve", "m1", 2.0, 0, AT, "v9"),
    )
    assert [(one.version, one.unit, one.value) for one in outcomes_of(storage, "loans")] == [
        ("v2", "ann", 4.0),
        ("v9", "bob", 3.0),
        ("v9", "eve", 2.0),
    ]


def test_without_a_word_nothing_is_read(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("predictions/loans/2026-05-04/120000-1.jsonl", b"damaged")  # whoever reads it is told
    assert outcomes_of(storage, "loans") == []
    said(storage, Label("e1", "p1", 0, "good", AT))
    with pytest.raises(StorageError, match="is damaged"):
        outcomes_of(storage, "loans")


def test_what_became_known_before_a_state_is_not_read_for_it(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    predicted(storage)
    said(storage, Label("e1", "p1", 0, "good", AT))
    state = Shares(deployed="v1", shares={"v1": 1.0})
    assert len(outcomes_since(storage, "loans", state)) == 1
    assert outcomes_since(storage, "loans", state.model_copy(update={"made_at": "9000-01-01T00:00:00+00:00"})) == []
