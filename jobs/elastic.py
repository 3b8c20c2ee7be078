"""Which layouts an elastic run may have: whole model replicas, more or fewer of them, and the same global batch."""

from collections.abc import Sequence

from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.placement import Node
from cluster.spec import with_values
from cluster.storage import Storage
from jobs.devices import device_here
from jobs.fit import check
from jobs.known_devices import device_foreseen
from jobs.layout_forecast import ByForecast
from jobs.search.device import Device
from jobs.search.ranking import Rank, Unfit, by_shape
from jobs.spec import RingSpec
from jobs.worker_group import Workers


def elastic_layouts(spec: RingSpec, rank: Rank = by_shape) -> tuple[list[Layout], list[Unfit]]:
    """Every layout that `train.elastic` lets the run have, and those that a worker's memory does not hold.

    The best one comes first: that with the most replicas.

    A model replica is what `spec.layout` makes it: tensor, context and pipeline stay as they are, and so do the
    micro-batches. Of the replicas, `shard` keeps together as few as divide them, but no fewer than the spec says, so
    that a worker's part of the weights does not grow; where there are fewer replicas, all of them. `accumulation` is
    the least that divides the batch with no more rows a pass than in the spec. A number of replicas that does not
    divide the batch is passed over.

    Args:
        rank: what is foreseen of layouts; only what fits matters.

    Raises:
        SpecError: the spec's own layout lies out of bounds, or no layout is left.
    """
    elastic, own = spec.train.elastic, spec.layout
    assert elastic is not None, "the spec is not elastic"
    check_bounds(spec)
    of_replica = own.num_workers // own.num_replicas
    counts = range(elastic.max_workers // of_replica, 0, -1)
    within = [count for count in counts if count * of_replica >= elastic.min_workers]
    layouts = [layout for count in within if (layout := _with_replicas(own, count, spec.train.batch_size))]
    legal = [layout for layout in layouts if _is_legal(spec, layout)]
    foreseen = rank(spec, legal)
    unfit = {each.layout: each for each in foreseen.unfit}
    found = [layout for layout in legal if layout not in unfit]
    if not found:
        least = f": {foreseen.unfit[0].layout.line()} {foreseen.unfit[0].reason}" if unfit else ""
        raise SpecError(
            f"train.elastic: none of the {len(layouts)} layouts of {elastic.min_workers} to {elastic.max_workers} "
            f"workers fits{least}; give layout ({own.line()}) more shard, tensor or recompute=true"
        )
    return found, [unfit[layout] for layout in legal if layout in unfit]


def layouts_that_fit(spec: RingSpec, storage: Storage, workers: Workers, nodes: Sequence[Node]) -> list[Layout]:
    """Those that by the forecast the devices of such workers on these nodes hold; says of each other one why not.

    All, where nothing is known of the devices.

    Raises:
        SpecError: none is left.
    """
    on = with_values(spec, {"train.device": "gpu" if workers.on_gpu else "cpu"})
    found, unfit = elastic_layouts(spec, _rank(storage, device_here(on, storage, nodes)))
    for each in unfit:
        print(f"train: {_without(each)}", flush=True)
    return found


def elastic_lines(spec: RingSpec, storage: Storage) -> list[str]:
    """The layouts of a run as a plan tells them, by what is known of devices without looking at the cluster."""
    known = device_foreseen(spec, storage)
    try:
        found, unfit = elastic_layouts(spec, _rank(storage, known[1] if known else None))
    except SpecError as error:
        return [f"  {error}"]
    lines = [f"as there is room for, one of: {'; '.join(layout.line() for layout in found)}"]
    return [f"  {line}" for line in (*lines, *map(_without, unfit))]


def _rank(storage: Storage, device: Device | None) -> Rank:
    return ByForecast(storage, device) if device else by_shape


def _without(unfit: Unfit) -> str:
    return f"without {unfit.layout.line()}, which {unfit.reason}"


def check_bounds(spec: RingSpec) -> None:
    """Raise SpecError where the spec is elastic and its own layout lies out of the bounds."""
    elastic, own = spec.train.elastic, spec.layout
    if elastic and not elastic.min_workers <= own.num_workers <= elastic.max_workers:
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
