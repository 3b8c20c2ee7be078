import torch

from jobs.features.bpe import START
from jobs.workloads.text_augment import TextAugmentSpec, augmented

NUM_ROWS, LENGTH = 500, 64


def tokens() -> torch.Tensor:
    """Each row has tokens of its own, a border at its beginning and filling at its end."""
    given = torch.arange(LENGTH) + 100 * torch.arange(NUM_ROWS)[:, None] + START + 1
    given[:, 0] = given[:, -4:] = START
    return given


def test_a_share_of_the_tokens_is_replaced_by_tokens_of_the_same_row() -> None:
    given, key = tokens(), torch.arange(NUM_ROWS)
    found = augmented(TextAugmentSpec(replace=0.3), given, key)
    replaced = found != given
    inner = replaced[:, 1:-4].double()
    wanted = 0.3 * 58 / 64  # a border is not taken, and one in 64 is the token itself
    assert abs(inner.mean() - wanted) < 5 * (wanted * (1 - wanted) / inner.numel()) ** 0.5
    assert bool(((found >= given[:, 1:2]) & (found <= given[:, -5:-4]) | (found == START)).all())


def test_borders_of_documents_and_filling_stay() -> None:
    given = tokens()
    found = augmented(TextAugmentSpec(replace=0.99), given, torch.arange(NUM_ROWS))
    assert torch.equal(found == START, given == START)


def test_every_place_of_a_row_is_drawn_from_alike() -> None:
    given = torch.arange(8).expand(20_000, -1)
    found = augmented(TextAugmentSpec(replace=0.999), given, torch.arange(20_000))
    counts = found.flatten().bincount(minlength=8).double() / found.numel()
    torch.testing.assert_close(counts, torch.full((8,), 1 / 8).double(), rtol=0.02, atol=0)


def test_a_row_is_changed_alike_wherever_it_stands_and_another_key_changes_it_otherwise() -> None:
    given, key, spec = tokens(), torch.arange(NUM_ROWS), TextAugmentSpec(replace=0.3)
    whole = augmented(spec, given, key)
    assert torch.equal(augmented(spec, given[5:8], key[5:8]), whole[5:8])
    assert not (augmented(spec, given, key + 10**6) == whole).all(1).any()
