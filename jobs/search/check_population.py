"""Whether population-based training can search a space: each member must be able to go on from another's checkpoint.

Of most keys that is found out: a checkpoint must hold the same, by names and shapes, whatever their value. A few change
what the numbers mean though the shapes stay; these are listed.
"""

from collections.abc import Callable, Mapping
from typing import Any

from cluster.errors import SpecError
from cluster.spec import with_values
from jobs.search.space import Space, Values, examples, holds, in_order, listed, own_values
from jobs.spec import RingSpec

MEANS_THE_SAME = "the same weights would mean something else"
NOT_HANDED_OVER = {
    "train.batch_size": "a checkpoint stands at a step, and an epoch would have another number of steps",
    "train.optimizer.name": "what an optimizer keeps of the weights means nothing to another one",
    "train.start": "a member that takes over goes on from another's weights, whatever it started from",
    "train.lora": MEANS_THE_SAME,
    "layout.precision": "members are compared and exchanged as they compute alike",
    "workload.tie_embeddings": "a checkpoint of tied matrices has one of them twice",
    "workload.num_heads": MEANS_THE_SAME,
    "workload.activation": MEANS_THE_SAME,
    "workload.rope_theta": MEANS_THE_SAME,
    "workload.rope_scaling": MEANS_THE_SAME,
    "workload.norm_epsilon": MEANS_THE_SAME,
}
WAY_OUT = "leave it out, or search with tune.scheduler=asha"
MAX_NAMED = 2
"""Differences that a message names."""
Shapes = Mapping[str, tuple[int, ...]]
StateOf = Callable[[RingSpec], Shapes]
"""By names and shapes, what a checkpoint of a spec holds."""


def check_population(spec: RingSpec) -> None:
    """Raise SpecError for what can be known without prepared rows."""
    tune, train = spec.tune, spec.train
    if tune.num_trials == 1:
        raise SpecError(
            "tune.num_trials=1 is a population of one, which has nobody to take over from; give 2 or more, or "
            "tune.scheduler=asha"
        )
    if tune.num_epochs > train.num_epochs:
        raise SpecError(
            f"tune.num_epochs={tune.num_epochs} is more than train.num_epochs={train.num_epochs}, but the members of a "
            "population are trained by the schedule of the run that goes on with the best one; give at most "
            f"tune.num_epochs={train.num_epochs}, or a larger train.num_epochs"
        )
    if tune.perturb_every >= tune.num_epochs:
        raise SpecError(
            f"tune.perturb_every={tune.perturb_every} is not less than tune.num_epochs={tune.num_epochs}, so no member "
            "would ever take over from another; give fewer, or more of tune.num_epochs"
        )
    for key in tune.space:
        for listed_key, reason in NOT_HANDED_OVER.items():
            if key == listed_key or key.startswith(f"{listed_key}."):
                raise SpecError(f"tune.space.{key} cannot be searched with tune.scheduler=pbt: {reason}; {WAY_OUT}")


def check_handed_over(spec: RingSpec, state_of: StateOf) -> None:
    """Raise SpecError unless a checkpoint holds the same with every value of the space."""
    space, own = in_order(spec.tune.space), own_values(spec)
    first = state_of(with_values(spec, _whole(space, own, {})))
    for key, values in examples(space):
        differing = _differences(first, state_of(with_values(spec, _whole(space, own, values))))
        if differing:
            raise SpecError(
                f"tune.space.{key}={values[key]} cannot be searched with tune.scheduler=pbt: a checkpoint with it "
                f"holds {differing}, so that no member could go on from another's; {WAY_OUT}"
            )


def _whole(space: Space, own: Mapping[str, Any], values: Values) -> Values:
    """A point of the space with these values, and of other keys with the first that are listed."""
    found: Values = {}
    for key, dimension in space.items():
        if holds(dimension, {**own, **found}):
            found[key] = values.get(key, listed(dimension)[0])
    return found


def _differences(first: Shapes, other: Shapes) -> str:
    """What the other one holds, and what the first does in its place; empty where they are alike."""
    names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
    if not names:
        return ""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    theirs, ours = (", ".join(_shown(name, state) for name in names[:MAX_NAMED]) for state in (other, first))
    return f"{theirs}{more}, another one {ours}"


def _shown(name: str, state: Shapes) -> str:
    return f"{name} {list(state[name])}" if name in state else f"no {name}"
