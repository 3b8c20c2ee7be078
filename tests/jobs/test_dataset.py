"""Ray Data as the stages use it, on the suite's cluster."""

from collections.abc import Iterator

import pyarrow as pa
import pytest
from ray.data import DataContext
from ray.exceptions import RayError

from cluster.errors import DataError, user_error_in
from cluster.lifecycle import Cluster
from jobs.dataset import as_table, each

NUM_ROWS = 5
PATHS = [f"file-{number}-of-{number % 4}" for number in range(13)]


def blocks_in(path: str) -> Iterator[pa.Table]:
    """As many blocks as the path's last letter says."""
    for block in range(int(path[-1])):
        yield pa.table({"path": [path] * NUM_ROWS, "block": [block] * NUM_ROWS, "row": range(NUM_ROWS)})


def rows_of(table: pa.Table) -> list[tuple[str, int, int]]:
    return sorted((row["path"], row["block"], row["row"]) for row in table.to_pylist())


def every_row() -> list[tuple[str, int, int]]:
    return sorted((path, block, row) for path in PATHS for block in range(int(path[-1])) for row in range(NUM_ROWS))


@pytest.mark.ray
def test_every_block_of_every_file_comes_out_once_also_beside_files_without_any(cluster: Cluster) -> None:
    assert rows_of(as_table(each(PATHS, blocks_in))) == every_row()


@pytest.mark.ray
def test_files_without_any_block_are_a_table_without_columns(cluster: Cluster) -> None:
    table = as_table(each(["file-of-0", "other-of-0"], blocks_in))
    assert (table.num_rows, table.num_columns) == (0, 0)


@pytest.mark.ray
def test_a_large_file_comes_in_several_blocks(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataContext.get_current(), "target_max_block_size", 1024)
    rows = each(["large-of-9"], blocks_in).materialize()
    assert rows.num_blocks() > 1
    assert rows.count() == 9 * NUM_ROWS


@pytest.mark.ray
def test_a_user_error_of_reading_is_raised_as_one(cluster: Cluster) -> None:
    def read(path: str) -> Iterator[pa.Table]:
        raise DataError(f"{path} is broken")

    with pytest.raises(DataError, match=r"^file is broken$"):
        as_table(each(["file"], read))
    with pytest.raises(RayError) as raised:
        each(["file"], read).materialize()
    assert repr(user_error_in(raised.value)) == "DataError('file is broken')"
