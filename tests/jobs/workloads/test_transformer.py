import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from cluster.errors import SpecError
from cluster.spec import check
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.partition import TensorRole
from jobs.workloads.transformer import (
    HEAD_NORM_ROLES,
    LAYER_ROLES,
    Attention,
    CausalAttention,
    TransformerSpec,
    rotary_angle,
    rotated,
    transformer,
)

SPEC = TransformerSpec(num_layers=3, hidden_dim=24, num_heads=6, num_kv_heads=2, feed_forward_dim=40)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def model_of(spec: TransformerSpec = SPEC) -> Chain:
    """A model with weights large enough that every part of it matters."""
    torch.manual_seed(0)
    model = transformer(spec)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(torch.randn_like(weights) / math.sqrt(weights.shape[-1]) + (weights.dim() == 1))
    return model


def batch_of(num_rows: int = 3, length: int = 11) -> Batch:
    draws = torch.Generator().manual_seed(1)
    token = torch.randint(0, 257, (num_rows, length), generator=draws)
    return {"token": token, "position": torch.arange(length).repeat(num_rows, 1)}


def qkv(num_heads: int, num_kv_heads: int, num_queries: int, num_keys: int) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(2)
    shapes = ((num_heads, num_queries), (num_kv_heads, num_keys), (num_kv_heads, num_keys))
    query, key, value = (torch.randn(2, *shape, 4, generator=draws, dtype=torch.float64) for shape in shapes)
    return query, key, value


