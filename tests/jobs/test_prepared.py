import pickle
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
from jobs.prepared import Split, open_split, read_split, read_train, read_transform
from tests.s3 import CREDENTIALS, S3Server

TIES = ("user_id", "item_id")
NUM_ROWS = 60
ROW_GROUP_ROWS = 7


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
        pq.write_table(table.take(part), folder / f"{draw.integers(2**32):08x}.parquet", row_group_size=ROW_GROUP_ROWS)


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


def in_files(folder: Path) -> pa.Table:
    """The rows of all files, in the order of their names."""
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.iterdir()))


def drawn_numbers(seed: int, num_numbers: int = 100) -> np.ndarray:
    """Row numbers in any order, some of them more than once."""
    return np.random.default_rng(seed).integers(0, NUM_ROWS, num_numbers)


def opened(folder: Path) -> Split:
    """Three files of 20 rows: row groups of 7, 7 and 6 each."""
    write(folder / "x/train", rows(), (20, 20, 20), 0)
    return open_split(Storage(str(folder)), "x", "train")


@pytest.mark.parametrize("sizes", [(NUM_ROWS,), (1, NUM_ROWS - 1), (20, 20, 20), (0, 7, 0, 50, 3, 0), (14, 21, 25)])
def test_rows_by_number_are_those_of_the_files_in_the_order_of_their_names(
    tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    for seed in range(4):  # each gives the files other names
        write(tmp_path / f"{seed}/train", rows(), sizes, seed)
        split, table = open_split(Storage(str(tmp_path)), str(seed), "train"), in_files(tmp_path / f"{seed}/train")
        assert split.num_rows == NUM_ROWS
        for numbers in (drawn_numbers(seed), drawn_numbers(seed, 3), np.arange(NUM_ROWS), np.arange(NUM_ROWS)[::-1]):
            assert split.take(numbers).equals(table.take(numbers))


def test_every_single_row_is_had_by_its_number(tmp_path: Path) -> None:
    split = opened(tmp_path)
    table = in_files(tmp_path / "x/train")
    for number in range(NUM_ROWS):
        assert split.take(np.array([number])).equals(table.slice(number, 1))


def test_a_split_opens_only_the_files_that_hold_a_wanted_row(tmp_path: Path) -> None:
    split = opened(tmp_path)
    table = in_files(tmp_path / "x/train")
    first, middle, last = sorted((tmp_path / "x/train").iterdir())
    middle.unlink()
    last.write_bytes(b"no longer a file of rows")
    assert split.take(np.array([19, 0, 7, 0])).equals(table.take([19, 0, 7, 0]))
    for number in (20, 39):
        with pytest.raises(FileNotFoundError, match=middle.name):
            split.take(np.array([0, number]))
    with pytest.raises(pa.ArrowInvalid, match="Parquet"):
        split.take(np.array([40]))
    assert first.exists()


def test_a_split_reads_only_the_row_groups_that_hold_a_wanted_row(tmp_path: Path) -> None:
    split = opened(tmp_path)
    table = in_files(tmp_path / "x/train")
    first = sorted((tmp_path / "x/train").iterdir())[0]
    footer, content = pq.read_metadata(first), bytearray(first.read_bytes())
    start = footer.row_group(1).column(0).dictionary_page_offset
    end = footer.row_group(2).column(0).dictionary_page_offset
    content[start:end] = bytes(end - start)
    first.write_bytes(content)
    numbers = np.array([0, 6, 14, 19, 50])
    assert split.take(numbers).equals(table.take(numbers))
    with pytest.raises(OSError, match="page header"):
        split.take(np.array([7]))


def test_opening_a_split_finds_its_row_groups_and_how_large_they_are(tmp_path: Path) -> None:
    split = opened(tmp_path)
    paths = [str(path) for path in sorted((tmp_path / "x/train").iterdir())]
    assert [(group.path, group.number, group.num_rows) for group in split.groups] == [
        (path, number, num_rows) for path in paths for number, num_rows in enumerate((7, 7, 6))
    ]
    for group in split.groups:
        footer = pq.read_metadata(group.path).row_group(group.number)
        columns = [footer.column(column) for column in range(footer.num_columns)]
        assert group.num_bytes == sum(column.total_uncompressed_size for column in columns) > 0
    assert split.row_bytes * NUM_ROWS == pytest.approx(sum(group.num_bytes for group in split.groups))


def test_rows_of_a_wide_column_weigh_what_they_hold(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    wide = pa.table({"image": [draw.bytes(10_000) for _ in range(NUM_ROWS)]})
    write(tmp_path / "x/train", wide, (25, 35), 0)
    assert open_split(Storage(str(tmp_path)), "x", "train").row_bytes == pytest.approx(10_000, rel=0.05)


def test_a_split_goes_to_another_process_with_its_rows_by_number(tmp_path: Path) -> None:
    split = opened(tmp_path)
    numbers = drawn_numbers(0)
    taken = split.take(numbers)
    again = pickle.loads(pickle.dumps(split))
    assert again == split
    assert again.take(numbers).equals(taken)


@pytest.mark.services
def test_a_split_on_s3_is_taken_by_number_and_travels_without_credentials(s3: S3Server, tmp_path: Path) -> None:
    write(tmp_path / "train", rows(), (20, 0, 40), 0)
    storage = s3.storage("split")
    storage.upload(tmp_path / "train", "prepared/x/train")
    split, numbers = open_split(storage, "prepared/x", "train"), drawn_numbers(0)
    assert split.take(numbers).equals(in_files(tmp_path / "train").take(numbers))
    pickled = pickle.dumps(split)
    assert not [name for name, secret in CREDENTIALS.items() if secret.encode() in pickled]
    assert pickle.loads(pickled).take(numbers).equals(split.take(numbers))


@pytest.mark.services
def test_a_split_on_s3_asks_for_none_of_the_files_that_hold_no_wanted_row(s3: S3Server, tmp_path: Path) -> None:
    write(tmp_path / "train", rows(), (20, 20, 20), 0)
    storage = s3.storage("split-reads")
    storage.upload(tmp_path / "train", "prepared/x/train")
    split = open_split(storage, "prepared/x", "train")
    for info in storage.files("prepared/x/train")[1:]:
        storage.remove(info.path.removeprefix(f"{storage.path('')}/"))
    numbers = np.array([19, 0, 7])
    assert split.take(numbers).equals(in_files(tmp_path / "train").take(numbers))
    with pytest.raises(FileNotFoundError):
        split.take(np.array([20]))


def test_training_rows_come_marked_so_that_steps_can_be_fitted_on_them(tmp_path: Path) -> None:
    write(tmp_path / "x/train", rows(), (30, 30), 0)
    train = read_train(Storage(str(tmp_path)), "x", TIES)
    assert isinstance(train, TrainRows)
    assert train.table.column(SPLIT).unique().to_pylist() == ["train"]
    assert train.table.drop_columns([SPLIT]).equals(rows())


def test_the_transform_reads_back_as_it_was_fitted(tmp_path: Path) -> None:
    train = TrainRows(rows().append_column(SPLIT, pa.array(["train"] * NUM_ROWS)))
    unfitted = Transform((Vocabulary(column="user_id", output="user"), Vocabulary(column="item_id", output="item")))
    fitted = unfitted.fit([train])
    (tmp_path / "x").mkdir()
    fitted.save(tmp_path / "x")
    read = read_transform(Storage(str(tmp_path)), "x")
    assert read.apply(rows()).equals(fitted.apply(rows()))
    assert set(read.apply(rows()).column("user").to_pylist()) == set(range(1, 13))
