"""Measures: what Prometheus reads of an application, from the metrics port of each node of the cluster.

| metric | kind | labels besides `application` |
|---|---|---|
| ray_rayline_requests_total | counter | version, path, status |
| ray_rayline_request_ms | histogram | version |
| ray_rayline_batch_rows | histogram; its sum is of the middles of its parts, as Ray hands it on | version |
| ray_rayline_rows_total | counter, of the rows in batches | version |
| ray_rayline_waiting_rows | gauge, when a batch begins | version, replica |
| ray_rayline_share | gauge | version |
| ray_rayline_drift_index | gauge | version, column, replica |
| ray_rayline_shadow_same_share | gauge | version, replica |

Each costs a request about two microseconds.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any
from uuid import uuid4

from ray.util.metrics import Counter, Gauge, Histogram

MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048)
REPLICA = uuid4().hex[:8]
"""What this process is called, in what it tells of itself and in its measures."""
NO_VERSION = "none"
"""Answered a request: it was refused before."""


class Measures:
    """Of one application in one process."""

    def __init__(self, application: str, replica: str = REPLICA) -> None:
        self._tags = {"application": application}
        self._own_tags = {**self._tags, "replica": replica}

    def request(self, version: str, path: str, status: int, ms: float) -> None:
        """A request was answered."""
        _requests().inc(1, {**self._tags, "version": version, "path": path, "status": str(status)})
        _request_ms().observe(ms, {**self._tags, "version": version})

    def batch(self, version: str, num_rows: int, num_waiting: int) -> None:
        """A batch begins, while other rows wait."""
        _batch_rows().observe(num_rows, {**self._tags, "version": version})
        _rows().inc(num_rows, {**self._tags, "version": version})
        _waiting_rows().set(num_waiting, {**self._own_tags, "version": version})

    def drift(self, version: str, indexes: Mapping[str, float]) -> None:
        """How far the columns of the rows that are asked lie from those of training."""
        for column, index in indexes.items():
            _drift_index().set(index, {**self._own_tags, "version": version, "column": column})

    def shares(self, shares: Mapping[str, float]) -> None:
        """What each version gets."""
        for version, share in shares.items():
            _share().set(share, {**self._tags, "version": version})

    def shadow(self, version: str, told: Mapping[str, Any]) -> None:
        """What came of a shadow."""
        if told["num_compared"]:
            _shadow_same().set(told["num_same"] / told["num_compared"], {**self._own_tags, "version": version})


# Ray registers a metric when it is made, and wants each made once a process.


@cache
def _requests() -> Counter:
    keys = ("application", "version", "path", "status")
    return Counter("rayline_requests", "Requests that were answered.", keys)


@cache
def _request_ms() -> Histogram:
    return Histogram("rayline_request_ms", "Time to the end of an answer.", list(MS), ("application", "version"))


@cache
def _batch_rows() -> Histogram:
    return Histogram("rayline_batch_rows", "Rows answered together.", list(ROWS), ("application", "version"))


@cache
def _rows() -> Counter:
    return Counter("rayline_rows", "Rows in batches.", ("application", "version"))


@cache
def _waiting_rows() -> Gauge:
    keys = ("application", "version", "replica")
    return Gauge("rayline_waiting_rows", "Rows that wait while a batch begins.", keys)


@cache
def _share() -> Gauge:
    return Gauge("rayline_share", "Share of the traffic of a version.", ("application", "version"))


@cache
def _drift_index() -> Gauge:
    keys = ("application", "version", "column", "replica")
    return Gauge("rayline_drift_index", "Population stability index of a column.", keys)


@cache
def _shadow_same() -> Gauge:
    keys = ("application", "version", "replica")
    return Gauge("rayline_shadow_same_share", "Share of a shadow's answers that are the same.", keys)
