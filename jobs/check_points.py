"""Whether every point of a search space can begin: what it starts and learns from is there, and fits."""

from typing import Any

from cluster.errors import SpecError, UserError
from cluster.registry import Registry
from cluster.spec import with_values
from cluster.storage import Storage
from jobs.search.space import Values, examples, in_order
from jobs.spec import RingSpec
from jobs.start import check_start
from jobs.teacher import check_teacher
from jobs.trainable import check_trainable


def check_points(spec: RingSpec, storage: Storage, prepared: str) -> None:
    """Raise SpecError unless it can; a point is read for only where it begins otherwise than the spec, which can.

    Args:
        prepared: where the rows lie.
    """
    known = [_beginning(spec)]
    for key, values in examples(in_order(spec.tune.space)):
        point = with_values(spec, values)
        try:
            _check_names(spec, values, point, storage)
            if _beginning(point) in known:
                continue
            check_teacher(point, storage, prepared)
            check_start(point, storage, prepared)
            check_trainable(point, storage, prepared)
        except UserError as error:
            raise SpecError(f"tune.space.{key}={values[key]}: {error}") from None
        known.append(_beginning(point))


def _beginning(spec: RingSpec) -> tuple[Any, ...]:
    """All of a spec that the checks of how it begins look at."""
    train = spec.train
    return spec.workload, train.start, train.distill, train.freeze, train.lora


def _check_names(spec: RingSpec, values: Values, point: RingSpec, storage: Storage) -> None:
    """Raise SpecError where a version of the space goes by an alias; the spec's own counts by what it stands for."""
    drawn = spec.tune.space.keys() & values.keys()
    for section in ("start", "distill"):
        if drawn.isdisjoint({f"train.{section}.version", f"train.{section}.model"}):
            continue
        given = getattr(point.train, section)
        resolved = Registry(storage, given.model or spec.name).resolve(given.version)
        if resolved != given.version:
            raise SpecError(
                f"train.{section}.version={given.version} is an alias, which may be of another version by the time "
                f"that train goes by the plan; give the version: {resolved}"
            )
