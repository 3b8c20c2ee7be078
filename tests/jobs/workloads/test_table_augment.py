import pytest
import torch

from jobs.workloads.chain import Batch
from jobs.workloads.table_augment import TableAugmentSpec, augmented

NUM_ROWS = 4000
ALL = TableAugmentSpec(noise=0.2, swap=0.3, drop=0.1)


def rows(first: int = 0, num: int = NUM_ROWS) -> Batch:
    """Cells that say whose they are; every tenth row has no first number."""
    number = torch.arange(first, first + num, dtype=torch.float32)
    is_missing = torch.stack([number % 10 == 0, torch.zeros(num, dtype=torch.bool)], dim=1).float()
    return {
        "numbers": torch.stack([number, -number], dim=1) * (1 - is_missing),
        "is_missing": is_missing,
        "categories": torch.stack([number, number + 1, number + 2], dim=1).long() + 1,
        "vectors": number[:, None],
        "class": number.long(),
        "key": torch.arange(first, first + num),
    }


def others() -> Batch:
    return rows(NUM_ROWS)


def asked_for_none() -> Batch:
    raise AssertionError("no other rows are wanted")


def share_is(found: torch.Tensor, wanted: float) -> bool:
    return abs(float(found.double().mean()) - wanted) < 5 * (wanted * (1 - wanted) / found.numel()) ** 0.5


def test_noise_is_on_numbers_that_are_there_alone() -> None:
    given = rows()
    found = augmented(TableAugmentSpec(noise=0.5), given, asked_for_none)
    noise, is_there = found["numbers"] - given["numbers"], given["is_missing"] == 0
    assert noise[is_there].std() == pytest.approx(0.5, rel=0.05)
    assert not noise[~is_there].any()
    assert all(torch.equal(found[name], given[name]) for name in given if name != "numbers")


def test_a_dropped_number_is_missing_and_a_dropped_category_unknown() -> None:
    given = rows()
    found = augmented(TableAugmentSpec(drop=0.25), given, asked_for_none)
    dropped = found["categories"] == 0
    assert share_is(dropped, 0.25)
    assert torch.equal(found["categories"][~dropped], given["categories"][~dropped])
    gone = found["is_missing"] == 1
    assert share_is(gone[:, 1], 0.25)
    assert share_is(gone[:, 0], 0.1 + 0.9 * 0.25)
    assert not found["numbers"][gone].any()
    assert torch.equal(found["numbers"][~gone], given["numbers"][~gone])
    for name in ("vectors", "class", "key"):
        assert torch.equal(found[name], given[name])


def test_a_swapped_cell_is_the_other_rows_with_whether_it_is_missing() -> None:
    given = rows()
    found = augmented(TableAugmentSpec(swap=0.4), given, others)
    for names in (("numbers", "is_missing"), ("categories",)):
        swapped = found[names[0]] != given[names[0]]
        assert share_is(swapped[:, 1], 0.4)
        for name in names:
            assert torch.equal(found[name], torch.where(swapped, others()[name], given[name]))
    for name in ("vectors", "class", "key"):
        assert torch.equal(found[name], given[name])


def test_tables_of_numbers_or_of_categories_alone_are_changed_too() -> None:
    nothing = torch.empty(NUM_ROWS, 0)
    given = rows() | {"numbers": nothing, "is_missing": nothing}
    found = augmented(ALL, given, lambda: others() | {"numbers": nothing, "is_missing": nothing})
    assert found["numbers"].shape == found["is_missing"].shape == nothing.shape
    assert not torch.equal(found["categories"], given["categories"])
    given, none = rows(), nothing.long()
    found = augmented(ALL, given | {"categories": none}, lambda: others() | {"categories": none})
    assert found["categories"].shape == none.shape
    assert not torch.equal(found["numbers"], given["numbers"])


def test_what_is_done_to_one_cell_says_nothing_of_the_others() -> None:
    kept = augmented(TableAugmentSpec(drop=0.5), rows(), asked_for_none)
    gone = torch.cat([kept["is_missing"][:, 1:], (kept["categories"] == 0).float()], dim=1)
    related = torch.corrcoef(gone.T)[~torch.eye(4, dtype=torch.bool)]
    assert related.abs().max() < 5 / NUM_ROWS**0.5


def test_a_row_is_changed_alike_wherever_it_stands_and_another_key_changes_it_otherwise() -> None:
    given = rows()
    whole = augmented(ALL, given, others)
    part = augmented(ALL, {name: values[7:9] for name, values in given.items()}, lambda: rows(NUM_ROWS + 7, 2))
    for name, values in part.items():
        torch.testing.assert_close(values, whole[name][7:9])
    other_key = augmented(ALL, given | {"key": given["key"] + 10**6}, others)
    assert not torch.isclose(other_key["numbers"], whole["numbers"]).all(1)[given["is_missing"][:, 0] == 0].all()
