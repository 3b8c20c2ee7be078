"""Predictions: what was answered to whom, kept for feedback to speak of; of what was asked nothing is kept.

    predictions/<name>/<day>/<time>-<replica>-<number>.jsonl

An answer's header `X-Prediction` has its id. A replica writes every two seconds, so one that is killed loses those.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from cluster.storage import Storage
from serving.line_files import LineFiles, lines_in, now
from serving.repeating import repeat

FLUSH_S = 2.0
MAX_WAITING_BYTES = 64 * 2**20
"""Of answers that wait to be written; where storage stays away, later ones are left out."""


@dataclass(frozen=True)
class Kept:
    """An answer."""

    prediction_id: str
    made_at: str
    """ISO 8601 in UTC."""
    version: str
    unit: str
    """Of the header `X-Unit`; empty where it was absent."""
    path: str
    answer: Any


class PredictionLog:
    """Of one replica."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._files = LineFiles(storage, f"predictions/{name}")
        self._waiting: list[Kept] = []
        self._num_bytes, self.num_left_out = 0, 0
        self._lock = threading.Lock()

    def add(self, prediction_id: str, version: str, unit: str, path: str, answer: bytes) -> None:
        """Keep an answer, which is JSON; in microseconds."""
        kept = Kept(prediction_id, now().isoformat(), version, unit, path, answer)
        with self._lock:
            if self._num_bytes + len(answer) > MAX_WAITING_BYTES:
                self.num_left_out += 1
                return
            self._waiting.append(kept)
            self._num_bytes += len(answer)

    def flush(self) -> None:
        """Write what waits.

        Raises:
            StorageError: it cannot be written; it waits for the next time.
        """
        batch = self._waiting[:]
        if batch:
            self._files.write({**asdict(kept), "answer": json.loads(kept.answer)} for kept in batch)
            with self._lock:
                del self._waiting[: len(batch)]
                self._num_bytes -= sum(len(kept.answer) for kept in batch)

    def follow(self) -> None:
        """Flush from now on, in a thread that lives as long as the process."""
        repeat(self.flush, FLUSH_S, "writing predictions")


def predictions_of(storage: Storage, name: str, since: str = "") -> Iterator[Kept]:
    """All that replicas of an application kept from a day (2026-01-31) on.

    Raises:
        StorageError: a line is no prediction.
    """
    return lines_in(storage, f"predictions/{name}", lambda line: Kept(**line), since)
