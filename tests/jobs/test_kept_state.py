from pathlib import Path

import pytest
import torch

from cluster.spec import with_values
from cluster.storage import Storage
from jobs import prepare
from jobs.fit import fit
from jobs.kept_state import kept_state
from jobs.lineage import prepared_folder
from jobs.parallel.checkpoint import Checkpoints
from jobs.parallel.checkpoint_reader import CheckpointReader
from jobs.prepared import read_transform
from jobs.spec import RingSpec, load_ring

SPEC = """
name: table
raw: {events: {path: raw/rows}}
prepare: {split: {by: hash}}
workload: {kind: tabular, label: y, numeric: [x], hidden_dim: 4, feed_forward_dim: 8, num_layers: 1}
train: {num_epochs: 1, batch_size: 16, early_stopping: {metric: log_loss, mode: min}}
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[RingSpec, Storage]:
    """A prepared table of numbers."""
    folder = tmp_path_factory.mktemp("table")
    storage = Storage(str(folder / "storage"))
    lines = "".join(f"{number},{number % 7},{('no', 'yes')[number % 2]}\n" for number in range(120))
    storage.write("raw/rows/a.csv", f"id,x,y\n{lines}".encode())
    (folder / "table.yaml").write_text(SPEC)
    spec = load_ring(folder / "table.yaml", [f"storage={storage.uri}"])
    prepare.run(spec, storage)
    return spec, storage


@pytest.mark.parametrize("override", [{}, {"train.optimizer.name": "sgd"}, {"train.ema_decay": 0.9}])
def test_it_is_what_a_checkpoint_holds(
    table: tuple[RingSpec, Storage], override: dict[str, object], tmp_path: Path
) -> None:
    spec, storage = with_values(table[0], override), table[1]
    prepared = prepared_folder(spec, storage)
    checkpoints = Checkpoints(storage, f"checkpoints/{tmp_path.name}")
    fit(spec, storage, prepared, checkpoints, lambda report: None)
    metadata = CheckpointReader(storage, checkpoints.at(checkpoints.steps()[-1])).metadata
    held = {}
    for name, path in metadata.planner_data.items():
        named = path[1] if path[0] == "model" else f"{path[2]} of {path[1]}"
        held[named] = tuple(metadata.state_dict_metadata[name].size)
    assert kept_state(spec, read_transform(storage, prepared)) == held


@pytest.mark.parametrize(
    ("override", "is_same"),
    [
        ({"train.optimizer.learning_rate": 0.5, "train.optimizer.weight_decay": 0.0}, True),
        ({"workload.dropout": 0.5, "workload.label_smoothing": 0.1, "train.max_gradient_norm": 1.0}, True),
        ({"train.schedule": "linear", "train.warmup": 0.1}, True),
        ({"workload.hidden_dim": 8}, False),
        ({"workload.num_layers": 2}, False),
        ({"train.optimizer.name": "sgd"}, False),
        ({"train.ema_decay": 0.9}, False),
        ({"train.freeze": ["*.bias"]}, False),
    ],
)
def test_what_shapes_the_model_or_the_optimizer_changes_it(
    table: tuple[RingSpec, Storage], override: dict[str, object], is_same: bool
) -> None:
    spec, storage = table
    transform = read_transform(storage, prepared_folder(spec, storage))
    before = torch.get_rng_state()
    assert (kept_state(with_values(spec, override), transform) == kept_state(spec, transform)) is is_same
    assert torch.equal(torch.get_rng_state(), before)
