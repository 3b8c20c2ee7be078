"""Blocks in this process and on the suite's cluster: the same numbers, the same results."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
from ray.data import DataContext

from cluster.errors import DataError
from cluster.lifecycle import Cluster
from jobs import blocks
from jobs.blocks import BLOCKS_A_PART, ROWS_A_BLOCK, Blocks, ClusterBlocks, LocalBlocks, of_parts

NUM_ROWS = 5
PATHS = [f"file-{number}-of-{number % 4}" for number in range(13)]
NUMBERS = [
    (part * BLOCKS_A_PART + place) * ROWS_A_BLOCK for part, path in enumerate(PATHS) for place in range(int(path[-1]))
]


def blocks_in(path: str) -> Iterator[pa.Table]:
    """As many blocks as the path's last letter says."""
    for block in range(int(path[-1])):
        yield pa.table({"path": [path] * NUM_ROWS, "block": [block] * NUM_ROWS, "row": range(NUM_ROWS)})


def local(paths: Sequence[str]) -> Blocks:
    return LocalBlocks.loaded(len(paths), of_parts(paths, blocks_in))


def anew(paths: Sequence[str]) -> Blocks:
    return ClusterBlocks(len(paths), of_parts(paths, blocks_in))


def kept(paths: Sequence[str]) -> Blocks:
    return ClusterBlocks(len(paths), of_parts(paths, blocks_in)).kept()


KINDS = [local, pytest.param(anew, marks=pytest.mark.ray), pytest.param(kept, marks=pytest.mark.ray)]


def rows_of(table: pa.Table) -> list[tuple[str, int, int]]:
    return sorted((row["path"], row["block"], row["row"]) for row in table.to_pylist())


def every_row() -> list[tuple[str, int, int]]:
    return sorted((path, block, row) for path in PATHS for block in range(int(path[-1])) for row in range(NUM_ROWS))


def joined(parts: Sequence[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    return [found for part in parts for found in part]


@pytest.mark.parametrize("kind", KINDS)
def test_each_block_is_worked_on_once_under_its_own_number(kind: object, request: pytest.FixtureRequest) -> None:
    made = _of(kind, PATHS, request)
    assert rows_of(made.table()) == every_row()
    halved = made.map(lambda block, number: block.filter(pc.less(block.column("row"), 2)))
    found = halved.collect("counting", lambda block, number: [(number, block.num_rows)], joined)
    assert sorted(found or []) == [(number, 2) for number in NUMBERS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", [["path"], ["row", "block"]])
def test_rows_of_equal_keys_come_together(kind: object, keys: list[str], request: pytest.FixtureRequest) -> None:
    made = _of(kind, PATHS, request).together(keys, block_bytes=200)
    assert rows_of(made.table()) == every_row()
    found = made.collect(
        "counting",
        lambda block, number: [{tuple(row[key] for key in keys) for row in block.to_pylist()}],
        lambda parts: [group for part in parts for group in part],
    )
    groups = found or []
    assert sum(map(len, groups)) == len(set().union(*groups))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_read_is_a_table_without_columns(kind: object, request: pytest.FixtureRequest) -> None:
    made = _of(kind, ["file-of-0"], request)
    assert made.table().num_columns == 0
    assert made.collect("counting", lambda block, number: 1, sum) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_error_of_a_block_is_raised_as_one(kind: object, request: pytest.FixtureRequest) -> None:
    def refuse(block: pa.Table, number: int) -> int:
        raise DataError(f"{block.num_rows} rows are too few")

    with pytest.raises(DataError, match=r"^5 rows are too few$"):
        _of(kind, ["one-of-1"], request).collect("refusing", refuse, sum)


@pytest.mark.ray
def test_rows_keep_their_numbers_however_ray_data_cuts_what_it_keeps(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DataContext.get_current(), "target_max_block_size", 100)
    made = kept(["large-of-9"])
    found = made.collect("numbering", lambda block, number: [(number, block.num_rows)], joined) or []
    assert sum(num_rows for _, num_rows in found) == 9 * NUM_ROWS
    assert len({number for number, _ in found}) == len(found) > 9
    assert {number // ROWS_A_BLOCK for number, _ in found} == set(range(9))


@pytest.mark.ray
def test_a_task_merges_what_many_parts_give(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "TASKS_A_PASS", 3)
    found = anew(PATHS).collect(
        "counting", lambda block, number: [(number, ray.get_runtime_context().get_task_id())], joined
    )
    assert sorted(number for number, _ in found or []) == NUMBERS
    assert len({task for _, task in found or []}) <= 4


def _of(kind: object, paths: Sequence[str], request: pytest.FixtureRequest) -> Blocks:
    assert callable(kind)
    if kind is not local:
        request.getfixturevalue("cluster")
    made: Blocks = kind(paths)
    return made
