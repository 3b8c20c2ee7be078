"""compress: a published version -> a smaller one of it, measured beside it.

    python -m jobs.compress jobs/specs/language.yaml compress.method=int8

The new version is made no champion; `python -m cluster.registry STORAGE NAME promote VERSION` does.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from torch import nn
from torch.nn.utils import prune

from cluster.command import run as run_command
from cluster.errors import DataError, SpecError
from cluster.registry import Registry
from cluster.storage import MANIFEST, Storage
from jobs import stored_weights, version
from jobs.lineage import Inputs, Made, made_of
from jobs.prepared import read_split
from jobs.revision import code_revision
from jobs.spec import CompressSpec, RingSpec
from jobs.stage import main as stage_main
from jobs.stored_weights import Form
from jobs.version import Metrics, Version
from jobs.workloads import WORKLOADS

NUM_TIMED_ROWS = 64
NUM_ROUNDS = 5
FORMS: dict[str, Form] = {"int8": "int8", "int8_weights": "int8_weights", "prune": "sparse"}


@dataclass(frozen=True)
class Measured:
    """What a version comes to."""

    metrics: Metrics
    """On the held-out test rows."""
    weights_bytes: int
    """Of its file."""
    rows_ms: float
    """To evaluate the first `num_rows` test rows; the median of turns with the other's."""
    num_rows: int

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return vars(self)


def run(spec: RingSpec, storage: Storage) -> Made:
    """Publish a smaller version, unless the same was made of the same parent by the same code.

    Raises:
        RegistryError: there is no such parent.
        DataError: the rows it was tested on are gone.
        SpecError: the parent has nothing that this method makes smaller.
    """
    registry = Registry(storage, spec.name)
    parent = registry.resolve(spec.compress.version)
    inputs = _inputs(spec.compress, parent)
    made = made_of(registry, inputs.key)
    if made:
        return Made("compress", f"models/{spec.name}/{made}", False, "unchanged", f"made of {parent}")
    manifest = registry.manifest(parent)
    test = _test_rows(storage, manifest["prepared"], spec)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "version"
        with registry.open(parent) as source:
            shutil.copytree(source, folder, ignore=shutil.ignore_patterns(MANIFEST))
        before, after = _compress(folder, spec.compress, test)
        table = _table(spec.compress, parent, before, after)
        _tell(folder, spec.compress, parent, before, after, table)
        origin: dict[str, Any] = {name: manifest[name] for name in ("run", "step", "prepared")}
        name = registry.publish(folder, {**inputs.as_manifest(), **origin, "parent": parent})
    return Made("compress", f"models/{spec.name}/{name}", True, f"of {parent}", table)


def plan(spec: RingSpec, storage: Storage) -> str:
    """What `run` would do."""
    registry = Registry(storage, spec.name)
    parent = registry.resolve(spec.compress.version)
    made = made_of(registry, _inputs(spec.compress, parent).key)
    if made:
        return f"compress: skip, models/{spec.name}/{made} was made of {parent} in the same way"
    return f"compress: run, {spec.compress.line()} of {parent} -> models/{spec.name}/"


def _inputs(given: CompressSpec, parent: str) -> Inputs:
    settings = given.model_dump(mode="json", exclude={"version"})
    return Inputs(parent, {"compress": settings}, code_revision("jobs.compress"))


def _test_rows(storage: Storage, prepared: str, spec: RingSpec) -> pa.Table:
    if not storage.is_published(prepared):
        raise DataError(
            f"the rows that the version was tested on are gone: '{prepared}' in '{storage.uri}'. Prepare them again "
            "from the same raw data and spec (python -m jobs.prepare SPEC), or give a version of rows that are there"
        )
    return read_split(storage, prepared, "test", WORKLOADS[spec.workload.kind].ties)


def _compress(folder: Path, given: CompressSpec, test: pa.Table) -> tuple[Measured, Measured]:
    """Make the version in `folder` a smaller one; what it came to before and after."""
    parent, weights = version.read(folder), folder / version.WEIGHTS
    parent_bytes = weights.stat().st_size
    _check_any(parent.model, given)
    smaller = version.read(folder).model
    if given.share is not None:
        _prune(smaller, given.share)
    stored_weights.save(smaller, weights, FORMS[given.method])
    child = version.read(folder)  # what is measured is what will be served
    child_metrics = version.write_answers(folder, child, test)
    parent_ms, child_ms = _timed(parent, child, test.slice(0, NUM_TIMED_ROWS))
    num_rows = min(test.num_rows, NUM_TIMED_ROWS)
    return (
        Measured(parent.metrics, parent_bytes, parent_ms, num_rows),
        Measured(child_metrics, weights.stat().st_size, child_ms, num_rows),
    )


def _check_any(model: nn.Module, given: CompressSpec) -> None:
    if not (stored_weights.linear_layers(model) if given.method == "int8" else stored_weights.matrices(model)):
        raise SpecError(
            f"compress.method={given.method}: compress.version={given.version} has no float weights left that it could "
            "make smaller; give another version or method"
        )


def _prune(model: nn.Module, share: float) -> None:
    """Let the smallest weights of all linear and convolution layers together be 0 (Han et al., 2015)."""
    layers = [(module, "weight") for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=share)
    for layer, name in layers:
        prune.remove(layer, name)


def _timed(parent: Version, child: Version, rows: pa.Table) -> tuple[float, float]:
    """Milliseconds that each takes for these rows, in turns, after a turn that warms up."""
    workload, parents, childs = WORKLOADS[parent.spec.workload.kind], list[float](), list[float]()
    for _ in range(1 + NUM_ROUNDS):
        for each, took in ((parent, parents), (child, childs)):
            began = time.perf_counter()
            workload.evaluate(each.spec.workload, each.model, each.transform, rows)
            took.append((time.perf_counter() - began) * 1e3)
    return median(parents[1:]), median(childs[1:])


def _table(given: CompressSpec, parent: str, before: Measured, after: Measured) -> str:
    """Both side by side, as a Markdown table."""
    lines = [
        *((name, f"{before.metrics[name]:.4f}", f"{value:.4f}") for name, value in after.metrics.items()),
        ("weights, bytes", f"{before.weights_bytes:,}", f"{after.weights_bytes:,}"),
        (f"{after.num_rows} rows, ms", f"{before.rows_ms:.1f}", f"{after.rows_ms:.1f}"),
    ]
    rows = [f"| | {parent} | {given.line()} |", "|---|---:|---:|"]
    return "\n".join([*rows, *(f"| {' | '.join(line)} |" for line in lines)])


def _tell(folder: Path, given: CompressSpec, parent: str, before: Measured, after: Measured, table: str) -> None:
    """Write into the version how it was made and what that came to."""
    told: Mapping[str, Any] = {
        "method": given.method,
        "share": given.share,
        "parent": {"version": parent, **before.as_json()},
        "smaller": after.as_json(),
    }
    (folder / "compression.json").write_text(json.dumps(told, indent=1))
    with (folder / "MODEL_CARD.md").open("a") as card:
        card.write(
            f"\n## How it was made smaller\n{given.line()} of version {parent}; `compression.json` has it all.\n"
        )
        card.write(f"The table above is that version's.\n\n{table}\n")


def main(arguments: Sequence[str]) -> int:
    """Run the stage from the command line."""
    return stage_main(__doc__ or "", run, plan, arguments)


if __name__ == "__main__":
    run_command(main)
