"""Which layouts a search chooses from, which of them it measures, and which of those in one group of workers."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.spec import with_values
from jobs.search.layouts import Refused, legal_layouts, why_refused
from jobs.search.ranking import Outlook
from jobs.search.space import examples, in_order
from jobs.spec import RingSpec

MOST_OF_A_SHAPE = 2
"""Layouts of the same axes that are measured: the forecast is surer of their order than of that of shapes."""


Check = Callable[[RingSpec], None]
"""Raises SpecError where a spec cannot be trained."""


def candidates(
    spec: RingSpec, num_devices: int, devices_a_node: int, check: Check
) -> tuple[list[Layout], list[Refused]]:
    """The layouts that every point of the space can be trained on, of all devices or a divisor of them; and the others.

    Raises:
        SpecError: a layout that the spec lists is none of this model, or there is none at all.
    """
    if isinstance(spec.tune.layouts, tuple):
        check_listed(spec, spec.tune.layouts, check, num_devices, devices_a_node)
        shared = {"precision": spec.layout.precision, "compile": spec.layout.compile}
        return [layout.model_copy(update=shared) for layout in spec.tune.layouts], []
    points = _points(spec)
    legal: list[Layout] = []
    refused: list[Refused] = []
    for num_workers in (size for size in range(1, num_devices + 1) if num_devices % size == 0):
        found, others = legal_layouts(spec, num_workers, devices_a_node)
        refused += others
        for layout in found:
            reason = _why(points, layout, devices_a_node, check)
            if reason:
                refused.append(Refused(layout, reason))
            else:
                legal.append(layout)
    if not legal and not refused:
        raise SpecError(
            f"tune.layouts=all: there is no layout for the {num_devices} devices at hand; give a smaller "
            "placement.cpus_per_worker or placement.gpus_per_worker, or add nodes"
        )
    if not legal:
        first = refused[0]
        raise SpecError(
            f"tune.layouts=all: none of {len(refused)} layouts of {num_devices} devices, or a divisor of them, can be "
            f"trained on; the first, {first.layout.line()}: {first.reason}"
        )
    return legal, refused


def chosen(ranked: Sequence[Outlook], num_layouts: int) -> list[Outlook]:
    """So many of the fastest by the forecast, no more than two of one shape."""
    taken: list[Outlook] = []
    shapes: Counter[tuple[int, ...]] = Counter()
    for outlook in ranked:
        shape = outlook.layout.sizes
        if len(taken) < num_layouts and shapes[shape] < MOST_OF_A_SHAPE:
            shapes[shape] += 1
            taken.append(outlook)
    return taken


def gangs(outlooks: Sequence[Outlook], num_devices: int) -> list[list[Outlook]]:
    """The layouts that one group of workers measures in turn, from the smallest to the largest by memory.

    Those of one group have as many workers, in tensor groups of one size, so that they stand on the same reservation;
    there are as many groups of a kind as there is room for at a time.
    """
    kinds: dict[tuple[int, int], list[Outlook]] = defaultdict(list)
    for outlook in sorted(outlooks, key=lambda each: each.memory_bytes or 0):
        kinds[outlook.layout.num_workers, outlook.layout.tensor].append(outlook)
    found = []
    for (num_workers, _), alike in kinds.items():
        num_groups = min(len(alike), max(num_devices // num_workers, 1))
        found += [alike[first::num_groups] for first in range(num_groups)]
    return found


def check_listed(
    spec: RingSpec,
    layouts: Sequence[Layout],
    check: Check,
    num_devices: int | None,
    devices_a_node: int | None = None,
) -> None:
    """Raise SpecError unless every point of the space can be trained on each of the layouts, on so many devices.

    Args:
        num_devices: None where that is not known yet, as `devices_a_node`.
    """
    if not layouts:
        raise SpecError("tune.layouts lists none; give layouts, or `all`, or leave it out")
    points = _points(spec)
    for number, layout in enumerate(layouts):
        where = f"tune.layouts.{number} ({layout.line()})"
        if num_devices is not None and layout.num_workers > num_devices:
            raise SpecError(
                f"{where} needs {layout.num_workers} devices, there are {num_devices}; lower an axis, or add some"
            )
        reason = _why(points, layout, devices_a_node or layout.tensor, check)
        if reason:
            raise SpecError(f"{where}: {reason}")


def _points(spec: RingSpec) -> list[RingSpec]:
    """The spec, and what each value of its space makes of it where that is searched."""
    if not spec.tune.num_trials:
        return [spec]
    return [spec, *(with_values(spec, values) for _, values in examples(in_order(spec.tune.space)))]


def _why(points: Sequence[RingSpec], layout: Layout, devices_a_node: int, check: Check) -> str:
    """Why a point of the space cannot be trained on the layout; empty where all can."""
    for point in points:
        reason = why_refused(point, layout, devices_a_node)
        if reason:
            return reason
        try:
            check(point.model_copy(update={"layout": layout}))
        except SpecError as error:
            return str(error)
    return ""
