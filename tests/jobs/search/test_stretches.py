from itertools import pairwise

import pytest

from cluster.layout import Layout
from jobs.search.stretches import LOSS, Unit, Weight
from tests.jobs.parallel.training import SAMPLES, parted, sample
from tests.jobs.search.models import model_of, sample_of

ROWS = 4


def test_links_come_in_order_and_the_loss_last() -> None:
    names = [stretch.name for stretch in model_of("wide").stretches(Layout(), ROWS)]
    assert names == ["embedding", "layer0", "layer1", "layer2", "layer3", "head", LOSS]


def test_what_goes_out_of_one_comes_into_the_next() -> None:
    stretches = model_of("wide").stretches(Layout(), ROWS)
    assert stretches[0].input_bytes == 0
    for before, after in pairwise(stretches):
        assert after.input_bytes == before.footprint.output_bytes > 0


def test_links_that_are_alike_share_their_footprint() -> None:
    stretches = model_of("wide").stretches(Layout(), ROWS)
    assert stretches[1].footprint is stretches[2].footprint
    assert stretches[1].footprint is not stretches[0].footprint


@pytest.mark.parametrize("name", [name for name in SAMPLES if "float64" not in name])
def test_every_workload_can_be_followed_without_numbers(name: str) -> None:
    stretches = model_of(name).stretches(Layout(), ROWS)
    assert all(stretch.footprint.forward_peak_bytes >= 0 for stretch in stretches)
    expected = {path: weight.numel() for path, weight in parted(sample(name), Layout()).model.named_parameters()}
    weights = [weight for stretch in stretches for weight in stretch.weights]
    assert sum(weight.num_bytes for weight in weights) == 4 * sum(expected.values())


@pytest.mark.parametrize("layout", [{"tensor": 2}, {"tensor": 2, "sequence_parallel": True}], ids=str)
def test_a_tensor_group_has_a_part_of_each_split_matrix(layout: dict[str, int]) -> None:
    whole = model_of("wide").stretches(Layout(), ROWS)[1]
    part = model_of("wide").stretches(Layout(**layout), ROWS)[1]
    assert (whole.num_split, part.num_split) == (0, 7)
    split = sum(weight.num_bytes for weight in part.weights if weight.is_split)
    kept = sum(weight.num_bytes for weight in part.weights if not weight.is_split)
    assert 2 * split + kept == sum(weight.num_bytes for weight in whole.weights)
    assert part.footprint.forward.flops.sum() == pytest.approx(whole.footprint.forward.flops.sum() / 2)


def test_a_context_group_gathers_keys_and_values() -> None:
    part = model_of("wide").stretches(Layout(context=2), ROWS)[1]
    spec = sample_of("wide").spec
    bytes_of_keys = 4 * ROWS * spec.num_kv_heads * spec.context_length * spec.features_a_head
    assert [(each.kind, each.axis, each.bytes) for each in part.footprint.forward.messages] == [
        ("all_gather", "context", bytes_of_keys)
    ] * 2
    assert [each.kind for each in part.footprint.backward.messages] == ["reduce_scatter"] * 2


def test_half_precision_keeps_less_between_the_layers() -> None:
    num_rows = 64 * ROWS  # else the weights in half precision, which are kept too, are more
    single = model_of("wide").stretches(Layout(), num_rows)[1].footprint
    half = model_of("wide").stretches(Layout(precision="bf16"), num_rows)[1].footprint
    assert half.kept_bytes < 0.9 * single.kept_bytes
    assert half.forward.flops.sum() == single.forward.flops.sum()


def test_shards_are_cut_along_the_first_dim_and_filled_up() -> None:
    weight = Weight((5, 3), 4, True, False)
    assert (weight.num_bytes, weight.shard_bytes(2), weight.shard_bytes(8)) == (60, 36, 12)
    assert Weight((), 4, True, False).shard_bytes(2) == 4
    frozen = Unit((weight, Weight((2,), 4, False, False)))
    assert (frozen.num_bytes, frozen.gradient_bytes, frozen.shard_bytes(2)) == (68, 60, 40)
