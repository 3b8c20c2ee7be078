"""The search space of a spec: which keys a trial draws, in which order, and the draw itself as Optuna's define-by-run.

Ray's OptunaSearch hands nested Ray domains on unsampled; a function of the trial has no such trap.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from cluster.errors import SpecError
from jobs.spec import Choices, ChoicesSpec, Dimension, RangeSpec, RingSpec

Values = dict[str, bool | int | float | str]
Space = Mapping[str, Dimension]
LOOKED_AT = 256
"""Whole numbers of a range that are looked at before a trial starts."""


def conditions(dimension: Dimension) -> Mapping[str, Choices]:
    """Keys, each with the values that it must have one of; none where the dimension is always searched."""
    return {} if isinstance(dimension, list) else dimension.when


def listed(dimension: Dimension) -> Choices:
    """The values of a list, or of a range what is looked at before a trial starts, of the type that is drawn.

    That is the two ends, and of whole numbers all, or as many evenly between the ends as are looked at.
    """
    if isinstance(dimension, RangeSpec):
        if not dimension.integer:
            return [dimension.low, dimension.high]
        low, high = int(dimension.low), int(dimension.high)
        num_steps = (high - low) // dimension.step
        skipped = -(-num_steps // LOOKED_AT)
        return [*range(low, high, dimension.step * skipped), high]
    return dimension.choices if isinstance(dimension, ChoicesSpec) else dimension


def in_order(space: Space) -> dict[str, Dimension]:
    """The same keys, each after those that its condition speaks of.

    Raises:
        SpecError: a condition speaks, by way of others, of its own key.
    """
    left, ordered = dict(space), dict[str, Dimension]()
    while left:
        ready = [key for key, dimension in left.items() if left.keys().isdisjoint(conditions(dimension))]
        if not ready:
            raise SpecError(
                f"tune.space: the conditions of {', '.join(left)} wait for each other; leave one `when` out"
            )
        ordered[ready[0]] = left.pop(ready[0])
    return ordered


def own_values(spec: RingSpec) -> Values:
    """What the spec itself says of each key that is searched, or that a condition speaks of."""
    tree = spec.model_dump(mode="json")
    spoken = {key for dimension in spec.tune.space.values() for key in conditions(dimension)}
    return {key: _value_at(tree, key) for key in (*spec.tune.space, *sorted(spoken - spec.tune.space.keys()))}


def sample(trial: Trial, space: Space, own: Mapping[str, Any]) -> Values:
    """Draw one point of the space: a value for each key whose condition holds.

    Args:
        space: `in_order`.
        own: see `own_values`.
    """
    drawn: Values = {}
    for key, dimension in space.items():
        if holds(dimension, {**own, **drawn}):
            drawn[key] = _draw(trial, key, dimension)
    return drawn


def holds(dimension: Dimension, values: Mapping[str, Any]) -> bool:
    """Whether the dimension is searched, where the keys of its condition have these values."""
    return all(values[key] in wanted for key, wanted in conditions(dimension).items())


def examples(space: Space) -> Iterator[tuple[str, Values]]:
    """Each key with each of its `listed` values, and with what its condition, and theirs in turn, ask for first."""
    for key, dimension in space.items():
        for value in listed(dimension):
            yield key, {**_first_held(space, key), key: value}


def distribution(dimension: Dimension) -> BaseDistribution:
    """What Optuna draws from."""
    if not isinstance(dimension, RangeSpec):
        return CategoricalDistribution(listed(dimension))
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=dimension.step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def show(dimension: Dimension) -> str:
    """In a few words."""
    when = "; ".join(f"{key} is {' or '.join(map(str, wanted))}" for key, wanted in conditions(dimension).items())
    condition = f", where {when}" if when else ""
    if not isinstance(dimension, RangeSpec):
        return f"{', '.join(map(str, listed(dimension)))}{condition}"
    kind = "whole numbers from " if dimension.integer else ""
    by = ", in the logarithm" if dimension.log else f" by {dimension.step}" if dimension.step > 1 else ""
    return f"{kind}{dimension.low:g} to {dimension.high:g}{by}{condition}"


def _draw(trial: Trial, key: str, dimension: Dimension) -> Any:
    # Ray notes what each of these three methods returns, so no other will do.
    if not isinstance(dimension, RangeSpec):
        return trial.suggest_categorical(key, listed(dimension))
    if dimension.integer:
        return trial.suggest_int(key, int(dimension.low), int(dimension.high), step=dimension.step, log=dimension.log)
    return trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)


def _first_held(space: Space, key: str) -> Values:
    values: Values = {}
    for other, wanted in conditions(space[key]).items():
        if other in space:
            values |= _first_held(space, other)
        values[other] = wanted[0]
    return values


def _value_at(tree: Any, key: str) -> Any:
    """The value of a dotted key; None where there is no such section."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
