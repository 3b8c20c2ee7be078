"""Image: the pixels of an image file, all of one size, as a model takes them."""

import io
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image as PillowImage
from PIL import ImageOps
from pydantic import Field

from jobs.features.arrays import one_array
from jobs.features.step import Step, put
from jobs.features.values import IMAGE_FORMATS, ColumnKind, image_bytes

_BYTE = 255


class Image(Step):
    """Decodes, turns as the camera says, resizes bilinearly, and lists the pixels channel by channel, in each row by
    row. Nothing is learned; `scaling` of lists normalises."""

    kind: Literal["image"] = "image"
    column: str
    output: str
    height: int = Field(ge=1)
    """In pixels."""
    width: int = Field(ge=1)
    channels: Literal[1, 3] = 3
    """1 is grey, 3 are colours."""
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    """An image of another shape is stretched, cut around its middle, or surrounded by black."""
    highest: Literal[1, 255] = 255
    """What the brightest pixel becomes."""

    @property
    def learns(self) -> bool:
        """Nothing."""
        return False

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The file's content."""
        return {self.column: "image"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The pixels."""
        return {self.output: "numbers"}

    @property
    def size(self) -> int:
        """How many numbers an image has."""
        return self.channels * self.height * self.width

    def apply(self, table: pa.Table) -> pa.Table:
        """Lists of float32; missing where there is no image."""
        column = table.column(self.column)
        found = [self._pixels(value) for value in column.drop_null().to_pylist()]
        flat = np.concatenate(found) if found else np.array([], np.float32)
        sizes = column.is_valid().to_numpy().astype(np.int64) * self.size
        offsets = pa.array(np.append(0, np.cumsum(sizes)), pa.int32())
        mask = one_array(column.is_null()) if column.null_count else None
        return put(table, self.output, pa.ListArray.from_arrays(offsets, pa.array(flat), mask=mask))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A list of numbers; None where there is no image, or text that is none. Bytes are of a column that was typed,
        as those of `apply`."""
        value = row[self.column]
        content = image_bytes(value) if isinstance(value, str) else value
        return {self.output: None if content is None else self._pixels(content).tolist()}

    def _pixels(self, content: bytes) -> np.ndarray:
        """[channels * height * width] float32."""
        mode = "L" if self.channels == 1 else "RGB"
        with PillowImage.open(io.BytesIO(content), formats=IMAGE_FORMATS) as opened:
            ImageOps.exif_transpose(opened, in_place=True)
            image = opened if opened.mode == mode else opened.convert(mode)  # no copy: it may be of many pixels
        size, how = (self.width, self.height), PillowImage.Resampling.BILINEAR
        if self.fit == "crop":
            image = ImageOps.fit(image, size, how)
        elif self.fit == "pad":
            image = ImageOps.pad(image, size, how)
        elif image.size != size:
            image = image.resize(size, how)
        pixels = np.asarray(image, np.float32).reshape(self.height, self.width, self.channels).transpose(2, 0, 1)
        scaled: np.ndarray = pixels.reshape(-1) * np.float32(self.highest / _BYTE)
        return scaled
