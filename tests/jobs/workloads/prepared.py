"""Small workloads whose rows have no time: raw rows, prepared in one process, and a plain training loop."""

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from jobs.features.columns import check_rows, rename
from jobs.features.split import SplitSpec, TrainRows, split_by_hash
from jobs.features.transform import Transform
from jobs.workloads import WORKLOADS, event_keys
from jobs.workloads.gan import GanSpec
from jobs.workloads.language import LanguageSpec
from jobs.workloads.tabular import TabularSpec
from jobs.workloads.tagging import TaggingSpec
from jobs.workloads.text import TextSpec
from jobs.workloads.vision import VisionSpec
from tests.jobs.workloads.example import Prepared

SPECS: dict[str, Any] = {
    "language": LanguageSpec(num_layers=2, hidden_dim=16, num_heads=2, context_length=8),
    "tabular": TabularSpec(label="status", numeric=("income",), categorical=("home",), hidden_dim=8, num_layers=2),
    "text": TextSpec(
        num_layers=1, hidden_dim=16, num_heads=2, feed_forward_dim=16, context_length=8, tokenizer="bytes", dropout=0.0
    ),
    "tagging": TaggingSpec(
        **{"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "feed_forward_dim": 16, "context_length": 8},
        vocabulary_size=300,
        dropout=0.0,
    ),
    "vision": VisionSpec(height=4, width=4, block_channels=(4, 8)),
    "gan": GanSpec(height=4, width=4, noise_dim=4, block_channels=(8, 4)),
}
IMAGES = [[float((n + place) % 7) for place in range(16)] for n in range(40)]
RAW = {
    "language": pa.table({"document": [f"d{n}" for n in range(40)], "text": ["some text, long enough"] * 40}),
    "tabular": pa.table(
        {
            "id": [str(n) for n in range(40)],
            "income": [float(n) for n in range(40)],
            "home": ["own", "rent"] * 20,
            "status": ["good", "bad"] * 20,
        }
    ),
    "text": pa.table(
        {
            "id": [str(n) for n in range(40)],
            "text": [f"{'even' if n % 2 == 0 else 'odd'} {n}" for n in range(40)],
            "label": ["even", "odd"] * 20,
        }
    ),
    "tagging": pa.table(
        {
            "id": [str(n) for n in range(40)],
            "text": [f"row {n} is {'even' if n % 2 == 0 else 'odd'}" for n in range(40)],
            "tags": [["noun", "number", "verb", "adjective"]] * 40,
        }
    ),
    "vision": pa.table(
        {
            "id": [str(n) for n in range(40)],
            "image": IMAGES,
            "label": ["even", "odd"] * 20,
        }
    ),
    "gan": pa.table({"id": [str(n) for n in range(40)], "image": IMAGES}),
}


def prepare(raw: pa.Table, spec: Any, names: Mapping[str, str] | None = None, share: float = 0.15) -> Prepared:
    """Check, split by hash, fit, transform and unfold; `share` validates and as much tests."""
    workload = WORKLOADS[spec.kind]
    checked = check_rows(raw, rename(workload.event_columns(spec), dict(names or {})))
    assert checked.column("reason").null_count == checked.num_rows
    events = split_by_hash(
        checked.drop_columns(["reason"]), SplitSpec(by="hash", valid=share, test=share), event_keys(spec)
    )
    transform = Transform(workload.steps(spec)).fit([TrainRows.of(events)])
    rows = workload.unfold(spec, transform.apply(events)).sort_by([(name, "ascending") for name in workload.ties])
    train = TrainRows.of(rows)
    valid, test = (rows.filter(pc.equal(rows.column("split"), name)) for name in ("valid", "test"))
    return Prepared(
        transform.with_lookups(workload.lookups(transform, pa.table({}), lambda: train)), train, valid, test
    )


def trained(prepared: Prepared, spec: Any, num_epochs: int, batch_size: int, lr: float) -> torch.nn.Module:
    """A plain training loop in one process: AdamW, cosine."""
    workload = WORKLOADS[spec.kind]
    torch.manual_seed(0)
    model = workload.build(spec, prepared.transform).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    rows, draws = workload.tensors(prepared.train.table), torch.Generator().manual_seed(0)
    num_rows = prepared.train.table.num_rows
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs * math.ceil(num_rows / batch_size))
    for _ in range(num_epochs):
        for index in torch.randperm(num_rows, generator=draws).split(batch_size):
            batch = {name: values[index] for name, values in rows.items()}
            batch["key"] = torch.randint(2**62, (len(index),), generator=draws)
            optimizer.zero_grad()
            workload.loss(spec, model(batch), batch).mean().backward()
            optimizer.step()
            schedule.step()
    return model.eval()
