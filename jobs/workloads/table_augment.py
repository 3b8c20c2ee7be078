"""Rows of a table changed by chance for training: noise on numbers, cells of another row, cells taken away."""

from collections.abc import Callable

import torch
from pydantic import Field

from cluster.spec import Spec
from jobs.workloads.chain import Batch
from jobs.workloads.row_chance import AUGMENT_SALT, normal, uniform

NOISE, SWAP, DROP = AUGMENT_SALT, AUGMENT_SALT + 1, AUGMENT_SALT + 2
"""Salts."""


class TableAugmentSpec(Spec):
    """What is changed by chance in every row of training, anew in each epoch; columns of vectors stay as they are."""

    noise: float = Field(0, ge=0)
    """The standard deviation of normal noise on each number, where that of a standardised column is 1."""
    swap: float = Field(0, ge=0, lt=1)
    """The probability with which a cell is that of another row (Bahri et al., 2022, SCARF)."""
    drop: float = Field(0, ge=0, lt=1)
    """The probability with which a cell is empty."""


def augmented(spec: TableAugmentSpec, batch: Batch, other: Callable[[], Batch]) -> Batch:
    """Rows as training sees them.

    Args:
        batch: `numbers` and `is_missing` [rows, numbers] float, 0 and 1 where a number is missing, `categories`
            [rows, categories] int64, 0 where one is missing or unknown, and `key` [rows].
        other: another row for each, or now and then the same.
    """
    numbers, is_missing, categories = batch["numbers"], batch["is_missing"], batch["categories"]
    num_numbers, num_cells = numbers.shape[1], numbers.shape[1] + categories.shape[1]
    if spec.swap:
        given = other()
        chosen = uniform(batch["key"], num_cells, SWAP) < spec.swap
        of_numbers, of_categories = chosen[:, :num_numbers], chosen[:, num_numbers:]
        numbers = torch.where(of_numbers, given["numbers"], numbers)
        is_missing = torch.where(of_numbers, given["is_missing"], is_missing)
        categories = torch.where(of_categories, given["categories"], categories)
    if spec.noise:
        numbers = numbers + spec.noise * normal(batch["key"], num_numbers, NOISE) * (1 - is_missing)
    if spec.drop:
        kept = uniform(batch["key"], num_cells, DROP) >= spec.drop
        of_numbers, of_categories = kept[:, :num_numbers], kept[:, num_numbers:]
        numbers, categories = numbers * of_numbers, categories * of_categories
        is_missing = torch.where(of_numbers, is_missing, 1)
    return batch | {"numbers": numbers, "is_missing": is_missing, "categories": categories}
