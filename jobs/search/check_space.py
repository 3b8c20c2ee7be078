"""Whether a spec takes every point of its search space: said before a trial starts."""

from collections.abc import Callable
from typing import Any

from cluster.errors import SpecError
from cluster.spec import with_values
from jobs.search.space import conditions, examples, in_order, listed, own_values
from jobs.spec import RangeSpec, RingSpec

PRECISION = "layout.precision"
SEARCHED = ("workload.", "train.", PRECISION)
NOT_SEARCHED = {
    "train.num_epochs": "tune.num_epochs says how long a trial is",
    "train.early_stopping": "it says which trial is the best",
    "train.elastic": "trials are not elastic",
}


def check_space(spec: RingSpec, check_point: Callable[[RingSpec], None]) -> None:
    """Raise SpecError where a key, a value or a condition of the space cannot be.

    Args:
        check_point: raises SpecError where a spec with values of the space in it cannot be trained.
    """
    space = spec.tune.space
    if not space:
        raise SpecError("tune.space is empty but tune.num_trials is not 0; give keys to search, or tune.num_trials=0")
    for key, dimension in space.items():
        if not listed(dimension):
            raise SpecError(f"tune.space.{key} lists no value; give one, or leave the key out")
    own = own_values(spec)
    for key in space:
        for other, wanted in conditions(space[key]).items():
            _check_condition(spec, key, other, wanted, own[other])
    for key, values in examples(in_order(space)):
        try:
            _check_key(key)
            check_point(with_values(spec, values))
        except SpecError as error:
            raise SpecError(f"tune.space.{key}={values[key]}: {error}") from None


def _check_key(key: str) -> None:
    for prefix, reason in NOT_SEARCHED.items():
        if f"{key}.".startswith(f"{prefix}."):
            raise SpecError(f"{prefix} cannot be searched, {reason}")
    if not key.startswith(SEARCHED):
        raise SpecError(f"only keys of workload and train, and {PRECISION}, can be searched, '{key}' is none")


def _check_condition(spec: RingSpec, key: str, other: str, wanted: list[Any], own: Any) -> None:
    """Raise SpecError unless some trial could meet it."""
    where = f"tune.space.{key}.when.{other}"
    if not wanted:
        raise SpecError(f"{where} lists no value, so the key is never searched; give one, or leave the condition out")
    dimension = spec.tune.space.get(other)
    if isinstance(dimension, RangeSpec):
        raise SpecError(
            f"{where}: a condition asks for one of some values, but {other} is searched in a range; list it"
        )
    if dimension is None:
        _check_unsearched(spec, where, other, wanted)
        return
    never = [value for value in wanted if value not in listed(dimension)]
    if never:
        shown = ", ".join(map(str, listed(dimension)))
        raise SpecError(f"{where}: {other} is never {' or '.join(map(str, never))}; it is one of {shown}")


def _check_unsearched(spec: RingSpec, where: str, other: str, wanted: list[Any]) -> None:
    """Raise SpecError unless the key, which is not searched, is one of the spec that could have the values."""
    for value in wanted:
        try:
            with_values(spec, {other: value})
        except SpecError as error:
            raise SpecError(f"{where}={value}: {error}") from None
