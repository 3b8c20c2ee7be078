import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Storage
from jobs.features.survey import survey
from jobs.prepared_files import Written, by_split, merge_written, write_block

ROWS = pa.table(
    {
        "id": ["a", "b", "c", "d"],
        "x": [1.0, 2.0, 3.0, 4.0],
        "split": ["train", "train", "valid", "test"],
        "y": [0, 1, 2, 3],
    }
)


def written(storage: Storage, rows: pa.Table, number: int) -> Written:
    made = by_split(rows)
    surveys = {name: survey(of_split, ("id",)) for name, of_split in made.items()}
    return Written(write_block(storage, "made", made, number), survey(rows, ("id",)), surveys, number, 1)


def test_a_block_is_a_file_a_split(tmp_path: Path) -> None:
    digests = write_block(Storage(str(tmp_path)), "made", by_split(ROWS), 0x20)
    name = f"{0x20:018x}.parquet"
    train, test = (pq.read_table(tmp_path / "made" / split / name) for split in ("train", "test"))
    assert train.to_pydict() == {"id": ["a", "b"], "x": [1.0, 2.0], "y": [0, 1]}
    assert test.to_pydict() == {"id": ["d"], "x": [4.0], "y": [3]}
    assert set(digests) == {f"{split}/{name}" for split in ("train", "valid", "test")}
    for path, digest in digests.items():
        assert hashlib.sha256((tmp_path / "made" / path).read_bytes()).hexdigest() == digest


def test_a_split_without_rows_has_no_file_and_parts_add_up(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    both = merge_written([written(storage, ROWS.slice(0, size), size) for size in (2, 4)])
    assert both.num_rows == {"train": 4, "valid": 1, "test": 1}
    assert (both.read.num_rows, both.num_left_out, both.num_added) == (6, 6, 2)
    assert sorted(both.sha256) == sorted(info.path.removeprefix(f"{tmp_path}/made/") for info in storage.files("made"))
