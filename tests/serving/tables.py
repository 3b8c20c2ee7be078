"""A tabular version that was fitted on generated rows and published for real, with a column of every kind."""

import json
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from cluster.registry import Registry
from cluster.spec import parse
from cluster.storage import Storage
from jobs.features.columns import check_rows
from jobs.features.split import TrainRows, split_by_hash
from jobs.spec import RingSpec, event_columns, transform_of
from jobs.version import write
from jobs.workloads import tabular
from serving.feedback import FeedbackLog

NUM_ROWS = 400


def make_spec(storage: Path) -> RingSpec:
    return parse(
        RingSpec,
        json.dumps(
            {
                "name": "loans",
                "storage": str(storage),
                "raw": {
                    "events": {
                        "path": "raw/loans",
                        "columns": {"age": "AGE"},
                        "checks": {
                            "age": {"required": True, "low": 18, "high": 120, "unit": "years"},
                            "home": {"pattern": "[a-z]+"},
                        },
                    }
                },
                "prepare": {
                    "split": {"by": "hash", "valid": 0.15, "test": 0.15},
                    "steps": [
                        {"kind": "impute", "column": "in/come", "fill": "median"},
                        {
                            "kind": "target_encoding",
                            "column": "shop",
                            "target": "status",
                            "positive": "good",
                            "key": "id",
                        }
                        | {"smoothing": 5, "output": "shop_good"},
                        {"kind": "one_hot", "column": "model_config", "output": "hot"},
                    ],
                },
                "workload": {
                    "kind": "tabular",
                    "label": "status",
                    "numeric": ["in/come", "age", "shop_good"],
                    "categorical": ["home"],
                    "vectors": ["hot", "marks"],
                    "hidden_dim": 16,
                    "feed_forward_dim": 32,
                },
                "train": {"early_stopping": {"metric": "log_loss", "mode": "min"}},
                "serving": {"access": "open"},
            }
        ),
        "loans.yaml",
    )


def make_rows(seed: int = 0) -> pa.Table:
    """By the names in the files; text and numbers, some missing."""
    draw = np.random.default_rng(seed)
    income, homes = draw.normal(100, 20, NUM_ROWS).round(2), draw.choice(["own", "rent"], NUM_ROWS)
    gaps = draw.random(NUM_ROWS) < 0.1
    return pa.table(
        {
            "id": [f"r{number}" for number in range(NUM_ROWS)],
            "in/come": [None if gap else float(value) for gap, value in zip(gaps, income, strict=True)],
            "AGE": draw.integers(18, 80, NUM_ROWS).astype(float),
            "home": [None if gap else str(home) for gap, home in zip(gaps[::-1], homes, strict=True)],
            "shop": [str(number) for number in draw.integers(0, 9, NUM_ROWS)],
            "model_config": draw.choice(["x", "y", "z"], NUM_ROWS),
            "marks": pa.array(draw.random((NUM_ROWS, 2)).round(3).tolist(), pa.list_(pa.float64())),
            "status": np.where((income > 100) == (homes == "own"), "good", "bad"),
        }
    )


def publish(root: Path, folder: Path) -> tuple[Storage, RingSpec, str]:
    """Storage, spec and version of what is trained for a moment below `root`; `folder` is scratch."""
    spec = make_spec(root)
    raw = make_rows().rename_columns([name.lower() for name in make_rows().column_names])
    checked = check_rows(raw, event_columns(spec))
    assert checked.column("reason").null_count == NUM_ROWS
    rows = split_by_hash(checked.drop_columns(["reason"]), spec.prepare.split, tabular.ties)
    transform = transform_of(spec).fit([TrainRows.of(rows)])
    train = TrainRows(transform.apply(TrainRows.of(rows).table))
    test = transform.apply(rows.filter(pc.equal(rows.column("split"), "test")))
    workload: Any = spec.workload
    torch.manual_seed(0)
    model = tabular.build(workload, transform)
    batch = {**tabular.tensors(train.table), "key": torch.arange(train.table.num_rows)}
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(20):
        optimizer.zero_grad()
        tabular.loss(workload, model(batch), batch).mean().backward()
        optimizer.step()
    write(folder, spec, transform, model, train, test, {})
    storage = Storage(str(root))
    registry = Registry(storage, spec.name)
    version = registry.publish(folder, {"run": "generated"})
    registry.promote(version)
    return storage, spec, version


def label_log(folder: str = "") -> FeedbackLog:
    """Where the labels of feedback go."""
    return FeedbackLog(Storage(folder or mkdtemp()), "loans", folder="labels")
