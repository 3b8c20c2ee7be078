"""Training rows streamed by Ray Data, on the suite's cluster."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from cluster.errors import SpecError
from cluster.lifecycle import Cluster
from cluster.storage import Storage
from jobs.parallel.feed import Rows, in_order
from jobs.prepared import RowGroup, Split, open_split
from jobs.row_stream import STRETCHES_KEPT, WINDOWS_A_STRETCH, RowStream, _Reader, check_window, open_stream
from jobs.spec import RingSpec
from tests.jobs.conftest import Ring

NUM_ROWS, SHUFFLE_ROWS, SEED = 960, 48, 3
"""20 windows in 5 stretches."""
ROWS_A_STRETCH = WINDOWS_A_STRETCH * SHUFFLE_ROWS
FOLDER = "prepared/x/train"


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Rows in three files."""
    storage = Storage(str(tmp_path / "storage"))
    numbers = np.arange(NUM_ROWS)
    for name, part in zip("abc", np.array_split(numbers, 3), strict=True):
        Path(storage.path(FOLDER)).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"row": part}), storage.path(f"{FOLDER}/{name}.parquet"), row_group_size=40)
    return open_split(storage, "prepared/x", "train")


@pytest.fixture
def spec(ring: Ring) -> RingSpec:
    return ring.spec(f"train.shuffle_rows={SHUFFLE_ROWS}", "train.num_epochs=3")


@pytest.fixture
def stream(cluster: Cluster, spec: RingSpec, split: Split) -> RowStream:
    return open_stream(split, SEED, spec.train, 0)


def numbers_of(tables: Iterator[pa.Table]) -> list[int]:
    return [row for table in tables for row in table.column("row").to_pylist()]


def alone(split: Split) -> Rows:
    """What one worker reads without a stream."""
    return in_order(split, SEED, SHUFFLE_ROWS)


@pytest.mark.ray
@pytest.mark.parametrize("place", [0, 1, 191, 192, 455, 959])
def test_the_stream_visits_the_rows_in_the_order_of_an_epoch_from_any_place_on(
    stream: RowStream, split: Split, place: int
) -> None:
    for epoch in (0, 2):
        assert numbers_of(stream.rows(epoch, place)) == numbers_of(alone(split)(epoch, 0))[place:]


@pytest.mark.ray
@pytest.mark.parametrize(("place", "next_epoch", "next_place"), [(600, 0, 768), (768, 1, 0)])
def test_the_next_stretch_is_read_before_it_is_wanted_also_that_of_the_next_epoch(
    stream: RowStream, split: Split, place: int, next_epoch: int, next_place: int
) -> None:
    wanted = numbers_of(alone(split)(next_epoch, next_place))[:ROWS_A_STRETCH]
    next(stream.rows(0, place))
    ray.get(stream.reader.stretch.remote(0, 0))  # the reader answers in turn, so what was announced is read as well
    for path in {group.path for group in split.groups}:
        Path(path).unlink()
    assert numbers_of(islice(stream.rows(next_epoch, next_place), WINDOWS_A_STRETCH)) == wanted


@pytest.mark.ray
def test_rows_that_fit_into_one_window_are_read_once_for_all_epochs(
    cluster: Cluster, spec: RingSpec, split: Split
) -> None:
    rows = open_stream(split, SEED, spec.train.model_copy(update={"shuffle_rows": NUM_ROWS}), 0).rows
    wanted = [numbers_of(in_order(split, SEED, NUM_ROWS)(epoch, 455)) for epoch in range(3)]
    found = [numbers_of(rows(0, 455))]
    for path in {group.path for group in split.groups}:
        Path(path).unlink()
    assert [*found, numbers_of(rows(1, 455)), numbers_of(rows(2, 455))] == wanted


@pytest.mark.ray
def test_workers_share_what_was_read_and_old_stretches_are_dropped(cluster: Cluster, split: Split) -> None:
    reader = _Reader(split, SEED, SHUFFLE_ROWS)
    firsts = [number * WINDOWS_A_STRETCH for number in range(STRETCHES_KEPT + 1)]
    kept = {first: reader.stretch(0, first) for first in firsts[1:]}
    assert all(reader.stretch(0, first) == blocks for first, blocks in kept.items())
    again = reader.stretch(0, firsts[0])
    assert reader.stretch(0, firsts[-1]) == kept[firsts[-1]]
    assert reader.stretch(0, firsts[1]) != kept[firsts[1]]
    assert numbers_of(iter(ray.get(again))) == numbers_of(alone(split)(0, 0))[:ROWS_A_STRETCH]


@pytest.mark.ray
def test_rows_come_where_training_holds_every_cpu(cluster: Cluster, stream: RowStream, split: Split) -> None:
    @ray.remote
    class Busy:
        def is_there(self) -> bool:
            return True

    busy = Busy.options(num_cpus=ray.cluster_resources()["CPU"]).remote()  # type: ignore[attr-defined]
    assert ray.get(busy.is_there.remote())
    assert numbers_of(stream.rows(0, 0)) == numbers_of(alone(split)(0, 0))
    ray.kill(busy)


@pytest.mark.ray
def test_a_reader_that_died_starts_again_and_gives_the_same_rows(stream: RowStream, split: Split) -> None:
    rows = stream.rows(0, 0)
    found = [next(rows)]
    ray.kill(stream.reader, no_restart=False)
    again = stream.rows(0, found[0].num_rows)
    assert numbers_of(iter([*found, *again])) == numbers_of(alone(split)(0, 0))


def test_a_window_that_needs_too_much_memory_is_refused_with_one_that_does_not(ring: Ring) -> None:
    images = Split(ring.storage, (RowGroup("images.parquet", 0, 10_000, 10_000 * 60_000),))
    with pytest.raises(
        SpecError,
        match=r"train.shuffle_rows=131072 rows of 60,000 bytes .* about 572 MiB; at most 256 .*shuffle_rows=4473",
    ):
        check_window(images, ring.spec().train)
    check_window(images, ring.spec("train.shuffle_rows=4473").train)
