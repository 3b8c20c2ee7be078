"""A GAN that was trained for a moment on real digits and published."""

from pathlib import Path
from typing import NamedTuple

from cluster.storage import Storage
from jobs.examples import digits, write_changed
from jobs.spec import RingSpec, load_ring
from tests.jobs.published import publish as publish_trained

SPEC = Path(__file__).parents[2] / "jobs/specs/gan.yaml"


class Pictures(NamedTuple):
    """Where it lies."""

    storage: Storage
    spec: RingSpec
    version: str


def publish(root: Path) -> Pictures:
    """Prepared, trained and published below `root`."""
    storage = Storage(str(root))
    write_changed(storage, digits())
    overrides = [f"storage={root}", "layout={replicate: 1}", "train.num_epochs=2", "workload.block_channels=[8, 8]"]
    spec = load_ring(SPEC, overrides)
    return Pictures(storage, spec, publish_trained(spec, storage))
