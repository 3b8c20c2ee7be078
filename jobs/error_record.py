"""The record of how good forecasts were: what each search has measured, by the rates that it was foreseen by.

devices/errors/<rates>/<name>/<key of the search>.json
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from cluster.storage import Storage
from jobs.search.device import Device
from jobs.search.forecast_error import Checked, checked_layout, checked_trial, forecast_error
from jobs.search.trial import LayoutTrial, Trial

FOLDER = "devices/errors"


@dataclass(frozen=True)
class ErrorRecord:
    """That of one search, beside all others; it can be pickled."""

    storage: Storage
    search: str
    """Its name and key."""
    device: Device | None
    """None where nothing is foreseen, and so nothing kept."""

    def note(self, trials: Sequence[LayoutTrial | Trial]) -> None:
        """Keep what all that this search has measured so far came to, durably, in place of what was kept of it.

        What was foreseen by other rates, before the device was calibrated anew, stays where it was kept then.
        """
        if self.device is None:
            return
        ours = [trial for trial in trials if trial.rates == self.device.rates_key]
        found = [_checked(trial, self.device.is_cpu) for trial in ours]
        content = [asdict(each) for each in found if each is not None]
        if content:
            path = f"{FOLDER}/{self.device.rates_key}/{self.search}.json"
            self.storage.write(path, json.dumps(content, indent=1).encode())

    def line(self) -> str:
        """The error over all searches so far, in a line; empty where nothing was measured."""
        return error_so_far(self.storage, self.device) if self.device else ""


def error_so_far(storage: Storage, device: Device) -> str:
    """How far what was measured lay from what these rates let foresee, in a line; empty where nothing was."""
    folder = f"{FOLDER}/{device.rates_key}"
    files = storage.files(folder) if storage.exists(folder) else []
    root = storage.path(folder)
    contents = [json.loads(storage.read(f"{folder}{str(info.path).removeprefix(root)}")) for info in files]
    found = forecast_error([[Checked(**each) for each in content] for content in contents])
    return found.line() if found else ""


def _checked(trial: LayoutTrial | Trial, is_cpu: bool) -> Checked | None:
    return checked_layout(trial) if isinstance(trial, LayoutTrial) else checked_trial(trial, is_cpu)
