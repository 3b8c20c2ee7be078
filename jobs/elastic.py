"""Which layouts an elastic run may have: whole model replicas, more or fewer of them, and the same global batch."""

from collections.abc import Callable

from cluster.errors import SpecError
from cluster.layout import Layout
from jobs.fit import check
from jobs.spec import ElasticSpec, RingSpec

Fits = Callable[[Layout], bool]
"""Whether a worker of the layout has memory enough."""


def elastic_layouts(spec: RingSpec, fits: Fits = lambda layout: True) -> list[Layout]:
    """Every layout that `train.elastic` lets the run have, the best one first: that with the most replicas.

    A model replica is what `spec.layout` makes it: tensor, context and pipeline stay as they are, and so do the
    micro-batches. Of the replicas, `shard` keeps together as few as divide them, but no fewer than the spec says, so
    that a worker's part of the weights does not grow; where there are fewer replicas, all of them. `accumulation` is
    the least that divides the batch with no more rows a pass than in the spec. A number of replicas that does not
    divide the batch is passed over.

    Args:
        fits: refuses layouts besides.

    Raises:
        SpecError: the spec's own layout lies out of bounds, or no layout is left.
    """
    elastic, own = spec.train.elastic, spec.layout
    assert elastic is not None, "the spec is not elastic"
    _check_bounds(own, elastic)
    of_replica = own.num_workers // own.num_replicas
    counts = range(elastic.max_workers // of_replica, 0, -1)
    within = [count for count in counts if count * of_replica >= elastic.min_workers]
    layouts = [layout for count in within if (layout := _with_replicas(own, count, spec.train.batch_size))]
    found = [layout for layout in layouts if _is_legal(spec, layout) and fits(layout)]
    if not found:
        raise SpecError(
            f"train.elastic: none of the {len(layouts)} layouts of {elastic.min_workers} to {elastic.max_workers} "
            f"workers fits into their memory; give layout ({own.line()}) more shard, tensor or recompute=true"
        )
    return found


def _check_bounds(own: Layout, elastic: ElasticSpec) -> None:
    if not elastic.min_workers <= own.num_workers <= elastic.max_workers:
        raise SpecError(
            f"train.elastic: layout ({own.line()}) has {own.num_workers} workers, which is not between "
            f"min_workers={elastic.min_workers} and max_workers={elastic.max_workers}; change layout or the bounds"
        )


def _with_replicas(own: Layout, count: int, batch_size: int) -> Layout | None:
    """So many replicas, with passes of no more rows than the spec's own; None where they do not divide the batch."""
    if batch_size % (count * own.micro_batches):
        return None
    shard = next(size for size in range(min(own.shard, count), count + 1) if count % size == 0)
    rows, own_rows = batch_size // count, batch_size // (own.num_replicas * own.accumulation)
    accumulation = next(
        passes
        for passes in range(1, rows + 1)
        if rows % (passes * own.micro_batches) == 0 and rows // passes <= own_rows
    )
    parts = {"replicate": count // shard, "shard": shard, "accumulation": accumulation}
    return own.model_copy(update=parts)


def _is_legal(spec: RingSpec, layout: Layout) -> bool:
    try:
        check(spec.model_copy(update={"layout": layout}))
    except SpecError:
        return False
    return True
