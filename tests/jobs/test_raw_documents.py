"""Files that are a row each, up to prepared rows: texts, and images in folders."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

from cluster.storage import Storage
from jobs import prepare
from jobs.features.columns import REASON, Column, check_rows
from jobs.prepared import read_split
from jobs.raw import check_headers, parts_of, read_blocks
from jobs.spec import RingSpec

DOCUMENT = (Column("document", "id"), Column("text", "text"))
PICTURE = (Column("id", "id"), Column("image", "image"), Column("label", "id"))
NUM_DIGITS = 60


def checked(storage: Storage, columns: tuple[Column, ...]) -> pa.Table:
    paths = [info.path for info in storage.files("raw")]
    check_headers(storage, paths, columns)
    blocks = [
        block for path in paths for part in parts_of(storage, path) for block in read_blocks(storage, part, columns)
    ]
    return pa.concat_tables(check_rows(block.rows, columns) for block in blocks)


def test_a_text_file_is_a_document_named_by_the_file(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("raw/On growth.txt", "Grüße, 世界\nline two".encode())
    storage.write("raw/broken.txt", b"\xff\xfe")
    rows = checked(storage, DOCUMENT).to_pylist()
    assert {row["document"]: row["text"] for row in rows} == {"On growth": "Grüße, 世界\nline two", "broken": None}
    assert next(row[REASON] for row in rows if row["document"] == "broken").endswith("is no text")


def test_an_image_is_labelled_by_its_folder_and_a_broken_one_is_said(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("raw/cats/1.png", png(np.zeros((2, 2), np.uint8)))
    storage.write("raw/dogs/1.JPG", b"no image")
    good, bad = checked(storage, PICTURE).to_pylist()
    assert (good["id"], good["label"], good["image"], good[REASON]) == (
        "cats/1.png",
        "cats",
        png(np.zeros((2, 2), np.uint8)),
        None,
    )
    assert bad[REASON] == "image 'b'no image'' is no image of 67,108,864 pixels at most that can be decoded"


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def test_digits_as_files_in_folders_are_prepared_as_digits_in_a_table(tmp_path: Path) -> None:
    digits = load_digits()
    pixels = (digits.images[:NUM_DIGITS] * 15).astype(np.uint8)
    files, table = Storage(str(tmp_path / "files")), Storage(str(tmp_path / "table"))
    ids = []
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=False)):
        ids.append(f"{label}/{number:03d}.png")
        files.write(f"raw/{label}/{number:03d}.png", png(image))
    files.write("raw/3/broken.png", png(pixels[0])[:40])
    (tmp_path / "table" / "raw").mkdir(parents=True)
    lists = pa.array(pixels.reshape(NUM_DIGITS, -1).tolist(), pa.list_(pa.uint8()))
    labels = [str(label) for label in digits.target[:NUM_DIGITS]]
    pq.write_table(pa.table({"id": ids, "image": lists, "label": labels}), tmp_path / "table/raw/digits.parquet")
    step = {"kind": "image", "column": "image", "output": "image", "height": 8, "width": 8, "channels": 1}
    made = [prepared(files, [step]), prepared(table, [])]
    assert made[0] == made[1]
    (refused,) = files.files("quarantine")
    assert pq.read_table(refused.path).column("row").to_pylist() == [
        str({"id": "3/broken.png", "image": "40 bytes", "label": "3"})
    ]
    assert len(made[0]) == NUM_DIGITS


def prepared(storage: Storage, steps: list[dict[str, object]]) -> list[dict[str, object]]:
    """The rows of all splits, in the order of their ids."""
    split = {"by": "hash", "valid": 0.2, "test": 0.2}
    spec = RingSpec.model_validate_json(
        json.dumps(
            {
                "name": "digits",
                "storage": storage.uri,
                "raw": {"events": {"path": "raw"}},
                "prepare": {"split": split, "steps": steps},
                "workload": {"kind": "vision", "height": 8, "width": 8, "block_channels": [4]},
                "train": {"early_stopping": {"metric": "log_loss", "mode": "min"}},
            }
        )
    )
    folder = prepare.run(spec, storage).folder
    splits = [read_split(storage, folder, name, ("id",)) for name in ("train", "valid", "test")]
    rows = [row for split in splits for row in split.select(["id", "pixels", "class"]).to_pylist()]
    return sorted(rows, key=lambda row: str(row["id"]))
