"""The two networks of a GAN for small images, after DCGAN (Radford et al., 2016).

GroupNorm (Wu and He, 2018) stands where they have batch normalisation, as in `vision`.
"""

from itertools import pairwise
from math import gcd

from torch import Tensor, nn

NUM_GROUPS = 8
"""Of the channels that are normalised together, or as many as divide them."""
SLOPE = 0.2
"""Of the discriminator's LeakyReLU below 0."""
FIRST_SD = 0.02
"""Of the first weights of convolutions."""


class ImageGenerator(nn.Module):
    """Noise as images; each block doubles height and width."""

    def __init__(self, noise_dim: int, block_channels: tuple[int, ...], shape: tuple[int, int, int]) -> None:
        """`shape` is that of an image: channels, height, width."""
        super().__init__()
        channels, height, width = shape
        times = 2 ** len(block_channels)
        self.first_shape = (block_channels[0], height // times, width // times)
        num_first = block_channels[0] * self.first_shape[1] * self.first_shape[2]
        self.first = nn.Linear(noise_dim, num_first)
        self.first_norm = _norm(block_channels[0])
        inner = [
            nn.Sequential(_doubling(before, after, bias=False), _norm(after), nn.ReLU())
            for before, after in pairwise(block_channels)
        ]
        self.blocks = nn.Sequential(*inner, _doubling(block_channels[-1], channels, bias=True))

    def forward(self, noise: Tensor) -> Tensor:
        """[rows, noise_dim] -> pixels from 0 to 1 [rows, channels * height * width]."""
        hidden = self.first_norm(self.first(noise).unflatten(1, self.first_shape)).relu()
        pixels: Tensor = self.blocks(hidden).flatten(1).sigmoid()  # no view at the end, of which FSDP2 would warn
        return pixels


class Discriminator(nn.Module):
    """Images as a number each, the higher the more real; each block halves height and width."""

    def __init__(self, block_channels: tuple[int, ...], shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        channels, height, width = shape
        times = 2 ** len(block_channels)
        inner = [
            nn.Sequential(_halving(before, after, bias=False), _norm(after), nn.LeakyReLU(SLOPE))
            for before, after in pairwise(block_channels)
        ]
        self.blocks = nn.Sequential(_halving(channels, block_channels[0], bias=True), nn.LeakyReLU(SLOPE), *inner)
        self.output = nn.Linear(block_channels[-1] * (height // times) * (width // times), 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels from 0 to 1 [rows, channels * height * width] -> logits [rows, 1]."""
        images = 2 * pixels.unflatten(1, self.shape) - 1
        logits: Tensor = self.output(self.blocks(images).flatten(1))
        return logits


def _doubling(num_inputs: int, num_outputs: int, bias: bool) -> nn.ConvTranspose2d:
    convolution = nn.ConvTranspose2d(num_inputs, num_outputs, 4, stride=2, padding=1, bias=bias)
    nn.init.normal_(convolution.weight, std=FIRST_SD)
    return convolution


def _halving(num_inputs: int, num_outputs: int, bias: bool) -> nn.Conv2d:
    convolution = nn.Conv2d(num_inputs, num_outputs, 4, stride=2, padding=1, bias=bias)
    nn.init.normal_(convolution.weight, std=FIRST_SD)
    return convolution


def _norm(num_channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(NUM_GROUPS, num_channels), num_channels)
