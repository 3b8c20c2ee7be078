import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from serving.sampling import Sampler, Sampling, only

LOGITS = torch.tensor([1.0, 2.0, -math.inf, 0.0])
SHARES = [math.exp(1), math.exp(2), 0.0, 1.0]


def drawn(sampling: Sampling, logits: Tensor = LOGITS, times: int = 4000) -> list[float]:
    """The share of each token, each time in a new text."""
    counts = Counter(Sampler(Sampling(**{**vars(sampling), "seed": seed})).draw(logits) for seed in range(times))
    return [counts[token] / times for token in range(len(logits))]


def shares(weights: list[float]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


def test_tokens_come_as_often_as_they_are_likely() -> None:
    assert drawn(Sampling()) == pytest.approx(shares(SHARES), abs=0.03)


def test_a_low_temperature_sharpens_and_0_takes_the_likeliest() -> None:
    assert drawn(Sampling(temperature=0.5)) == pytest.approx(shares([each**2 for each in SHARES]), abs=0.03)
    assert drawn(Sampling(temperature=0), times=20) == [0, 1, 0, 0]


@pytest.mark.parametrize("sampling", [Sampling(temperature=1e-40), Sampling(temperature=1e-320), Sampling(top_p=1e-50)])
def test_what_is_hardly_above_0_takes_the_likeliest_too(sampling: Sampling) -> None:
    """1e-40 made infinities of logits, and float32 has no 1e-50."""
    assert drawn(sampling, times=20) == [0, 1, 0, 0]
    assert drawn(sampling, LOGITS * 1000, times=20) == [0, 1, 0, 0]


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, [1]), (0.66, [1]), (0.67, [0, 1]), (0.9, [0, 1]), (0.92, [0, 1, 3])])
def test_only_the_fewest_tokens_that_are_so_likely_together_are_drawn(top_p: float, kept: list[int]) -> None:
    """Their shares are 0.665, 0.245 and 0.090."""
    wanted = shares([share if token in kept else 0.0 for token, share in enumerate(SHARES)])
    assert drawn(Sampling(top_p=top_p)) == pytest.approx(wanted, abs=0.03)


def test_a_seed_draws_the_same_text_again_and_none_another() -> None:
    def text(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(seed=seed))
        return [sampler.draw(torch.zeros(100)) for _ in range(20)]

    assert text(1) == text(1) != text(2)
    assert text(None) != text(None)


def test_penalties_are_taken_for_each_time_and_once() -> None:
    """By hand: logits 3, 2, 0; after two draws of token 0 it has 3 - 2 x 0.4 - 0.5 = 1.7."""
    logits = torch.tensor([3.0, 2.0, 0.0])
    sampler = Sampler(Sampling(temperature=0, frequency_penalty=0.4, presence_penalty=0.5))
    assert [sampler.draw(logits) for _ in range(3)] == [0, 0, 1]
    sampler = Sampler(Sampling(temperature=0, frequency_penalty=0.4))
    assert [sampler.draw(logits) for _ in range(4)] == [0, 0, 0, 1]
    sampler = Sampler(Sampling(temperature=0, presence_penalty=0.9))
    assert [sampler.draw(logits) for _ in range(3)] == [0, 0, 0]


def test_only_tokens_that_text_is_made_of_are_left() -> None:
    left = only(torch.zeros(2, 6), num_known=4, left_out={1})
    assert left.isfinite().tolist() == [[True, False, True, True, False, False]] * 2
