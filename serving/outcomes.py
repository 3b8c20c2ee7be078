"""Outcomes: what came of the answers of each version, one number each, joined from feedback and predictions.

A rating is its own outcome; a label's is 1 where the answer to that row was right, else 0.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cluster.storage import Storage
from serving.feedback import Event, Label, events_of, labels_of
from serving.predictions import Kept, predictions_of
from serving.shares import Shares

MAX_DELAY = timedelta(days=30)
"""Between an answer and what is known of it; later, nothing is known of whose answer it was."""


@dataclass(frozen=True)
class Outcome:
    """Of one answer to one unit."""

    version: str
    unit: str
    value: float
    at: datetime
    """When it became known."""


def of_ratings(events: Iterable[Event], predictions: Mapping[str, Kept]) -> Iterator[Outcome]:
    """A rating is about the version whose answer it speaks of; else about the one that took it."""
    for event in events:
        spoken_of = predictions.get(event.prediction_id)
        version = spoken_of.version if spoken_of else event.version
        yield Outcome(version, event.user_id, event.rating, datetime.fromisoformat(event.received_at))


def of_labels(labels: Iterable[Label], predictions: Mapping[str, Kept]) -> Iterator[Outcome]:
    """Whether the answers were right; labels of answers that were not kept say nothing."""
    for label in labels:
        spoken_of = predictions.get(label.prediction_id)
        answers = spoken_of.answer.get("predictions", []) if spoken_of else []
        if spoken_of and label.row < len(answers):
            is_right = answers[label.row]["label"] == label.label
            unit = spoken_of.unit or spoken_of.prediction_id
            yield Outcome(spoken_of.version, unit, float(is_right), datetime.fromisoformat(label.received_at))


def outcomes_of(storage: Storage, name: str, since: datetime = datetime.min) -> list[Outcome]:
    """The outcomes of an application that became known from the day of a moment on, in their order.

    Raises:
        StorageError: a file of feedback or predictions is damaged.
    """
    day = f"{since:%Y-%m-%d}"
    events, labels = list(events_of(storage, name, day)), list(labels_of(storage, name, day))
    if not events and not labels:
        return []
    asked_for = {event.prediction_id for event in events} | {label.prediction_id for label in labels}
    first = max(since.replace(tzinfo=None), datetime.min + MAX_DELAY) - MAX_DELAY
    kept = predictions_of(storage, name, f"{first:%Y-%m-%d}")
    predictions = {one.prediction_id: one for one in kept if one.prediction_id in asked_for}
    return sorted([*of_ratings(events, predictions), *of_labels(labels, predictions)], key=lambda outcome: outcome.at)


def outcomes_since(storage: Storage, name: str, state: Shares) -> list[Outcome]:
    """Those since a state of a release began.

    Raises:
        StorageError: see `outcomes_of`.
    """
    return outcomes_of(storage, name, datetime.fromisoformat(state.made_at) if state.made_at else datetime.min)
