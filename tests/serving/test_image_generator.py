import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cluster.errors import RegistryError
from cluster.registry import Registry
from jobs import compress
from jobs.spec import CompressSpec
from jobs.version import read
from serving.image_generator import ImageGenerator, as_png
from tests.serving.pictures import Pictures


def test_golden_images_that_differ_are_refused_with_the_distance(pictures: Pictures, tmp_path: Path) -> None:
    with Registry(pictures.storage, "gan").open(pictures.version) as folder:
        content = read(folder)
    ImageGenerator("v7", "", content).check_golden()
    pixels = content.golden.column("pixels").to_pylist()
    pixels[2][5] += 0.25
    golden = content.golden.set_column(1, "pixels", pa.array(pixels, pa.list_(pa.float32())))
    message = r"version v7 makes image 2 of seed 1 unlike it did in training: a pixel is 0\.25 off, and may be 0\.0001"
    with pytest.raises(RegistryError, match=message):
        ImageGenerator("v7", "", replace(content, golden=golden)).check_golden()
    with torch.no_grad():
        next(content.model.parameters()).fill_(float("nan"))
    with pytest.raises(RegistryError, match=r"image 0 of seed 1 .* a pixel is nan off"):
        ImageGenerator("v7", "", content).check_golden()


@pytest.mark.parametrize(
    "given", [CompressSpec(), CompressSpec(method="int8_weights"), CompressSpec(method="prune", share=0.3)]
)
def test_a_smaller_version_makes_its_own_golden_images(given: CompressSpec, pictures: Pictures) -> None:
    made = compress.run(pictures.spec.model_copy(update={"compress": given}), pictures.storage)
    registry = Registry(pictures.storage, "gan")
    parent, smaller = (
        ImageGenerator.load(registry, version) for version in (pictures.version, made.folder.rpartition("/")[2])
    )
    distance = (parent.pixels(1, 20) - smaller.pixels(1, 20)).abs().max()
    assert 0 < distance < 0.3


@pytest.mark.parametrize(("shape", "mode"), [((1, 2, 3), "L"), ((3, 2, 3), "RGB")])
def test_an_image_is_written_channel_by_channel_without_loss(shape: tuple[int, int, int], mode: str) -> None:
    levels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) * 14
    read_again = Image.open(io.BytesIO(as_png(torch.tensor(levels / 255).flatten(), shape)))
    assert read_again.mode == mode
    pixels = np.asarray(read_again).reshape(2, 3, shape[0]).transpose(2, 0, 1)
    assert pixels.tolist() == levels.tolist()