def naive_attention(query: Tensor, key: Tensor, value: Tensor, query_at: Tensor, key_at: Tensor) -> Tensor:
    """Row by row, head by head, query by query, in plain Python."""
    output = torch.zeros_like(query)
    per_key_head = query.shape[1] // key.shape[1]
    for row in range(query.shape[0]):
        for head in range(query.shape[1]):
            keys, values = key[row, head // per_key_head], value[row, head // per_key_head]
            for place in range(query.shape[2]):
                seen = [k for k in range(keys.shape[0]) if key_at[row, k] <= query_at[row, place]]
                scores = [float(query[row, head, place] @ keys[k]) / math.sqrt(query.shape[3]) for k in seen]
                weights = [math.exp(score - max(scores)) for score in scores]
                for k, weight in zip(seen, weights, strict=True):
                    output[row, head, place] += weight / sum(weights) * values[k]
    return output


def complex_rotation(vectors: Tensor, position: Tensor, theta: float) -> Tensor:
    """RoPE as its paper has it: pairs of features as complex numbers, times e^(i position theta^(-2j/d))."""
    half = vectors.shape[-1] // 2
    speed = torch.tensor([theta ** (-2 * j / (2 * half)) for j in range(half)], dtype=torch.float64)
    turn = torch.polar(torch.ones_like(speed), position.double()[..., None] * speed)
    turned = torch.complex(vectors[..., :half].double(), vectors[..., half:].double()) * turn
    return torch.cat([turned.real, turned.imag], dim=-1)


def reference_logits(spec: TransformerSpec, weights: dict[str, Tensor], batch: Batch) -> Tensor:
    """The whole model a second time, in float64 and from its weights alone."""
    weights = {name: value.detach().double() for name, value in weights.items()}
    position = batch["position"][:, None]

    def norm(values: Tensor, name: str) -> Tensor:
        return values / (values.square().mean(-1, keepdim=True) + spec.norm_epsilon).sqrt() * weights[f"{name}.weight"]

    def heads(values: Tensor, name: str, number: int) -> Tensor:
        projected = torch.einsum("rpi,oi->rpo", values, weights[f"{name}.weight"])
        projected = projected + weights[f"{name}.bias"] if spec.qkv_bias else projected
        parted = projected.reshape(*values.shape[:2], number, -1).permute(0, 2, 1, 3)
        return norm(parted, f"{name}_norm") if spec.qk_norm and not name.endswith("value") else parted

    hidden = weights["embedding.token.weight"][batch["token"]]
    for layer in (f"layer{number}" for number in range(spec.num_layers)):
        normed = norm(hidden, f"{layer}.attention_norm")
        query = complex_rotation(heads(normed, f"{layer}.attention.query", spec.num_heads), position, spec.rope_theta)
        key = complex_rotation(heads(normed, f"{layer}.attention.key", spec.num_kv_heads), position, spec.rope_theta)
        value = heads(normed, f"{layer}.attention.value", spec.num_kv_heads)
        attended = naive_attention(query, key, value, batch["position"], batch["position"])
        joined = torch.cat(list(attended.unbind(1)), dim=-1)
        hidden = hidden + joined @ weights[f"{layer}.attention.output.weight"].T
        normed = norm(hidden, f"{layer}.feed_forward_norm")
        gate = normed @ weights[f"{layer}.feed_forward.gate.weight"].T
        gated = gate / (1 + torch.exp(-gate)) * (normed @ weights[f"{layer}.feed_forward.up.weight"].T)
        hidden = hidden + gated @ weights[f"{layer}.feed_forward.down.weight"].T
    return norm(hidden, "head.norm") @ weights["head.output.weight"].T


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_attention_is_that_of_a_plain_loop(num_heads: int, num_kv_heads: int) -> None:
    position = torch.arange(7).repeat(2, 1)
    inputs = qkv(num_heads, num_kv_heads, 7, 7)
    expected = naive_attention(*inputs, position, position)
    torch.testing.assert_close(CausalAttention()(*inputs, position, position), expected, rtol=1e-10, atol=1e-12)
    masked = CausalAttention()(*inputs, position, position.clone())
    torch.testing.assert_close(masked, expected, rtol=1e-10, atol=1e-12)


def test_attention_of_a_stretch_sees_all_keys_up_to_its_own_places() -> None:
    query, key, value = qkv(4, 2, 9, 9)
    position = torch.arange(9).repeat(2, 1)
    whole = CausalAttention()(query, key, value, position, position)
    for stretch in (slice(0, 4), slice(4, 9)):
        part = CausalAttention()(query[:, :, stretch], key, value, position[:, stretch], position)
        torch.testing.assert_close(part, whole[:, :, stretch], rtol=1e-10, atol=1e-12)


def test_attention_goes_by_positions_not_by_the_order_of_the_keys() -> None:
    query, key, value = qkv(4, 2, 5, 8)
    key_at = torch.tensor([[3, 0, 6, 1, 7, 2, 5, 4], [0, 1, 2, 3, 4, 5, 6, 7]])
    query_at = torch.tensor([[0, 7, 3, 3, 5], [7, 6, 5, 0, 1]])
    expected = naive_attention(query, key, value, query_at, key_at)
    torch.testing.assert_close(CausalAttention()(query, key, value, query_at, key_at), expected, rtol=1e-10, atol=1e-12)


def test_rotation_is_that_of_complex_numbers() -> None:
    torch.manual_seed(0)
    vectors, position = torch.randn(2, 3, 5, 8), torch.randint(0, 1000, (2, 1, 5))
    turned = rotated(vectors, rotary_angle(position, 8, 500.0))
    torch.testing.assert_close(turned.double(), complex_rotation(vectors, position, 500.0), rtol=1e-4, atol=1e-4)


def test_rotated_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(16, dtype=torch.float64), torch.randn(16, dtype=torch.float64)

    def product(query_at: int, key_at: int) -> float:
        angles = rotary_angle(torch.tensor([query_at, key_at]), 16, 10_000.0)
        return float(rotated(query, angles[0]) @ rotated(key, angles[1]))

    near = [product(shift + 5, shift) for shift in (0, 1, 40, 300)]
    assert near == pytest.approx([near[0]] * 4, abs=1e-3)  # angles are float32
    assert abs(product(9, 0) - near[0]) > 0.01
    assert product(7, 7) == pytest.approx(float(query @ key), abs=1e-5)


def test_rotation_keeps_length_and_dtype() -> None:
    vectors = torch.randn(2, 5, 8)
    angle = rotary_angle(torch.arange(5), 8, 100.0)
    torch.testing.assert_close(rotated(vectors, angle).norm(dim=-1), vectors.norm(dim=-1))
    assert rotated(vectors.bfloat16(), angle).dtype == torch.bfloat16
    assert angle.dtype == torch.float32


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        TransformerSpec(num_layers=1, hidden_dim=16, num_heads=2, num_kv_heads=2, feed_forward_dim=8),
        TransformerSpec(num_layers=2, hidden_dim=16, num_heads=4, num_kv_heads=1, rope_theta=50, tie_embeddings=True),
        TransformerSpec(num_layers=2, hidden_dim=18, num_heads=3, num_kv_heads=1, head_dim=8, qkv_bias=True),
        TransformerSpec(num_layers=2, hidden_dim=16, num_heads=4, head_dim=6, qk_norm=True, norm_epsilon=0.1),
    ],
    ids=["grouped", "full", "tied", "biases", "head norms"],
)
def test_logits_are_those_of_a_second_implementation(spec: TransformerSpec) -> None:
    model, batch = model_of(spec), batch_of()
    logits = model(batch)
    assert logits.shape == (3, 11, 288)
    expected = reference_logits(spec, model.state_dict(), batch)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_later_token_changes_no_earlier_logit() -> None:
    model, batch = model_of(), batch_of()
    changed = {**batch, "token": batch["token"].clone()}
    changed["token"][:, 6] = (changed["token"][:, 6] + 1) % 257
    before, after = model(batch), model(changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert ((before[:, 6:] - after[:, 6:]).abs().amax(-1) > 1e-4).all()


def test_rows_do_not_see_each_other() -> None:
    model, batch = model_of(), batch_of()
    alone = model({name: values[1:2] for name, values in batch.items()})
    torch.testing.assert_close(alone, model(batch)[1:2], rtol=1e-5, atol=1e-5)


def test_the_order_of_tokens_matters() -> None:
    model, batch = model_of(), batch_of(1)
    swapped = {**batch, "token": batch["token"][:, [1, 0, *range(2, 11)]]}
    assert (model(batch)[:, -1] - model(swapped)[:, -1]).abs().max() > 1e-4


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_model_cut_between_two_links_is_the_whole(cut: int) -> None:
    model, batch = model_of(), batch_of()
    links = list(model.items())
    assert [name for name, _ in links] == ["embedding", "layer0", "layer1", "layer2", "head"]
    front, back = Chain(dict(links[:cut])), Chain(dict(links[cut:]))
    assert torch.equal(back(batch, front(batch)), model(batch))


def test_attention_works_on_some_of_the_heads_and_the_parts_add_up() -> None:
    whole = Attention(SPEC)
    hidden, position = torch.randn(2, 5, 24), torch.arange(5).repeat(2, 1)
    total = torch.zeros(2, 5, 24)
    for part in range(2):
        split = Attention(SPEC)
        for name in ("query", "key", "value"):
            rows = getattr(whole, name).weight.detach().chunk(2)[part]
            setattr(split, name, nn.Linear(24, len(rows), bias=False))
            getattr(split, name).weight = nn.Parameter(rows)
        columns = whole.output.weight.detach().chunk(2, dim=1)[part]
        split.output = nn.Linear(12, 24, bias=False)
        split.output.weight = nn.Parameter(columns)
        total += split(hidden, position)
    torch.testing.assert_close(total, whole(hidden, position))


def test_tied_weights_are_one_matrix_and_untied_ones_two() -> None:
    tied, untied = transformer(SPEC.model_copy(update={"tie_embeddings": True})), transformer(SPEC)
    assert tied["head"].output.weight is tied["embedding"].token.weight  # type: ignore[union-attr]
    numbers = [sum(weights.numel() for weights in model.parameters()) for model in (tied, untied)]
    assert numbers[1] - numbers[0] == 288 * 24
    with torch.no_grad():
        tied["embedding"].token.weight.zero_()  # type: ignore[operator,union-attr]
    assert torch.equal(tied(batch_of()), torch.zeros(3, 11, 288))


def test_tied_weights_learn_from_both_ends() -> None:
    model, batch = model_of(SPEC.model_copy(update={"tie_embeddings": True})), batch_of()
    model(batch)[..., 280].sum().backward()  # no token is 280, so the embedding alone gives its row no gradient
    gradient = model["embedding"].token.weight.grad  # type: ignore[union-attr]
    assert isinstance(gradient, Tensor)
    assert gradient[280].abs().sum() > 0
    assert gradient[batch["token"].unique()].abs().sum(-1).min() > 0


def test_weights_start_as_llamas() -> None:
    torch.manual_seed(0)
    spec = TransformerSpec(num_layers=8, hidden_dim=128, num_heads=4, num_kv_heads=2, feed_forward_dim=256)
    for name, weights in transformer(spec).named_parameters():
        if weights.dim() == 1:
            assert torch.equal(weights, torch.ones_like(weights)), name
        else:
            adds = name.endswith(("attention.output.weight", "down.weight"))
            expected = 0.02 / 4 if adds else 0.02  # sqrt(2 x 8 layers) = 4
            assert weights.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(weights.mean().item()) < 5 * expected / math.sqrt(weights.numel()), name


def test_biases_start_at_nothing() -> None:
    model = transformer(SPEC.model_copy(update={"qkv_bias": True}))
    biases = [bias for name, bias in model.named_parameters() if name.endswith("bias")]
    assert len(biases) == 3 * SPEC.num_layers
    assert not any(bias.any() for bias in biases)


def test_the_generator_alone_decides_the_weights() -> None:
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(transformer(SPEC).state_dict())
    same = [all(torch.equal(one[name], other[name]) for name in one) for one, other in pairwise(models)]
    assert same == [True, False]


def test_a_state_dict_holds_weights_alone() -> None:
    model = model_of()
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    assert not list(model.buffers())


@pytest.mark.parametrize(("qk_norm", "roles"), [(False, LAYER_ROLES), (True, LAYER_ROLES | HEAD_NORM_ROLES)])
def test_every_role_belongs_to_a_module_and_every_weight_of_a_layer_has_one(
    qk_norm: bool, roles: dict[str, TensorRole]
) -> None:
    model = model_of(SPEC.model_copy(update={"qk_norm": qk_norm, "qkv_bias": True}))
    layer = dict(model["layer0"].named_modules())
    named = {pattern.removeprefix("layer*."): role for pattern, role in roles.items()}
    assert set(named) <= set(layer)
    holders = {path for path, module in layer.items() if list(module.parameters(recurse=False))}
    assert holders == {path for path, role in named.items() if role != "block"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_dim": 130}, "hidden_dim=130 is no multiple of 2 x num_heads = 8: .*; give hidden_dim=136"),
        ({"hidden_dim": 132}, "hidden_dim=132 is no multiple of 2 x num_heads = 8: .*; give hidden_dim=136"),
        ({"num_kv_heads": 3}, "num_heads=4 do not share num_kv_heads=3 evenly; give num_kv_heads as one of 1, 2, 4"),
        ({"vocabulary_size": 256}, "vocabulary_size: input should be greater than or equal to 257, got 256"),
        ({"num_layers": 0}, "num_layers"),
        ({"head_dim": 7}, "head_dim: input should be a multiple of 2, got 7"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_way_out(values: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check(TransformerSpec, values, "test")


def test_the_way_out_is_one() -> None:
    for values in (
        {"hidden_dim": 130, "head_dim": 32},
        {"hidden_dim": 136},
        {"num_kv_heads": 1},
        {"num_kv_heads": 4},
        {"vocabulary_size": 257},
    ):
        check(TransformerSpec, values, "test")
