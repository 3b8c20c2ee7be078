from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.storage import Storage
from jobs.features.split import SPLIT, TrainRows
from jobs.features.transform import Transform
from jobs.features.vocabulary import Vocabulary
from jobs.prepared import read_split, read_train, read_transform

TIES = ("user_id", "item_id")
NUM_ROWS = 60


def rows() -> pa.Table:
    """Rows sorted by their ties, as text: u1, u10, u11, u2, ..."""
    numbers = range(NUM_ROWS)
    table = pa.table(
        {
            "user_id": [f"u{number % 12}" for number in numbers],
            "item_id": [f"i{number // 12}" for number in numbers],
            "rating": [float(number) for number in numbers],
        }
    )
    return table.sort_by([(name, "ascending") for name in TIES])


def write(folder: Path, table: pa.Table, sizes: Sequence[int], seed: int) -> None:
    """Shuffle the rows into files of these sizes, with names in no order."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    order = draw.permutation(table.num_rows)
    for part in np.split(order, np.cumsum(sizes)[:-1]):
        pq.write_table(table.take(part), folder / f"{draw.integers(2**32):08x}.parquet", row_group_size=7)


@pytest.mark.parametrize("sizes", [(NUM_ROWS,), (1, NUM_ROWS - 1), (20, 20, 20), (7, 0, 50, 3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_row_i_is_the_same_row_however_the_files_are_cut(tmp_path: Path, sizes: tuple[int, ...], seed: int) -> None:
    write(tmp_path / "prepared/x/valid", rows(), sizes, seed)
    table = read_split(Storage(str(tmp_path)), "prepared/x", "valid", TIES)
    assert table.equals(rows())
    assert table.column("rating").num_chunks == 1


def test_a_split_holds_its_own_rows_alone(tmp_path: Path) -> None:
    write(tmp_path / "x/train", rows().slice(0, 40), (40,), 0)
    write(tmp_path / "x/test", rows().slice(40), (10, 10), 0)
    storage = Storage(str(tmp_path))
    assert read_split(storage, "x", "train", TIES).equals(rows().slice(0, 40))
    assert read_split(storage, "x", "test", TIES).equals(rows().slice(40))


def test_training_rows_come_marked_so_that_steps_can_be_fitted_on_them(tmp_path: Path) -> None:
    write(tmp_path / "x/train", rows(), (30, 30), 0)
    train = read_train(Storage(str(tmp_path)), "x", TIES)
    assert isinstance(train, TrainRows)
    assert train.table.column(SPLIT).unique().to_pylist() == ["train"]
    assert train.table.drop_columns([SPLIT]).equals(rows())


def test_the_transform_reads_back_as_it_was_fitted(tmp_path: Path) -> None:
    train = TrainRows(rows().append_column(SPLIT, pa.array(["train"] * NUM_ROWS)))
    unfitted = Transform((Vocabulary("user_id", "user"), Vocabulary("item_id", "item")))
    fitted = unfitted.fitted([unfitted.statistics(train)])
    (tmp_path / "x").mkdir()
    fitted.save(tmp_path / "x")
    read = read_transform(Storage(str(tmp_path)), "x")
    assert read.apply(rows()).equals(fitted.apply(rows()))
    assert set(read.apply(rows()).column("user").to_pylist()) == set(range(1, 13))
