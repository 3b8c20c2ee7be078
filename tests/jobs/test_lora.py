import pytest
import torch
from torch import nn

from cluster.errors import SpecError
from jobs.lora import LoraLinear, attach, merge
from jobs.spec import LoraSpec
from jobs.workloads.transformer import TransformerSpec, transformer

SPEC = LoraSpec(rank=3, alpha=6.0)


def layer(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 7, bias=bias)


def learned(plain: nn.Linear, spec: LoraSpec = SPEC) -> LoraLinear:
    """With a change that is not nothing."""
    adapted = LoraLinear(plain, spec)
    with torch.no_grad():
        adapted.lora_b.normal_()
    return adapted


def test_training_begins_with_what_the_layer_computes() -> None:
    plain, inputs = layer(), torch.randn(2, 4, 5)
    adapted = LoraLinear(plain, SPEC)
    assert torch.equal(adapted(inputs), plain(inputs))
    assert adapted.lora_a.any()
    assert set(adapted.state_dict()) == {"weight", "bias", "lora_a", "lora_b"}


@pytest.mark.parametrize("bias", [True, False])
def test_the_change_is_that_of_the_paper_and_merged_it_stays(bias: bool) -> None:
    plain, inputs = layer(bias), torch.randn(2, 4, 5)
    adapted = learned(plain)
    changed = plain.weight + 6.0 / 3 * adapted.lora_b @ adapted.lora_a
    expected = inputs @ changed.T + (plain.bias if bias else 0)
    torch.testing.assert_close(adapted(inputs), expected)
    merged = adapted.merged()
    torch.testing.assert_close(merged.weight, changed)
    torch.testing.assert_close(merged(inputs), expected)
    assert set(merged.state_dict()) == set(plain.state_dict())
    assert (merged.in_features, merged.out_features) == (5, 7)


def test_gradients_go_to_the_change_alone_and_are_those_of_its_product() -> None:
    model = nn.Sequential(layer(), nn.Tanh(), nn.Linear(7, 2))
    attach(model, LoraSpec(rank=3, alpha=6.0, targets=("0",)))
    adapted = model[0]
    assert isinstance(adapted, LoraLinear)
    with torch.no_grad():
        adapted.lora_b.normal_()
    inputs = torch.randn(4, 5)
    model(inputs).square().sum().backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == {"0.lora_a", "0.lora_b"}
    whole = (adapted.weight + 2.0 * adapted.lora_b @ adapted.lora_a).detach().requires_grad_()
    last = model[2]
    torch.tanh(inputs @ whole.T + adapted.bias).matmul(last.weight.T).add(last.bias).square().sum().backward()
    assert whole.grad is not None
    torch.testing.assert_close(adapted.lora_a.grad, 2.0 * adapted.lora_b.T @ whole.grad)
    torch.testing.assert_close(adapted.lora_b.grad, 2.0 * whole.grad @ adapted.lora_a.T)


def test_the_targets_of_a_decoder_are_all_matrices_of_its_layers() -> None:
    model = transformer(TransformerSpec(num_layers=2))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    attach(model, LoraSpec())
    adapted = {name for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    parts = ("attention.query", "attention.key", "attention.value", "attention.output")
    parts += ("feed_forward.gate", "feed_forward.up", "feed_forward.down")
    assert adapted == {f"layer{number}.{part}" for number in range(2) for part in parts}
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {f"{name}.{part}" for name in adapted for part in ("lora_a", "lora_b")}
    merge(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


@pytest.mark.parametrize("target", ["layer*.attend", "head.output"])
def test_what_is_no_layer_of_its_own_is_no_target(target: str) -> None:
    model = transformer(TransformerSpec(num_layers=1, tie_embeddings=True))
    with pytest.raises(SpecError, match=rf"train\.lora\.targets: no name matches '{target.replace('*', '.')}'"):
        attach(model, LoraSpec(targets=(target,)))
