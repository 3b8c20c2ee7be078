"""What several of these tests want of the clock by which servers are waited for."""

from types import SimpleNamespace

import pytest

from cluster import retrying


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Those that are made while a server is away. They take no time: only by their own clock, which they alone move."""
    made: list[float] = []
    monkeypatch.setattr(retrying, "time", SimpleNamespace(monotonic=lambda: sum(made), sleep=made.append))
    return made


@pytest.fixture
def long_patience(monkeypatch: pytest.MonkeyPatch) -> str:
    """Enough for a server that starts on a busy machine; the code that gives another interpreter as much."""
    monkeypatch.setattr(retrying, "PATIENCE_S", 300.0)
    return "import cluster.retrying\ncluster.retrying.PATIENCE_S = 300.0\n"
