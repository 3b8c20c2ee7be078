"""A spec trained through the stages: its version's test scores, and how long training took."""

import json
import time
from typing import Any

from cluster.lifecycle import connected
from cluster.storage import Storage
from jobs import train
from jobs.spec import RingSpec


def trained(spec: RingSpec, storage: Storage) -> tuple[dict[str, Any], float]:
    """What the version's metrics.json says, and the seconds of training, validation and publishing."""
    began = time.monotonic()
    with connected():
        folder = train.run(spec, storage).folder
    return json.loads(storage.read(f"{folder}/metrics.json")), time.monotonic() - began
