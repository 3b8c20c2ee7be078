"""tune: the search for a training strategy, with Ray Tune; writes a plan.

    python -m jobs.tune jobs/specs/recommender.yaml

First the layout, by its speed: a few real steps of those that the forecast finds best. Then everything else, by
quality: trials drawn by Optuna's TPE (Bergstra et al., 2011), the weak ones stopped early by ASHA (Li et al., 2020), or
population-based training (Jaderberg et al., 2017), whose weights train goes on from.
Killed at any moment, the next run goes on where it was.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from cluster.command import run as run_command
from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.lifecycle import connected
from cluster.reservation import check_room, inventory
from cluster.storage import Storage
from jobs.check_points import check_points
from jobs.devices import device_here, devices_of
from jobs.elastic import check_bounds
from jobs.error_record import ErrorRecord, error_so_far
from jobs.fit import check
from jobs.kept_state import kept_state
from jobs.known_devices import device_foreseen
from jobs.layout_forecast import ByForecast
from jobs.layout_trials import LayoutSearch, layout_trials
from jobs.lineage import Made, prepare_inputs, prepared_folder, tune_inputs, why_new
from jobs.population_trials import keep_checkpoint, population_trials
from jobs.prepared import open_split, read_transform
from jobs.quality_trials import quality_trials
from jobs.row_stream import check_window
from jobs.search.candidates import candidates, check_listed, chosen
from jobs.search.check_population import check_handed_over, check_population
from jobs.search.check_space import check_space
from jobs.search.choice import fastest, plan_of
from jobs.search.layouts import Refused
from jobs.search.plan import Plan, plan_folder, read_plan, write_plan
from jobs.search.ranking import Outlook, Rank, Ranking, Unfit, by_shape
from jobs.search.space import show
from jobs.search.trial import LayoutTrial, Trial, layout_of
from jobs.spec import RingSpec
from jobs.stage import main as stage_main
from jobs.start import check_start, settled
from jobs.teacher import check_teacher
from jobs.trainable import check_trainable
from jobs.trial_run import Search
from jobs.worker_group import Workers, num_gpus, workers_of


def run(spec: RingSpec, storage: Storage) -> Made:
    """Search and write a plan, unless that has been done for the same rows, spec and code.

    Raises:
        DataError: nothing is prepared for this spec.
        SpecError: a value of the space, or a layout, does not fit the spec.
    """
    if not spec.tune.is_on:
        return Made("tune", "", False, "tune.num_trials is 0")
    _check(spec, storage)
    inputs = tune_inputs(spec, storage)
    prepared = prepared_folder(spec, storage)
    check_teacher(spec, storage, prepared)
    check_start(spec, storage, prepared)
    check_trainable(spec, storage, prepared)
    if spec.tune.num_trials:
        check_points(spec, storage, prepared)
    folder = plan_folder(spec.name, inputs.key)
    found = read_plan(storage, spec.name, inputs.key)
    if found:
        return Made("tune", folder, False, "unchanged", found.line())
    why = why_new(storage, f"plans/{spec.name}", inputs)
    if spec.tune.is_population:
        transform = read_transform(storage, prepared)
        check_handed_over(spec, lambda point: kept_state(point, transform))
    check_window(open_split(storage, prepared, "train"), spec.train)
    storage.check_shared()
    scratch = f"{folder}.search"
    if storage.exists(scratch):
        print("tune: going on with a search that did not come to its end", flush=True)
    with connected():
        device = device_here(spec, storage, inventory())
        rank: Rank = ByForecast(storage, device, prepared) if device else by_shape
        record = ErrorRecord(storage, f"{spec.name}/{inputs.key}", device)
        found = _search(settled(spec, storage), storage, prepared, scratch, rank, record)
    if found.lineage:
        found = keep_checkpoint(storage, scratch, found, f"{folder}.weights")
    write_plan(storage, folder, found, {**inputs.as_manifest(), "created_at": datetime.now(UTC).isoformat()})
    storage.remove(scratch)
    return Made("tune", folder, True, why, found.line())


def plan(spec: RingSpec, storage: Storage) -> str:
    """What `run` would do."""
    if not spec.tune.is_on:
        return "tune: skip, tune.num_trials is 0"
    _check(spec, storage)
    inputs = tune_inputs(spec, storage)
    found = read_plan(storage, spec.name, inputs.key)
    if found:
        return f"tune: skip, {plan_folder(spec.name, inputs.key)} is there: {found.line()}"
    why = why_new(storage, f"plans/{spec.name}", inputs)
    return "\n".join([f"tune: run ({why})", *_layout_lines(spec, storage), *_trial_lines(spec)])


def _layout_lines(spec: RingSpec, storage: Storage) -> list[str]:
    tune = spec.tune
    if tune.layouts is None:
        return []
    devices = f"{tune.devices} devices" if tune.devices else "the devices that the cluster has"
    of = f"all layouts of {devices}" if tune.layouts == "all" else f"{len(tune.layouts)} layouts"
    known = device_foreseen(spec, storage)
    seen = error_so_far(storage, known[1]) if known else ""
    return [
        f"  {of}: {tune.num_steps} steps of the {tune.num_layouts} that the forecast finds fastest",
        *([f"  so far on {known[0]}: {seen}"] if known and seen else []),
    ]


def _trial_lines(spec: RingSpec) -> list[str]:
    tune = spec.tune
    if not tune.num_trials:
        return []
    layout = spec.layout.line() if tune.layouts is None else "the fastest layout"
    of_layout = f"{spec.layout.num_workers} workers ({layout})" if tune.layouts is None else layout
    on = "" if tune.workers == "one" else f" on {of_layout},"
    at_once = f"{tune.max_concurrent} at once" if tune.max_concurrent else "as many at once as there is room for"
    what = f"{tune.num_trials} trials of at most {tune.num_epochs} epochs"
    if tune.is_population:
        every = f"every {tune.perturb_every} epochs" if tune.perturb_every > 1 else "each epoch"
        what = f"a population of {tune.num_trials}, compared after {every} of {tune.num_epochs}"
    return [
        f"  {what},{on} {at_once}, for the best {spec.train.early_stopping.metric}, over",
        *(f"    {key}: {show(dimension)}" for key, dimension in tune.space.items()),
    ]


def _check(spec: RingSpec, storage: Storage) -> None:
    """Raise SpecError for what can be known before a trial starts, and without a cluster."""
    if spec.tune.layouts is None:
        check_bounds(spec)
    check(spec)
    if spec.tune.num_trials:
        check_space(spec, lambda point: _check_point(spec, point, storage))
    if spec.tune.is_population:
        check_population(spec)
    if isinstance(spec.tune.layouts, tuple):
        check_listed(spec, spec.tune.layouts, _check_layout, spec.tune.devices)


def _check_layout(spec: RingSpec) -> None:
    """Raise SpecError unless train takes the layout: what is found here is for it."""
    check(spec)
    check_bounds(spec)


def _check_point(spec: RingSpec, point: RingSpec, storage: Storage) -> None:
    check(point)
    if point.workload != spec.workload and prepare_inputs(point, storage).key != prepare_inputs(spec, storage).key:
        raise SpecError("another value needs other prepared rows, and all trials share them; set it in the spec")


def _search(spec: RingSpec, storage: Storage, prepared: str, scratch: str, rank: Rank, record: ErrorRecord) -> Plan:
    """Both phases.

    Args:
        rank: what is foreseen of layouts; it can be pickled.
        record: where it is kept how far that was off.

    Raises:
        SpecError, RuntimeError: there is nothing to make a plan of.
    """
    ranking, refused = _ranked(spec, rank)
    measured = _measured(spec, storage, prepared, scratch, ranking, record) if ranking.fits else []
    with _begun_anew_after(storage, scratch):
        layout = layout_of(fastest(measured).layout) if measured else spec.layout
    trials = _tried(spec, layout, storage, prepared, scratch, rank) if spec.tune.num_trials else []
    record.note([*measured, *trials])
    rule = spec.train.early_stopping
    with _begun_anew_after(storage, scratch):
        found = plan_of(rule.metric, rule.mode, trials, measured, ranking, refused)
    return replace(found, forecast_error=record.line())


@contextmanager
def _begun_anew_after(storage: Storage, scratch: str) -> Iterator[None]:
    """Forget the search where it came to nothing, so that the same line tries all of it again."""
    try:
        yield
    except (SpecError, RuntimeError):
        storage.remove(scratch)
        raise


def _ranked(spec: RingSpec, rank: Rank) -> tuple[Ranking, list[Refused]]:
    """The layouts to choose from, by the forecast, and those that there are not; none where none is searched.

    Raises:
        SpecError: none fits.
    """
    if spec.tune.layouts is None:
        return Ranking(()), []
    devices = devices_of(spec)
    num_devices = spec.tune.devices or devices.number
    legal, refused = candidates(spec, num_devices, devices.of_a_node, _check_layout)
    ranking = rank(spec, legal)
    if not ranking.fits:
        first = ranking.unfit[0]
        raise SpecError(
            f"none of {len(legal)} layouts of up to {num_devices} devices fits; the first, {first.layout.line()}: "
            f"{first.reason}. Give a smaller train.batch_size or model, or more devices"
        )
    return ranking, refused


def _measured(
    spec: RingSpec, storage: Storage, prepared: str, scratch: str, ranking: Ranking, record: ErrorRecord
) -> list[LayoutTrial]:
    """The best few by the forecast, measured."""
    gpus, devices = num_gpus(), devices_of(spec)
    best = chosen(ranking.fits, spec.tune.num_layouts)
    for each in best:
        check_room(each.layout, workers_of(spec, each.layout, gpus).demand)
    search = LayoutSearch(
        spec,
        storage,
        prepared,
        scratch,
        partial(_workers_of, spec, gpus),
        min(spec.tune.devices or devices.number, devices.number),
        record.note,
    )
    measured = layout_trials(search, best)
    if seen := record.line():
        print(f"tune: the forecast so far: {seen}", flush=True)
    return measured


def _tried(spec: RingSpec, layout: Layout, storage: Storage, prepared: str, scratch: str, rank: Rank) -> list[Trial]:
    """The points of the space."""
    layout = layout if spec.tune.workers == "layout" else layout.alone()
    workers = workers_of(spec, layout, num_gpus())
    wait = check_room(workers.layout, workers.demand)
    if wait:
        print(f"tune: waiting; {wait}", flush=True)
    search = Search(spec, storage, prepared, scratch, partial(_same, workers), partial(_foresee, rank))
    return population_trials(search) if spec.tune.is_population else quality_trials(search)


def _same(workers: Workers, number: int) -> Workers:
    """On which every trial trains, whatever its number."""
    return workers


def _foresee(rank: Rank, spec: RingSpec, layout: Layout) -> Outlook | Unfit:
    ranking = rank(spec, [layout])
    return ranking.fits[0] if ranking.fits else ranking.unfit[0]


def _workers_of(spec: RingSpec, gpus: float, layout: Layout) -> Workers:
    return workers_of(spec, layout, gpus)


def main(arguments: Sequence[str]) -> int:
    """Run the stage from the command line."""
    return stage_main(__doc__ or "", run, plan, arguments)


if __name__ == "__main__":
    run_command(main)
