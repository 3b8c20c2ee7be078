import pytest
import torch

from jobs.workloads.gan_networks import Discriminator, ImageGenerator


@pytest.mark.parametrize(
    ("shape", "channels"), [((1, 8, 8), (16, 8)), ((3, 12, 20), (6, 4)), ((1, 28, 28), (8, 8)), ((1, 2, 2), (3,))]
)
def test_noise_becomes_an_image_and_that_a_number(shape: tuple[int, int, int], channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    pixels = ImageGenerator(5, channels, shape)(torch.randn(7, 5))
    assert pixels.shape == (7, shape[0] * shape[1] * shape[2])
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert Discriminator(channels[::-1], shape)(pixels).shape == (7, 1)


def test_a_row_is_computed_as_if_it_were_alone() -> None:
    """Else a loss would depend on how rows are dealt out."""
    torch.manual_seed(0)
    generator, discriminator = ImageGenerator(4, (16, 8), (1, 8, 8)), Discriminator((8, 16), (1, 8, 8))
    noise = torch.randn(6, 4)
    together = generator(noise)
    torch.testing.assert_close(together[2:3], generator(noise[2:3]))
    torch.testing.assert_close(discriminator(together)[2:3], discriminator(together[2:3]))
