"""Images changed by chance for training: turned, scaled, cropped, mirrored, with noise."""

import math

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from cluster.spec import Spec
from jobs.workloads.row_chance import AUGMENT_SALT, normal, uniform

MOVE, NOISE = AUGMENT_SALT, AUGMENT_SALT + 1
"""Salts."""


class ImageAugmentSpec(Spec):
    """What is changed by chance in every image of training, anew in each epoch. What an image is moved by shows its
    edge, repeated."""

    rotate_degrees: float = Field(0, ge=0, le=180)
    """Turned round its middle by up to so much either way."""
    scale: float = Field(0, ge=0, lt=1)
    """Made larger or smaller by up to this share."""
    crop_pixels: int = Field(0, ge=0)
    """Padded by so many pixels on each side and cropped to its size at any place."""
    flip: bool = False
    """Every other image is mirrored, left to right."""
    noise: float = Field(0, ge=0)
    """The standard deviation of normal noise, where that of a channel's pixels in training is 1."""

    @property
    def moves(self) -> bool:
        """Whether pixels change their places."""
        return bool(self.rotate_degrees or self.scale or self.crop_pixels or self.flip)


def augmented(spec: ImageAugmentSpec, images: Tensor, key: Tensor) -> Tensor:
    """Images as training sees them.

    Args:
        images: [rows, channels, height, width], float.
        key: a number of each row's own in this step [rows], int64.
    """
    if spec.moves:
        turn, size, mirror, *crop = uniform(key, 5, MOVE).double().unbind(1)
        num_places = 2 * spec.crop_pixels + 1
        images = moved(
            images,
            degrees=spec.rotate_degrees * (2 * turn - 1),
            scale=1 + spec.scale * (2 * size - 1),
            shift=(torch.stack(crop, dim=1) * num_places).floor() - spec.crop_pixels,
            mirrored=(mirror < 0.5) & spec.flip,
        )
    if spec.noise:
        images = images + spec.noise * normal(key, math.prod(images.shape[1:]), NOISE).view_as(images)
    return images


def moved(images: Tensor, degrees: Tensor, scale: Tensor, shift: Tensor, mirrored: Tensor) -> Tensor:
    """Each image mirrored, then turned and scaled round its middle, then shifted; between pixels it is bilinear.

    Args:
        images: [rows, channels, height, width], float.
        degrees: to the right [rows].
        scale: 2 is twice as large [rows].
        shift: in pixels to the right and down [rows, 2].
        mirrored: left to right [rows], bool.
    """
    height, width = images.shape[2:]
    cosine, sine = (degrees * math.pi / 180).cos() / scale, (degrees * math.pi / 180).sin() / scale
    side = 1 - 2 * mirrored.to(scale.dtype)
    # The way back: from a place in the new image, in pixels from the middle, to the one in the old image.
    back = torch.stack([side * cosine, side * sine, -sine, cosine], dim=1).view(-1, 2, 2)
    start = -(back @ shift[:, :, None])
    half = torch.tensor([width, height], dtype=scale.dtype) / 2  # torch counts from -1 to 1 along each side
    theta = torch.cat([back * half / half[:, None], start / half[:, None]], dim=2).to(images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
