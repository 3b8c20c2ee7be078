import base64
import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image as PillowImage

from jobs.features.image import Image
from tests.jobs.features.fitting import made, table

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    PillowImage.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def pictures(*values: bytes | None) -> pa.Table:
    return table(x=pa.array(values, pa.binary()))


def test_pixels_come_channel_by_channel_and_row_by_row() -> None:
    step = Image(column="x", output="y", height=6, width=4)
    found = made(step, pictures(encoded(PIXELS), None))["y"]
    assert found == [PIXELS.transpose(2, 0, 1).reshape(-1).astype(float).tolist(), None]
    assert step.apply(pictures(encoded(PIXELS))).column("y").type == pa.list_(pa.float32())


def test_nothing_but_missing_images_is_lists_that_are_missing() -> None:
    assert made(Image(column="x", output="y", height=2, width=2), pictures(None, None))["y"] == [None, None]


def test_grey_weighs_colours_as_itu_r_601_and_the_highest_may_be_1() -> None:
    step = Image(column="x", output="y", height=6, width=4, channels=1, highest=1)
    grey = PIXELS.astype(float) @ [0.299, 0.587, 0.114]
    assert made(step, pictures(encoded(PIXELS)))["y"][0] == pytest.approx((grey / 255).reshape(-1), abs=1.01 / 255)


@pytest.mark.parametrize(
    ("fit", "box"),
    [("stretch", None), ("crop", (slice(1, 5), slice(0, 4))), ("pad", None)],
)
def test_an_image_of_another_shape_is_made_to_fit(fit: str, box: tuple[slice, slice] | None) -> None:
    step = Image.model_validate({"column": "x", "output": "y", "height": 4, "width": 4, "fit": fit})
    found = np.array(made(step, pictures(encoded(PIXELS)))["y"][0]).reshape(3, 4, 4)
    if box:
        np.testing.assert_array_equal(found, PIXELS[box].transpose(2, 0, 1))
    elif fit == "stretch":
        halves = PillowImage.fromarray(PIXELS).resize((4, 4), PillowImage.Resampling.BILINEAR)
        np.testing.assert_array_equal(found, np.asarray(halves).transpose(2, 0, 1))
    else:
        assert not found[:, :, 3].any() or not found[:, :, 0].any()  # black beside what is narrower
        assert found.any()


def test_a_picture_is_turned_as_its_camera_says() -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    step = Image(column="x", output="y", height=4, width=6)
    found = np.array(made(step, pictures(encoded(PIXELS, exif=exif)))["y"][0]).reshape(3, 4, 6)
    np.testing.assert_array_equal(found, np.rot90(PIXELS, -1).transpose(2, 0, 1))


def test_a_row_may_bring_text_and_what_is_no_image_is_missing() -> None:
    step = Image(column="x", output="y", height=6, width=4)
    text = base64.b64encode(encoded(PIXELS)).decode()
    assert step.apply_row({"x": text}) == step.apply_row({"x": encoded(PIXELS)})
    assert step.apply_row({"x": "?"}) == {"y": None}
