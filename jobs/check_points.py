"""Whether every point of a search space can begin: what it starts and learns from is there, and fits."""

from cluster.errors import SpecError, UserError
from cluster.registry import Registry
from cluster.spec import with_values
from cluster.storage import Storage
from jobs.search.space import examples, in_order
from jobs.spec import RingSpec
from jobs.start import check_start
from jobs.teacher import check_teacher
from jobs.trainable import check_trainable


def check_points(spec: RingSpec, storage: Storage, prepared: str) -> None:
    """Raise SpecError unless it can; reads shapes alone, once a value that is listed.

    Args:
        prepared: where the rows lie.
    """
    for key, values in examples(in_order(spec.tune.space)):
        point = with_values(spec, values)
        try:
            _check_names(spec, point, storage)
            check_teacher(point, storage, prepared)
            check_start(point, storage, prepared)
            check_trainable(point, storage, prepared)
        except UserError as error:
            raise SpecError(f"tune.space.{key}={values[key]}: {error}") from None


def _check_names(spec: RingSpec, point: RingSpec, storage: Storage) -> None:
    """Raise SpecError where a version of the space goes by an alias: the spec's own is looked up once for all."""
    for key in ("start", "distill"):
        given = getattr(point.train, key)
        if given is None or given.version is None or given == getattr(spec.train, key):
            continue
        resolved = Registry(storage, given.model or spec.name).resolve(given.version)
        if resolved != given.version:
            raise SpecError(
                f"train.{key}.version={given.version} is an alias, which may be of another version by the time that "
                f"train goes by the plan; give the version: {resolved}"
            )
