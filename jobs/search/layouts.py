"""Every layout of so many workers, and why those that a model cannot be trained on are none."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from cluster.errors import SpecError
from cluster.layout import AXES, Layout, Precision
from jobs.parallel import check
from jobs.parallel.pipeline import ONE_STAGE_A_WORKER, SCHEDULES
from jobs.spec import RingSpec
from jobs.workloads import WORKLOADS

ROUNDS = (1, 2, 4, 8)
"""Micro-batches of a pipeline in multiples of its length: the more, the less its workers stand idle."""
PASSES = (1, 2, 4, 8, 16, 32)
"""Passes of one step without a pipeline: the more, the smaller its activations."""


@dataclass(frozen=True)
class Refused:
    """A layout that is none for this spec."""

    layout: Layout
    reason: str


def legal_layouts(spec: RingSpec, num_workers: int, devices_a_node: int) -> tuple[list[Layout], list[Refused]]:
    """The layouts of exactly so many workers that the spec's model and batch can be trained on, and the others.

    Precision and compilation are the spec's own. Of a shape that is refused in itself (by its axes) the refused one is
    told once, without its schedules and passes.

    Args:
        devices_a_node: a tensor group never leaves a node.
    """
    legal: list[Layout] = []
    refused: list[Refused] = []
    for axes in _axes(num_workers):
        reasons = {}
        found = False
        for layout in _ways(axes, spec.layout.precision, spec.layout.compile):
            reason = why_refused(spec, layout, devices_a_node)
            if reason:
                reasons[layout] = reason
            else:
                legal.append(layout)
                found = True
        if not found:
            first = next(iter(reasons))
            refused.append(Refused(first, reasons[first]))
    return legal, refused


def why_refused(spec: RingSpec, layout: Layout, devices_a_node: int) -> str:
    """Why the spec cannot be trained on the layout; empty where it can."""
    if layout.tensor > devices_a_node:
        return f"layout.tensor={layout.tensor}: a tensor group stands on one node, which has {devices_a_node} devices"
    workload = WORKLOADS[spec.workload.kind]
    try:
        check(layout, workload.partition(spec.workload), spec.workload.kind)
        layout.check_batch(spec.train.batch_size)
    except SpecError as error:
        return str(error)
    return ""


def _axes(num_workers: int) -> Iterator[dict[str, int]]:
    """Every way to write the number as a product of one factor an axis."""
    divisors = [n for n in range(1, num_workers + 1) if num_workers % n == 0]
    for sizes in product(divisors, repeat=len(AXES) - 1):
        total = 1
        for size in sizes:
            total *= size
        if num_workers % total == 0:
            yield dict(zip(AXES, (*sizes, num_workers // total), strict=True))


def _ways(axes: dict[str, int], precision: Precision, is_compiled: bool) -> Iterator[Layout]:
    """The same axes with each schedule, number of passes, and what else can be chosen."""
    own: dict[str, Any] = {**axes, "precision": precision, "compile": is_compiled}
    by_sequence = (False, True) if axes["tensor"] > 1 else (False,)
    for sequence_parallel, recompute in product(by_sequence, (False, True)):
        ways = {**own, "sequence_parallel": sequence_parallel, "recompute": recompute}
        if axes["pipeline"] == 1:
            yield from (Layout(**ways, accumulation=passes) for passes in PASSES)
            continue
        for schedule, rounds in product(SCHEDULES, ROUNDS):
            if schedule in ONE_STAGE_A_WORKER or not recompute or schedule == "interleaved_1f1b":
                yield Layout(**ways, schedule=schedule, micro_batches=rounds * axes["pipeline"])
