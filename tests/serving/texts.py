"""A language model that was trained for a moment on one line of text and published for real."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from cluster.registry import Registry
from cluster.storage import Storage
from jobs.features.split import SPLIT, TrainRows
from jobs.spec import RingSpec, transform_of
from jobs.step_files import with_files
from jobs.version import write
from jobs.workloads import language

LINE = "Grüße an alle: the cat sat on the mat. "
CONTEXT_LENGTH = 64


def make_spec(storage: Path, **workload: Any) -> RingSpec:
    return RingSpec.model_validate(
        {
            "name": "texts",
            "storage": str(storage),
            "raw": {"events": {"path": "raw/texts"}},
            "prepare": {"split": {"by": "hash"}},
            "workload": {
                "kind": "language",
                "context_length": CONTEXT_LENGTH,
                "num_layers": 2,
                "hidden_dim": 32,
                "feed_forward_dim": 64,
                **workload,
            },
            "train": {"early_stopping": {"metric": "bits_per_byte", "mode": "min"}},
            "serving": {"access": "open"},
        }
    )


def publish(root: Path, folder: Path, **workload: Any) -> tuple[Storage, RingSpec, str]:
    """Storage, spec and version of what is trained for a moment below `root`; `folder` is scratch."""
    spec = make_spec(root, **workload)
    given: Any = spec.workload
    documents = pa.table({"document": ["one", "two"], "text": [LINE * 30, LINE * 4], SPLIT: ["train", "test"]})
    transform = with_files(transform_of(spec)).fit([TrainRows.of(documents)])
    rows = language.unfold(given, transform.apply(documents))
    train, test = (rows.filter(pa.compute.equal(rows.column(SPLIT), name)) for name in ("train", "test"))
    torch.manual_seed(0)
    model = language.build(given, transform)
    batch = language.tensors(train)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        language.loss(given, model(batch), batch).mean().backward()
        optimizer.step()
    write(folder, spec, transform, model, TrainRows(train), test, {})
    storage = Storage(str(root))
    registry = Registry(storage, spec.name)
    version = registry.publish(folder, {"run": "generated"})
    registry.promote(version)
    return storage, spec, version
