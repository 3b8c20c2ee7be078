"""Files that are a row each: texts, and images in folders named by what they show."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import pyarrow as pa

from cluster.storage import Storage
from jobs.features.columns import Column
from jobs.raw_block import Part, RawBlock

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
"""Of images."""
_DOCUMENT = pa.schema([("document", pa.string()), ("text", pa.binary())])
_IMAGE = pa.schema([("id", pa.string()), ("image", pa.binary()), ("label", pa.string())])


def document_header(storage: Storage, path: str) -> pa.Schema:
    """`document`, the name of the file without its ending, and `text`, all that is in it."""
    return _DOCUMENT


def documents(storage: Storage, part: Part, columns: Sequence[Column]) -> Iterator[RawBlock]:
    """The one row of a text file."""
    name = PurePosixPath(part.path)
    yield _row(_DOCUMENT, columns, name.stem, _content(storage, part))


def image_header(storage: Storage, path: str) -> pa.Schema:
    """`id`, the folder and the name of the file; `image`, its bytes; `label`, the name of the folder."""
    return _IMAGE


def images(storage: Storage, part: Part, columns: Sequence[Column]) -> Iterator[RawBlock]:
    """The one row of an image file."""
    name = PurePosixPath(part.path)
    yield _row(_IMAGE, columns, f"{name.parent.name}/{name.name}", _content(storage, part), name.parent.name)


def _content(storage: Storage, part: Part) -> bytes:
    with storage.open(part.path) as file:
        return bytes(file.read())


def _row(schema: pa.Schema, columns: Sequence[Column], *values: str | bytes) -> RawBlock:
    wanted = {column.in_files for column in columns}
    row = pa.table({name: [value] for name, value in zip(schema.names, values, strict=True)}, schema)
    return RawBlock(row.select([name for name in schema.names if name in wanted]))
