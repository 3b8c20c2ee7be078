import io

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest
from torch.nn import functional as F

from jobs.examples import digits
from jobs.workloads import gan
from jobs.workloads.gan import Gan, GanSpec
from tests.jobs.workloads.example import Prepared
from tests.jobs.workloads.prepared import prepare

SPEC = GanSpec(height=8, width=8, block_channels=(32, 16))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(pq.read_table(io.BytesIO(digits().content)), SPEC)


@pytest.fixture(scope="module")
def model(prepared: Prepared) -> Gan:
    """Trained for a few seconds by two optimizers of PyTorch's own."""
    torch.manual_seed(0)
    model = gan.build(SPEC, prepared.transform)
    players = [torch.optim.RMSprop(part.parameters(), lr=2e-3) for part in (model.discriminator, model.generator)]
    pixels, number = gan.tensors(prepared.train.table)["pixels"], 0
    for _ in range(40):
        for index in torch.randperm(len(pixels)).split(64):
            turn = torch.full((len(index),), number % 2)
            batch = {"pixels": pixels[index], "key": torch.randint(2**62, (len(index),)), "turn": turn}
            batch = gan.augment(SPEC, batch, dict)
            model.zero_grad()
            gan.loss(SPEC, model(batch), batch).mean().backward()
            players[number % 2].step()
            number += 1
    return model.eval()


def test_images_whose_sides_cannot_be_halved_so_often_are_refused() -> None:
    message = (
        r"2 blocks of block_channels=\[64, 32\] halve .* but 8 x 10 pixels are no multiple of 4; give fewer blocks"
    )
    with pytest.raises(ValidationError, match=message):
        GanSpec(height=8, width=10)
    assert GanSpec(height=8, width=10, block_channels=(16,)).shape == (1, 8, 10)


def test_pixels_are_scaled_from_0_to_1(prepared: Prepared) -> None:
    pixels = gan.tensors(prepared.train.table)["pixels"]
    raw = torch.tensor(prepared.train.table.column("image").to_pylist())
    torch.testing.assert_close(pixels, (raw / 16).float())


def test_each_players_loss_is_the_cross_entropy_of_what_it_wants() -> None:
    real, made = torch.randn(2, 6)
    scores, one, zero = torch.stack([real, made], 1), torch.ones(6), torch.zeros(6)
    entropy = F.binary_cross_entropy_with_logits
    wanted = entropy(real, one, reduction="none") + entropy(made, zero, reduction="none")
    torch.testing.assert_close(gan.loss(SPEC, scores, {"turn": torch.zeros(6)}), wanted)
    wanted = entropy(made, one, reduction="none")
    torch.testing.assert_close(gan.loss(SPEC, scores, {"turn": torch.ones(6)}), wanted)


def test_noise_is_normal_and_belongs_to_the_row() -> None:
    batch = {"pixels": torch.zeros(500, 64), "key": torch.arange(500)}
    noise = gan.augment(SPEC, batch, dict)["noise"]
    assert noise.shape == (500, 32)
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    some = gan.augment(SPEC, {name: values[[7, 3]] for name, values in batch.items()}, dict)["noise"]
    assert torch.equal(some, noise[[7, 3]])


def test_every_weight_moves_in_one_turn_and_belongs_to_one_unit(prepared: Prepared) -> None:
    spec = GanSpec(height=8, width=8, discriminator_rate=4)
    partition = gan.partition(spec)
    assert [(turn.module, turn.rate_factor) for turn in partition.turns] == [("discriminator", 4), ("generator", 1)]
    for name, _ in gan.build(spec, prepared.transform).named_parameters():
        assert [turn.module for turn in partition.turns if name.startswith(f"{turn.module}.")] == [name.split(".")[0]]
        assert name.split(".")[0] in partition.units


def test_training_makes_images_more_like_the_held_out_ones(prepared: Prepared, model: Gan) -> None:
    torch.manual_seed(0)
    untrained = gan.evaluate(SPEC, gan.build(SPEC, prepared.transform), prepared.transform, prepared.test)
    trained = gan.evaluate(SPEC, model, prepared.transform, prepared.test)
    baselines = gan.baselines(SPEC, prepared.transform, prepared.train, prepared.test)
    assert set(trained) == set(gan.metrics) == gan.lower_is_better
    assert untrained["nn_accuracy"] > 0.95
    assert trained["nn_accuracy"] < baselines["pixel_normals"]["nn_accuracy"]
    assert trained["mmd"] < untrained["mmd"] / 10
    assert baselines["gaussian"]["nn_accuracy"] < baselines["pixel_normals"]["nn_accuracy"]


def test_training_images_are_no_easier_to_tell_from_held_out_ones_than_any_made_ones(
    prepared: Prepared, model: Gan
) -> None:
    real = gan.tensors(prepared.test)["pixels"]
    best = gan.scores(gan.tensors(prepared.train.table)["pixels"][: len(real)], real)
    trained = gan.evaluate(SPEC, model, prepared.transform, prepared.test)
    assert all(best[name] < trained[name] for name in gan.metrics)


def test_a_seed_always_makes_the_same_images_and_another_one_others(model: Gan) -> None:
    many = gan.made_of(SPEC, model, 3, 40)
    torch.testing.assert_close(gan.made_of(SPEC, model, 3, 5), many[:5])
    assert len({tuple(image) for image in torch.cat([many, gan.made_of(SPEC, model, 4, 40)]).tolist()}) == 80


def test_golden_images_are_those_of_their_seed(prepared: Prepared, model: Gan) -> None:
    golden = gan.golden(SPEC, model, prepared.transform, prepared.test)
    assert golden.column("seed").to_pylist() == [gan.GOLDEN_SEED] * gan.NUM_GOLDEN_IMAGES
    made = gan.made_of(SPEC, model, gan.GOLDEN_SEED, gan.NUM_GOLDEN_IMAGES)
    torch.testing.assert_close(torch.tensor(golden.column("pixels").to_pylist()), made)
