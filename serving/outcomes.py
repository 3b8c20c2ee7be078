"""Outcomes: what came of the answers of each version, one number each, joined from feedback and predictions.

A rating is its own outcome; a label's is 1 where the answer to that row was right, else 0.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from cluster.storage import Storage
from serving.feedback import Event, Label, events_of, labels_of
from serving.predictions import Kept, predictions_of


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


def outcomes_of(storage: Storage, name: str) -> list[Outcome]:
    """All outcomes of an application, in the order they became known.

    Raises:
        StorageError: a file of feedback or predictions is damaged.
    """
    events, labels = list(events_of(storage, name)), list(labels_of(storage, name))
    if not events and not labels:
        return []
    asked_for = {event.prediction_id for event in events} | {label.prediction_id for label in labels}
    predictions = {
        kept.prediction_id: kept for kept in predictions_of(storage, name) if kept.prediction_id in asked_for
    }
    return sorted([*of_ratings(events, predictions), *of_labels(labels, predictions)], key=lambda outcome: outcome.at)
