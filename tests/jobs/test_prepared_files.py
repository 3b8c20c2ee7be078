import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Storage
from jobs.prepared_files import merge_written, write_block

ROWS = pa.table(
    {
        "id": ["a", "b", "c", "d"],
        "x": [1.0, 2.0, 3.0, 4.0],
        "split": ["train", "train", "valid", "test"],
        "y": [0, 1, 2, 3],
    }
)


def test_a_block_is_a_file_a_split_and_test_rows_keep_all_columns(tmp_path: Path) -> None:
    written = write_block(Storage(str(tmp_path)), "made", ROWS, 0x20, ("id", "x"))
    assert written.num_rows == {"train": 2, "valid": 1, "test": 1}
    name = f"{0x20:018x}.parquet"
    train, test = (pq.read_table(tmp_path / "made" / split / name) for split in ("train", "test"))
    assert train.to_pydict() == {"id": ["a", "b"], "x": [1.0, 2.0]}
    assert test.to_pydict() == {"id": ["d"], "x": [4.0], "y": [3]}
    assert set(written.sha256) == {f"{split}/{name}" for split in ("train", "valid", "test")}
    for path, digest in written.sha256.items():
        assert hashlib.sha256((tmp_path / "made" / path).read_bytes()).hexdigest() == digest


def test_a_split_without_rows_has_no_file_and_parts_add_up(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    parts = [write_block(storage, "made", ROWS.slice(0, size), size, None) for size in (2, 4)]
    both = merge_written(parts)
    assert both.num_rows == {"train": 4, "valid": 1, "test": 1}
    assert sorted(both.sha256) == sorted(info.path.removeprefix(f"{tmp_path}/made/") for info in storage.files("made"))
