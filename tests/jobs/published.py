"""A version as the stages make it, but in this process."""

from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.registry import Registry
from cluster.storage import Storage
from jobs import prepare, version
from jobs.fit import fit
from jobs.lineage import prepared_folder
from jobs.parallel.checkpoint import Checkpoints
from jobs.prepared import read_split, read_train, read_transform
from jobs.spec import RingSpec
from jobs.trainable import trained_model
from jobs.workloads import WORKLOADS


def publish(spec: RingSpec, storage: Storage) -> str:
    """Prepare, train and publish the last epoch, which becomes the champion; returns its name."""
    prepare.run(spec, storage)
    prepared, checkpoints = prepared_folder(spec, storage), Checkpoints(storage, f"checkpoints/{spec.name}/one")
    fit(spec, storage, prepared, checkpoints, lambda report: None)
    workload, transform = WORKLOADS[spec.workload.kind], read_transform(storage, prepared)
    model = trained_model(spec, transform, checkpoints, checkpoints.steps()[-1])
    train = read_train(storage, prepared, workload.ties)
    test = read_split(storage, prepared, "test", workload.ties)
    registry = Registry(storage, spec.name)
    with TemporaryDirectory() as folder:
        version.write(Path(folder), spec, transform, model, train, test, {})
        name = registry.publish(Path(folder), {"key": "0", "run": "one", "step": 1, "prepared": prepared})
    registry.promote(name)
    return name
