"""The best layout before a device is rented, and what it is foreseen by.

    python -m jobs.search plan SPEC [key=value ...] --devices 8xH100 [--top 12]
    python -m jobs.search calibrate SPEC [key=value ...] [--workers 8] [--name measured]
    python -m jobs.search report SPEC [key=value ...]

`plan` needs no device and no cluster; `calibrate` measures the devices of the cluster, as `8xmeasured` calls them then;
`report` makes a page of what `jobs.tune` found.
"""

import re
from argparse import ArgumentParser
from collections.abc import Sequence

from cluster.command import run as run_command
from cluster.errors import DataError, SpecError
from cluster.storage import Storage
from jobs.error_record import error_so_far
from jobs.fit import check
from jobs.known_devices import MEASURED, device_of
from jobs.layout_forecast import forecaster_of
from jobs.lineage import tune_inputs
from jobs.search.plan_table import drawing, table
from jobs.spec import RingSpec, load_ring

DEVICES = re.compile(r"(\d+)x(.+)")


def plan(spec: RingSpec, storage: Storage, devices: str, num_shown: int) -> str:
    """The layouts of some devices as a table, the fastest first, and a drawing of that one.

    Args:
        devices: such as 8xH100.
        num_shown: of those that fit; at least 1.

    Raises:
        SpecError: the devices are none, nothing would be shown, or no layout of them fits.
        DataError: nothing is prepared, and the model depends on what would be.
    """
    if num_shown < 1:
        raise SpecError(f"--top {num_shown}: at least one layout is shown; give 1 or more")
    number, name = parsed(devices)
    device = device_of(name, storage, spec.tune.device_table)
    check(spec.model_copy(update={"layout": spec.layout.alone()}))
    forecasts = forecaster_of(spec, storage, device).rank(number)
    seen = error_so_far(storage, device) or "nothing measured yet"
    shown = f"{table(forecasts, num_shown, spec.train.batch_size, device)}\nso far on {name}: {seen}"
    if not forecasts.fits:
        least = f"; {forecasts.unfit[0].reason}" if forecasts.unfit else ""
        raise SpecError(f"no layout of {devices} holds this model and batch{least}\n{shown}")
    best = forecasts.fits[0].layout
    overrides = " ".join(f"layout.{part}" for part in best.line().split()) if best.num_workers > 1 else ""
    return "\n".join([shown, f"the fastest: {overrides or 'one worker'}", drawing(best, device.devices_a_node)])


def report(spec: RingSpec, storage: Storage) -> str:
    """Where the page of the spec's search lies now.

    Raises:
        DataError: nothing was searched for this spec and data.
    """
    # Not at the top: what draws the page takes a second to import, and `plan` is to be quick.
    from jobs.report.plan_page import write_plan_page

    try:
        return f"what the search found: {write_plan_page(storage, spec.name, tune_inputs(spec, storage).key)}"
    except FileNotFoundError:
        raise DataError("nothing was searched for this spec and data; run first: python -m jobs.tune SPEC") from None


def parsed(devices: str) -> tuple[int, str]:
    """How many of which device.

    Raises:
        SpecError: it is not of the form 8xH100.
    """
    found = DEVICES.fullmatch(devices)
    if not found or int(found[1]) < 1:
        raise SpecError(f"--devices {devices} is not of the form NUMBERxNAME; give for example 8xH100")
    return int(found[1]), found[2]


def main(arguments: Sequence[str]) -> int:
    """Do what the command line asks for."""
    parser = ArgumentParser("python -m jobs.search", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="plan | calibrate | report")
    planning = commands.add_parser("plan", help="rank the layouts of some devices, without any")
    planning.add_argument("--devices", required=True, metavar="8xH100", help="how many of which")
    planning.add_argument("--top", type=int, default=12, help="how many of those that fit are shown")
    measuring = commands.add_parser("calibrate", help="measure the devices of the cluster, for some seconds")
    measuring.add_argument("--workers", type=int, help="devices that are measured, all at once; 2 where there are two")
    measuring.add_argument("--name", default=MEASURED, help="what `--devices` calls them then")
    reporting = commands.add_parser("report", help="make a page of a search")
    for command in (planning, measuring, reporting):
        command.add_argument("spec", metavar="SPEC", help="the workload's YAML, for example jobs/specs/language.yaml")
        command.add_argument("overrides", metavar="key.path=value", nargs="*", help="replaces one value of the spec")
    given = parser.parse_args(arguments)
    spec = load_ring(given.spec, given.overrides)
    storage = Storage(spec.storage)
    if given.command == "plan":
        print(plan(spec, storage, given.devices, given.top))
        return 0
    if given.command == "report":
        print(report(spec, storage))
        return 0
    # Not at the top: `plan` needs no Ray, which takes a second to import.
    from jobs.calibration import calibrate

    storage.check_writable()
    print(calibrate(spec, storage, given.name, given.workers))
    return 0


if __name__ == "__main__":
    run_command(main)
