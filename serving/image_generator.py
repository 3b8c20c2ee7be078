"""ImageGenerator: a loaded version of the GAN, ready to make images of seeds."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cluster.errors import RegistryError
from jobs.workloads.gan import GanSpec, made_of
from serving.published import TOLERANCE, Published


class ImageGenerator(Published):
    """Images of one version."""

    @property
    def workload(self) -> GanSpec:
        """Of the spec the part on the model."""
        assert isinstance(self.spec.workload, GanSpec)
        return self.spec.workload

    @property
    def golden(self) -> tuple[int, int]:
        """The seed whose images in training are known, and how many of them."""
        return self._content.golden.column("seed")[0].as_py(), self._content.golden.num_rows

    def pixels(self, seed: int, num_images: int) -> Tensor:
        """The first images of a seed, from 0 to 1 [num_images, channels * height * width]."""
        return made_of(self.workload, self._content.model, seed, num_images)

    def images(self, seed: int, num_images: int) -> list[bytes]:
        """The same as PNG files."""
        return [as_png(pixels, self.workload.shape) for pixels in self.pixels(seed, num_images)]

    def check_golden(self) -> None:
        """Raise RegistryError unless the golden seeds make the images that they made in training."""
        golden = self._content.golden
        expected = torch.tensor(golden.column("pixels").to_pylist())
        seed = golden.column("seed")[0].as_py()
        apart = (self.pixels(seed, len(expected)) - expected).abs().amax(1)
        for number, distance in enumerate(apart.tolist()):
            if not distance <= TOLERANCE:  # so that NaN is refused, too
                raise RegistryError(
                    f"version {self.version} makes image {number} of seed {seed} unlike it did in training: a pixel is "
                    f"{distance:.6g} off, and may be {TOLERANCE:g}. Serve another version, or train this one again "
                    "with the code that runs here."
                )


def as_png(pixels: Tensor, shape: tuple[int, int, int]) -> bytes:
    """An image as a file.

    Args:
        pixels: from 0 to 1 [channels * height * width].
        shape: channels, 1 or 3, height and width.
    """
    levels = (pixels * 255).round().to(torch.uint8).view(shape).numpy()
    file = io.BytesIO()
    Image.fromarray(levels[0] if shape[0] == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))).save(file, "png")
    return file.getvalue()
