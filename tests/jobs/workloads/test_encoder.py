"""The encoder by itself; beside transformers' own it is in test_hugging_face_encoder."""

import pytest
import torch

from jobs.workloads.encoder import EncoderSpec, encoder

SPEC = EncoderSpec(num_layers=2, hidden_dim=16, num_heads=4, feed_forward_dim=24, num_positions=10, dropout=0.5)


def batch(tokens: list[list[int]], lengths: list[int]) -> dict[str, torch.Tensor]:
    token = torch.tensor(tokens)
    is_there = torch.arange(token.shape[1])[None] < torch.tensor(lengths)[:, None]
    return {"token": token, "is_there": is_there, "key": torch.arange(len(tokens))}


def test_what_fills_a_row_up_is_not_seen() -> None:
    torch.manual_seed(0)
    model = encoder(SPEC, 3, "text").eval()
    one, other = (model(batch([[256, 5, 6, filling, filling]], [3])) for filling in (1, 200))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one, model(batch([[256, 5, 6]], [3])))
    assert not torch.allclose(one, model(batch([[256, 6, 5]], [3])), atol=1e-6)  # places matter


def test_every_token_sees_the_whole_text() -> None:
    torch.manual_seed(0)
    model = encoder(SPEC, 3, "token").eval()
    one, other = (model(batch([[256, 5, 6, last]], [4])) for last in (7, 8))
    assert one.shape == (1, 4, 3)
    assert (one - other).abs().amax(-1).gt(1e-7).all()


def test_dropout_is_of_the_row_and_in_training_only() -> None:
    torch.manual_seed(0)
    model, rows = encoder(SPEC, 3, "text"), batch([[256, 5, 6], [256, 5, 6]], [3, 3])
    model.train()
    first, second = model(rows)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(model(rows)[1], second)
    model.eval()
    torch.testing.assert_close(*model(rows))


def test_heads_are_of_one_size() -> None:
    with pytest.raises(ValueError, match=r"hidden_dim=18 is no multiple of num_heads=4.*; give hidden_dim=20"):
        EncoderSpec(hidden_dim=18, num_heads=4)
