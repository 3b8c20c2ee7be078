"""What moves an image against NumPy and SciPy, and what is drawn against its distribution."""

from itertools import product

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage
from torch import Tensor

from jobs.workloads.image_augment import ImageAugmentSpec, augmented, moved

ALL = ImageAugmentSpec(rotate_degrees=30, scale=0.2, crop_pixels=2, flip=True, noise=0.3)


def images(num: int, height: int = 6, width: int = 6, channels: int = 2) -> Tensor:
    return torch.randn(num, channels, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def one(
    image: Tensor, degrees: float = 0, scale: float = 1, shift: tuple[float, float] = (0, 0), flip: bool = False
) -> np.ndarray:
    given = (torch.tensor([value], dtype=torch.float64) for value in (degrees, scale, shift))
    found: np.ndarray = moved(image[None], *given, torch.tensor([flip]))[0].numpy()
    return found


def by_scipy(image: np.ndarray, degrees: float, scale: float, shift: tuple[float, float], flip: bool) -> np.ndarray:
    """The same of one channel: mirrored, turned to the right and scaled round the middle, shifted."""
    image = image[:, ::-1] if flip else image
    turn = np.deg2rad(degrees)  # rows go down, so that to the right is from columns to rows
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / scale
    middle = (np.array(image.shape) - 1) / 2
    offset = middle - matrix @ (middle + shift[::-1])
    found: np.ndarray = ndimage.affine_transform(image, matrix, offset, order=1, mode="nearest")
    return found


def test_a_right_angle_turns_to_the_right_exactly() -> None:
    image = images(1)[0]
    np.testing.assert_allclose(one(image, degrees=90), np.rot90(image.numpy(), k=-1, axes=(1, 2)), atol=1e-12)


def test_a_mirrored_image_has_left_and_right_changed() -> None:
    image = images(1, 5, 7)[0]
    np.testing.assert_allclose(one(image, flip=True), image.numpy()[:, :, ::-1], atol=1e-12)


@pytest.mark.parametrize(("right", "down"), [(0, 0), (2, 0), (0, -3), (-1, 2), (7, 7)])
def test_a_shift_is_a_crop_of_the_image_padded_with_its_edge(right: int, down: int) -> None:
    image = images(1, 5, 7)[0]
    padded = np.pad(image.numpy(), ((0, 0), (7, 7), (7, 7)), mode="edge")
    expected = padded[:, 7 - down : 12 - down, 7 - right : 14 - right]
    np.testing.assert_allclose(one(image, shift=(right, down)), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("degrees", "scale", "shift", "flip"),
    [
        (20, 1, (0, 0), False),
        (0, 1.3, (0, 0), False),
        (0, 0.7, (1, -2), False),
        (-50, 0.9, (2, 1), True),
        (170, 1.2, (-1.5, 0.25), True),
    ],
)
def test_moving_is_what_scipy_makes_of_it(degrees: float, scale: float, shift: tuple[float, float], flip: bool) -> None:
    image = images(1, 7, 10)[0]
    found = one(image, degrees, scale, shift, flip)
    for channel, expected in enumerate(image.numpy()):
        np.testing.assert_allclose(found[channel], by_scipy(expected, degrees, scale, shift, flip), atol=1e-9)


def test_every_crop_comes_about_equally_often() -> None:
    image = images(1, 4, 5, 1)
    found = augmented(ImageAugmentSpec(crop_pixels=1), image.expand(9000, -1, -1, -1), torch.arange(9000))
    padded = np.pad(image[0, 0].numpy(), 1, mode="edge")
    counts = []
    for down, right in product(range(3), repeat=2):
        crop = torch.from_numpy(padded[down : down + 4, right : right + 5].copy())
        counts.append(int(((found[:, 0] - crop).abs() < 1e-9).flatten(1).all(1).sum()))
    assert sum(counts) == 9000
    assert max(abs(count - 1000) for count in counts) < 5 * (9000 / 9 * 8 / 9) ** 0.5


def test_half_of_the_images_are_mirrored() -> None:
    image = images(1)
    found = augmented(ImageAugmentSpec(flip=True), image.expand(4000, -1, -1, -1), torch.arange(4000))
    is_mirrored = ((found - image.flip(3)).abs() < 1e-9).flatten(1).all(1)
    is_same = ((found - image).abs() < 1e-9).flatten(1).all(1)
    assert bool((is_mirrored ^ is_same).all())
    assert abs(int(is_mirrored.sum()) - 2000) < 5 * 1000**0.5


def test_images_are_turned_by_up_to_the_degrees_either_way() -> None:
    """Seen by the middle of a spot that lies to the right of the image's."""
    spot = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    spot[..., 16, 28] = 1
    found = augmented(ImageAugmentSpec(rotate_degrees=40), spot.expand(2000, -1, -1, -1), torch.arange(2000))[:, 0]
    place = torch.arange(33, dtype=torch.float64) - 16
    mass = found.sum((1, 2))
    right, down = (found.sum(1) * place).sum(1) / mass, (found.sum(2) * place).sum(1) / mass
    degrees = torch.rad2deg(torch.atan2(down, right))
    assert 38 < degrees.max() < 42
    assert -42 < degrees.min() < -38
    assert abs(degrees.mean()) < 5 * 40 / 3**0.5 / 2000**0.5
    torch.testing.assert_close((right**2 + down**2).sqrt(), torch.full((2000,), 12.0).double(), atol=0.3, rtol=0)


def test_images_are_scaled_by_up_to_the_share_either_way() -> None:
    """Seen by the distance of a spot to the middle."""
    spot = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    spot[..., 16, 26] = 1
    found = augmented(ImageAugmentSpec(scale=0.3), spot.expand(2000, -1, -1, -1), torch.arange(2000))[:, 0]
    place = torch.arange(33, dtype=torch.float64) - 16
    distance = (found.sum(1) * place).sum(1) / found.sum((1, 2))
    assert 6.6 < distance.min() < 7.4
    assert 12.6 < distance.max() < 13.4


def test_noise_has_the_standard_deviation_that_is_asked_for() -> None:
    given = images(400).float()
    noise = augmented(ImageAugmentSpec(noise=0.3), given, torch.arange(400)) - given
    assert noise.std() == pytest.approx(0.3, rel=0.02)
    assert abs(noise.mean()) < 5 * 0.3 / noise.numel() ** 0.5
    assert noise.dtype == torch.float32


def test_a_row_is_changed_alike_wherever_it_stands_and_another_key_changes_it_otherwise() -> None:
    given, key = images(8), torch.arange(8) * 7919
    whole = augmented(ALL, given, key)
    torch.testing.assert_close(augmented(ALL, given[3:5], key[3:5]), whole[3:5])
    assert not torch.isclose(augmented(ALL, given, key + 1), whole).flatten(1).all(1).any()


@pytest.mark.parametrize(("key", "value"), [("rotate_degrees", 181), ("scale", 1), ("crop_pixels", -1), ("noise", -1)])
def test_what_makes_no_image_is_refused(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match=key):
        ImageAugmentSpec.model_validate({key: value})
