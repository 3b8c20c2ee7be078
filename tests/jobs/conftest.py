"""A small ring: generated ratings in files as a user has them, and the spec that reads them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cluster.lifecycle import Cluster
from cluster.storage import Storage
from jobs.spec import RingSpec, load_ring

NUM_USERS, NUM_ITEMS, RATINGS_A_USER = 60, 90, 40
SPEC = """
name: films
storage: {storage}
raw:
  events: {{path: raw/ratings, columns: {{user_id: userId, item_id: movieId}}}}
  items: {{path: raw/movies, columns: {{item_id: movieId}}}}
prepare: {{split: {{within: user_id}}, in_process_bytes: 0}}
workload: {{kind: recommender, embedding_dim: 8, num_negatives: 64, dropout: 0.2}}
layout: {{replicate: 2}}
tune:
  num_trials: 0
  num_epochs: 2
  max_concurrent: 2
  space: {{train.batch_size: [64, 128], train.optimizer.learning_rate: {{low: 1e-3, high: 1e-1, log: true}}}}
train:
  num_epochs: 4
  batch_size: 64
  optimizer: {{learning_rate: 0.02}}
  early_stopping: {{metric: ndcg_at_10, patience: 4}}
"""


def rating_lines(seed: int = 0) -> list[str]:
    """CSV lines: users of an even number like even films."""
    generator = np.random.default_rng(seed)
    lines = []
    for user in range(NUM_USERS):
        for place, film in enumerate(generator.choice(NUM_ITEMS, RATINGS_A_USER, replace=False)):
            liked = (user + film) % 2 == 0
            rating = generator.choice([4.0, 4.5, 5.0] if liked else [1.0, 2.0, 2.5])
            lines.append(f"{user},{film},{rating},{1_600_000_000 + 1000 * user + place}")
    return lines


def movie_lines() -> list[str]:
    genres = ("Even|Drama", "Odd|Comedy")
    return [f'{film},"Film, the {film}th",{genres[film % 2]}' for film in range(NUM_ITEMS)]


def write_raw(storage: Storage, ratings: list[str]) -> None:
    storage.write("raw/ratings/ratings.csv", "\n".join(["userId,movieId,rating,timestamp", *ratings, ""]).encode())
    storage.write("raw/movies/movies.csv", "\n".join(["movieId,title,genres", *movie_lines(), ""]).encode())


class Ring:
    """A storage with raw data and the spec file that names it."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(str(folder / "storage"))
        self.spec_file = folder / "films.yaml"
        self.spec_file.write_text(SPEC.format(storage=self.storage.uri))
        write_raw(self.storage, rating_lines())

    def spec(self, *overrides: str) -> RingSpec:
        return load_ring(self.spec_file, overrides)

    def start(self, module: str, *overrides: str) -> subprocess.Popen[str]:
        """The stage as a user starts it, in a process of its own."""
        return self._start(["-m", module, str(self.spec_file), *overrides])

    def kill(self, moment: str, which: str | int, module: str, *overrides: str) -> None:
        """Start the stage, and let its driver be killed at a moment of `killed_stage`."""
        process = self.start_held(moment, which, module, *overrides)
        output, _ = process.communicate(timeout=500)
        assert process.returncode == -signal.SIGKILL, f"it ended before {moment} {which}:\n{output}"

    def start_held(self, moment: str, which: str | int, module: str, *overrides: str) -> subprocess.Popen[str]:
        """The stage with what happens to it from inside at a moment of `killed_stage`."""
        code = "from tests.jobs.killed_stage import main; main()"
        return self._start(["-c", code, moment, str(which), module, str(self.spec_file), *overrides])

    def _start(self, arguments: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, module: str, *overrides: str) -> tuple[int, str]:
        """Exit code and all output of a stage."""
        process = self.start(module, *overrides)
        output, _ = process.communicate(timeout=500)
        return process.returncode, output


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path)


@pytest.fixture
def make_ring(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Ring]:
    return lambda: Ring(tmp_path_factory.mktemp("ring"))


@pytest.fixture(scope="module")
def prepared_ring(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Ring:
    """A ring whose rows are prepared; shared by the tests of a module, which only add to it."""
    from jobs import prepare  # not at the top: Ray is imported only where a test needs it

    ring = Ring(tmp_path_factory.mktemp("prepared"))
    prepare.run(ring.spec(), ring.storage)
    return ring
