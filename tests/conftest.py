"""The suite's one Ray cluster."""

import gc
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis
import pytest

from cluster.head import start_head, stop_head
from cluster.lifecycle import Cluster, connected
from cluster.processes import dying_with_parent
from tests.hdfs import USER, hdfs
from tests.s3 import CREDENTIALS, s3

__all__ = ["hdfs", "s3"]  # fixtures of all tests

NUM_CPUS = 6  # logical: layouts of four workers run on a machine with fewer


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests start, also where the suite itself runs in the background and is deaf to it.

    Random tables are the same in every run: one that fails must fail again. How long it takes to draw them says more
    of the machine than of the test.
    """
    hypothesis.settings.register_profile(
        "suite",
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("suite")
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no garbage be collected while a failure is described.

    Before Python 3.11.8 and 3.12.2 a collection amid the reading of source code could let another thread read some,
    too, and both failed (CPython's issue 106905): the suite ended there and did not say what had failed.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One local cluster for the whole run, which stages called from a test and processes it starts find.

    It has its own token, ports and folders, so it cannot meet a cluster of the user's. Connecting once for all
    tests keeps its workers warm: they belong to a connection.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.delenv("RAY_AUTH_TOKEN", raising=False)
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path_factory.mktemp("token") / "auth_token"))
        for name, value in {**CREDENTIALS, "HADOOP_USER_NAME": USER}.items():  # workers have what it starts with
            patch.setenv(name, value)
        head = start_head(NUM_CPUS, _ignore, dying_with_parent())
        try:
            patch.setenv("RAY_ADDRESS", head.address)
            with connected() as joined:
                yield joined
        finally:
            stop_head(head)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home folder and no cluster around, for tests that start processes of their own."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:  # short: sockets lie below it
        monkeypatch.setenv("RAY_TMPDIR", scratch)
        yield tmp_path


def _ignore(waited_s: float) -> None:
    """Tests show no progress."""
