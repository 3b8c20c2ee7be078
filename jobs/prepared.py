"""Reading what prepare wrote: the rows of a split in one order for good, and the fitted transform."""

import pyarrow as pa
import pyarrow.dataset as ds

from cluster.storage import Storage
from jobs.features.split import SPLIT, TrainRows
from jobs.features.transform import Transform


def read_split(storage: Storage, folder: str, split: str, order: tuple[str, ...]) -> pa.Table:
    """All rows of a split, sorted by `order`, which no two rows share: so row i is the same row wherever it is read."""
    paths = [info.path for info in storage.files(f"{folder}/{split}")]
    table = ds.dataset(paths, filesystem=storage.filesystem, format="parquet").to_table()
    return table.sort_by([(name, "ascending") for name in order]).combine_chunks()


def read_train(storage: Storage, folder: str, order: tuple[str, ...]) -> TrainRows:
    """The training rows, marked as such."""
    table = read_split(storage, folder, "train", order)
    return TrainRows(table.append_column(SPLIT, pa.array(["train"] * table.num_rows, pa.string())))


def read_transform(storage: Storage, folder: str) -> Transform:
    """The transform that was fitted on the training rows."""
    with storage.as_local(folder) as local:
        return Transform.load(local)
