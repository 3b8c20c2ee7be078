"""Counted arithmetic beside what the formulas say."""

from itertools import pairwise

import pytest
import torch

from jobs.flops import PEAK_TFLOPS, flops_a_row, peak_flops, peak_of
from jobs.workloads import WORKLOADS
from tests.jobs.parallel.training import SAMPLES, sample

NUM_ROWS = 8


def counted(name: str) -> float:
    given = sample(name)
    found = flops_a_row(given.spec, given.transform, given.rows.slice(0, NUM_ROWS))
    assert found is not None
    return found


def test_a_transformer_takes_what_palm_says() -> None:
    """6 N + 12 layers x hidden_dim x length a token, N without the embedding and norms (Chowdhery et al., 2022)."""
    spec = sample("language").spec
    model = WORKLOADS["language"].build(spec, sample("language").transform)
    multiplied = sum(
        weight.numel() for name, weight in model.named_parameters() if "norm" not in name and "embedding" not in name
    )
    a_token = 6 * multiplied + 12 * spec.num_layers * spec.hidden_dim * spec.context_length
    assert counted("language") == a_token * spec.context_length


def test_a_recurrent_layer_takes_its_two_matrices_at_every_position() -> None:
    spec = sample("language_lstm").spec
    size = spec.hidden_dim
    multiplied = spec.num_layers * 2 * 4 * size * size + size * spec.vocabulary_size
    # The first state is 0 and needs no gradient, nor does anything before it.
    assert counted("language_lstm") == pytest.approx(6 * multiplied * spec.context_length, rel=0.02)


def test_a_convolution_takes_its_weights_at_every_place() -> None:
    """2 operations a weight and place forward; backward as many for its weights and for its inputs, which are not the
    images."""
    spec = sample("vision").spec
    sizes = [spec.block_channels[0], *spec.block_channels]
    places, total = spec.height * spec.width, 0
    total += 4 * 9 * spec.channels * sizes[0] * places
    for before, after in pairwise(sizes):
        places = places // 4 if after > before else places
        total += 6 * 9 * (before + after) * after * places + (6 * before * after * places if after != before else 0)
    total += 6 * sizes[-1] * 4
    assert counted("vision") == total


@pytest.mark.parametrize("name", [name for name in SAMPLES if not name.endswith("augmented") and name != "recommender"])
def test_a_model_takes_the_same_for_each_of_any_number_of_rows(name: str) -> None:
    given = sample(name)
    one, many = (flops_a_row(given.spec, given.transform, given.rows.slice(0, size)) for size in (2, 12))
    assert one == many
    assert one is not None
    assert one > 0


def test_what_a_step_does_once_is_shared_out() -> None:
    """The recommender embeds the negatives of a step once."""
    given = sample("recommender")
    one, many = (flops_a_row(given.spec, given.transform, given.rows.slice(0, size)) for size in (2, 12))
    assert one is not None
    assert many is not None
    assert 0 < many < one < 6 * many


def test_a_gpu_is_known_by_its_name_and_a_cpu_has_no_peak() -> None:
    assert peak_of("NVIDIA H100 80GB HBM3") == 989.4e12
    assert peak_of("NVIDIA H100 PCIe") == 756e12
    assert peak_of("NVIDIA L40S") == 362.05e12
    assert peak_of("NVIDIA L4") == PEAK_TFLOPS["L4"] * 1e12
    assert peak_of("NVIDIA A100-SXM4-80GB") == 312e12
    assert [peak_of(name) for name in ("Radeon", "NVIDIA L40", "NVIDIA RTX A1000", "NVIDIA T400 4GB")] == [None] * 4
    assert peak_flops(torch.device("cpu")) is None
