import pytest
import torch
from torch import Tensor

from jobs.workloads.chain import Chain
from jobs.workloads.decoding import Decoder
from jobs.workloads.rope_scaling import RopeScalingSpec
from jobs.workloads.transformer import TransformerSpec, transformer

SPEC = TransformerSpec(num_layers=3, hidden_dim=32, num_heads=4, num_kv_heads=2, feed_forward_dim=48)
CAPACITY = 24


def model(spec: TransformerSpec = SPEC) -> Chain:
    torch.manual_seed(0)
    built = transformer(spec)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # so that what is read matters for what follows
    return built.eval()


@torch.no_grad()
def without_cache(text: list[int], spec: TransformerSpec = SPEC) -> Tensor:
    """The logits of what follows, by the model as it was trained: all of the text at once."""
    given: Tensor = model(spec)({"token": torch.tensor([text]), "position": torch.arange(len(text))[None]})
    return given[0, -1]


def text(length: int, seed: int) -> list[int]:
    return torch.randint(257, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def check(given: Tensor, texts: list[list[int]]) -> None:
    wanted = torch.stack([without_cache(each) for each in texts])
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(wanted[0], wanted[-1], atol=1e-2) or len(texts) == 1


def test_texts_of_several_lengths_go_on_as_each_alone_without_a_cache() -> None:
    decoder = Decoder(model(), 4, CAPACITY)
    texts = [text(1, 0), text(9, 1), text(5, 2)]
    check(decoder.begin(texts), texts)
    for token in range(10):
        tokens = [token + place for place in range(3)]
        texts = [[*each, token] for each, token in zip(texts, tokens, strict=True)]
        check(decoder.go_on(tokens), texts)


def test_biases_norms_of_heads_and_stretched_positions_go_with_the_cache() -> None:
    stretched = RopeScalingSpec(original_context_length=8)
    forms = {"qkv_bias": True, "qk_norm": True, "head_dim": 6, "rope_scaling": stretched}
    spec, given = SPEC.model_copy(update=forms), text(9, 1)
    decoder = Decoder(model(spec), 1, CAPACITY)
    torch.testing.assert_close(decoder.begin([given])[0], without_cache(given, spec), rtol=1e-5, atol=1e-5)
    for token in range(10):
        given = [*given, token]
        torch.testing.assert_close(decoder.go_on([token])[0], without_cache(given, spec), rtol=1e-5, atol=1e-5)


def test_a_text_may_join_and_leave_between_any_two_tokens() -> None:
    decoder = Decoder(model(), 3, CAPACITY)
    one, two = text(12, 0), text(3, 1)
    decoder.begin([one, two])
    check(decoder.go_on([7, 8]), [[*one, 7], [*two, 8]])
    three = text(2, 2)
    check(decoder.begin([three]), [three])
    decoder.drop(0)
    assert decoder.num_texts == 2
    check(decoder.go_on([5, 6]), [[*three, 5], [*two, 8, 6]])  # the last one took the number of the one that left
    decoder.drop(1)
    check(decoder.go_on([1]), [[*three, 5, 1]])
    decoder.clear()
    check(decoder.begin([one]), [one])


def test_a_text_fills_all_of_its_capacity() -> None:
    decoder = Decoder(model(), 1, CAPACITY)
    whole = text(CAPACITY, 4)
    decoder.begin([whole[:-1]])
    check(decoder.go_on(whole[-1:]), [whole])
    with pytest.raises(RuntimeError, match="index 24 is out of bounds"):
        decoder.go_on([1])
