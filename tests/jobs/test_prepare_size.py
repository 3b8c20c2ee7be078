"""How much memory a preparation takes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.storage import Storage
from jobs.prepared import read_transform
from jobs.prepared_files import as_parquet

ROOT = Path(__file__).parents[2]
NUM_CATEGORIES, NUM_FILES = 1_000_000, 5
SPEC = """
name: towns
storage: {storage}
raw: {{events: {{path: raw}}}}
prepare:
  in_process_bytes: 1000000000
  split: {{by: hash, valid: 0.05, test: 0.05}}
  steps:
    - {{kind: target_encoding, column: town, target: late, positive: "yes", key: id, output: town_late}}
workload: {{kind: tabular, label: late, numeric: [town_late], categorical: [town]}}
train: {{early_stopping: {{metric: log_loss, mode: min}}}}
"""
PREPARE = """
import json, resource, sys
from cluster.storage import Storage
from jobs.prepare import run
from jobs.spec import load_ring
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
spec = load_ring(sys.argv[1])
made = run(spec, Storage(spec.storage))
print(json.dumps([made.folder, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""


def test_a_million_categories_are_counted_within_a_gibibyte(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    numbers = np.random.default_rng(0).permutation(NUM_CATEGORIES)
    for place, part in enumerate(np.split(numbers, NUM_FILES)):
        towns = pa.array([f"town {number}" for number in part])
        late = pa.array(np.where(part % 2 == 0, "yes", "no"))
        rows = pa.table({"id": pa.array([f"{place}.{n}" for n in range(len(part))]), "town": towns, "late": late})
        storage.write(f"raw/{place}.parquet", as_parquet(rows))
    (tmp_path / "spec.yaml").write_text(SPEC.format(storage=tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, str(tmp_path / "spec.yaml")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    folder, more_kib = json.loads(done.stdout.splitlines()[-1])
    transform = read_transform(storage, folder)
    assert transform.step("category:town").state().num_rows == storage.manifest(folder)["num_rows"]["train"]
    assert transform.step("category:town").state().num_rows > 0.88 * NUM_CATEGORIES
    assert more_kib < 1024 * 1024


@pytest.mark.ray
def test_a_table_larger_than_the_object_store_leaves_every_worker_within_its_limit(home: Path) -> None:
    command = ["-m", "benchmarks.larger_than_memory", "--gib", "0.25", "--store-mib", "80", "--worker-mib", "1024"]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| peak of a worker (limit 1,024) |" in done.stdout
