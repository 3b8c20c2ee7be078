"""The folder of a version: written once by train, read by serving.

spec.yaml  transform.json  transform.arrow  weights.safetensors
metrics.json  golden.parquet  profile.json  MODEL_CARD.md        (manifest.json is added by the registry)
compression.json                                                 (of a version that was made smaller)
plan.json                                                        (of one whose strategy was searched: how)
"""

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import nn

from cluster.spec import dump, parse
from jobs import stored_weights
from jobs.features.split import TrainRows
from jobs.features.transform import Transform
from jobs.spec import RingSpec
from jobs.workloads import WORKLOADS, event_keys

Metrics = dict[str, float]
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Version:
    """A loaded version, ready to answer."""

    spec: RingSpec
    transform: Transform
    model: nn.Module
    metrics: Metrics
    """On the held-out test rows."""
    baselines: dict[str, Metrics]
    golden: pa.Table
    profile: Mapping[str, Any] = field(default_factory=dict)
    """What the columns of the training rows looked like."""


def write(
    folder: Path,
    spec: RingSpec,
    transform: Transform,
    model: nn.Module,
    train: TrainRows,
    test: pa.Table,
    profile: Mapping[str, Any],
) -> tuple[Metrics, dict[str, Metrics]]:
    """Fill the local `folder` with a version; `test` is transformed. Returns its metrics and the baselines'.

    Args:
        profile: what the columns of the training rows look like, as prepare has gathered it.
    """
    workload = WORKLOADS[spec.workload.kind]
    model.eval()
    metrics = workload.evaluate(spec.workload, model, transform, test)
    baselines = workload.baselines(spec.workload, transform, train, test)
    (folder / "spec.yaml").write_text(dump(spec))
    transform.save(folder)
    stored_weights.save(model, folder / WEIGHTS)
    (folder / "metrics.json").write_text(json.dumps({"test": metrics, "baselines": baselines}, indent=1))
    pq.write_table(workload.golden(spec.workload, model, transform, test), folder / "golden.parquet")
    (folder / "profile.json").write_text(json.dumps(profile, indent=1))
    (folder / "MODEL_CARD.md").write_text(_card(spec, metrics, baselines, train.table.num_rows, test.num_rows))
    return metrics, baselines


def write_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Keep in the local `folder` of a version how its training strategy was found."""
    (folder / "plan.json").write_text(json.dumps(plan, indent=1))


def write_answers(folder: Path, content: Version, test: pa.Table) -> Metrics:
    """Write into the local `folder` of a version what it answers now; returns its metrics on `test`, transformed."""
    workload, given = WORKLOADS[content.spec.workload.kind], content.spec.workload
    metrics = workload.evaluate(given, content.model, content.transform, test)
    (folder / "metrics.json").write_text(json.dumps({"test": metrics, "baselines": content.baselines}, indent=1))
    pq.write_table(workload.golden(given, content.model, content.transform, test), folder / "golden.parquet")
    return metrics


def read(folder: Path) -> Version:
    """The version in a local folder, as `Registry.open` gives it."""
    spec = parse(RingSpec, (folder / "spec.yaml").read_text(), f"{folder.name}/spec.yaml")
    transform = Transform.load(folder)
    model = WORKLOADS[spec.workload.kind].build(spec.workload, transform)
    stored_weights.load(model, folder / WEIGHTS)
    model.eval()
    metrics, baselines = read_scores(folder)
    golden = pq.read_table(folder / "golden.parquet")
    profile = json.loads((folder / "profile.json").read_text())
    return Version(spec, transform, model, metrics, baselines, golden, profile)


def read_scores(folder: Path) -> tuple[Metrics, dict[str, Metrics]]:
    """The test metrics of the version in a local folder, and its baselines'."""
    scores = json.loads((folder / "metrics.json").read_text())
    return scores["test"], scores["baselines"]


def table_of(metrics: Metrics, baselines: dict[str, Metrics]) -> str:
    """The metrics beside the baselines', as a Markdown table."""
    columns = {"model": metrics, **baselines}
    rows = [f"| metric | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for metric in metrics:
        cells = (f"{scores[metric]:.4f}" if metric in scores else "-" for scores in columns.values())
        rows.append(f"| {metric} | {' | '.join(cells)} |")
    return "\n".join(rows)


def not_better(metrics: Metrics, baselines: dict[str, Metrics], lower_is_better: Container[str]) -> list[str]:
    """The baselines that the metrics do not beat, each with its number."""
    return [
        f"{baseline} in {metric} ({metrics[metric]:.4f} against {value:.4f})"
        for baseline, scores in baselines.items()
        for metric, value in scores.items()
        if not (metrics[metric] < value if metric in lower_is_better else metrics[metric] > value)
    ]


def _card(spec: RingSpec, metrics: Metrics, baselines: dict[str, Metrics], num_train: int, num_test: int) -> str:
    return f"""# {spec.name}

A `{spec.workload.kind}` model, trained by Rayline on {num_train:,} rows.

## Quality
On {num_test:,} held-out test rows: {_held_out(spec)}.

{table_of(metrics, baselines)}

## How it was made
The resolved spec is `spec.yaml`; `profile.json` describes the training rows; `golden.parquet` holds
inputs with the outputs expected of any server.
"""


def _held_out(spec: RingSpec) -> str:
    """Which rows test."""
    split = spec.prepare.split
    if split.by != "time":
        return f"{100 * split.test:g} % of all rows, chosen by {split.told(event_keys(spec.workload))}"
    order = f"each {split.within}'s rows" if split.within else "all rows"
    return f"the latest {100 * split.test:g} % of {order} by time"
