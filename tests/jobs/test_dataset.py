"""Ray Data as the stages use it, on the suite's cluster."""

import logging
import sys
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from ray.data import DataContext

from cluster.lifecycle import Cluster
from jobs.dataset import as_table, each_file, map_blocks

NUM_ROWS = 5


def blocks_of(path: str) -> Iterator[pa.Table]:
    """As many blocks as the path's last letter says."""
    for block in range(int(path[-1])):
        yield pa.table({"path": [path] * NUM_ROWS, "block": [block] * NUM_ROWS, "row": range(NUM_ROWS)})


def rows_of(table: pa.Table) -> list[tuple[str, int, int]]:
    return [(row["path"], row["block"], row["row"]) for row in table.to_pylist()]


@pytest.mark.ray
def test_every_block_of_every_file_comes_out_once(cluster: Cluster) -> None:
    paths = [f"file-{number}-{number % 4}" for number in range(13)]
    expected = [
        (path, block, row) for path in paths for block in range(int(path[-1])) for row in range(NUM_ROWS)
    ]
    assert sorted(rows_of(as_table(each_file(paths, blocks_of)))) == sorted(expected)


@pytest.mark.ray
def test_a_file_is_not_held_in_memory_as_a_whole(cluster: Cluster) -> None:
    num_blocks, block_bytes = 40, 16 * 1024 * 1024

    def read(path: str) -> Iterator[pa.Table]:
        for _ in range(num_blocks):
            yield pa.table({"byte": pa.array(bytes(block_bytes), pa.uint8())})

    sizes = each_file(["only"], read).map_batches(
        lambda block: pa.table({"size": [block.num_rows]}), batch_size=None, batch_format="pyarrow"
    )
    assert as_table(sizes).column("size").to_pylist() == [block_bytes] * num_blocks
