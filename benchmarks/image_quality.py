"""How good the shipped convolutional network is beside scikit-learn on the very same prepared images.

    OMP_NUM_THREADS=1 python -m benchmarks.image_quality FOLDER [--images 20000]

Fashion-MNIST (Xiao et al., 2017, MIT), 28 x 28 grey, ten kinds of clothes, through the stages; writes the .md beside.
The images come with Debian's package dataset-fashion-mnist, which is fetched and unpacked without installing it.
"""

import argparse
import gzip
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sklearn
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

from benchmarks.trained import trained
from cluster.storage import Storage
from jobs import prepare
from jobs.prepared import read_split
from jobs.spec import load_ring
from jobs.workloads import vision

SPEC = Path(__file__).parents[1] / "jobs/specs/vision.yaml"
PACKAGE, FILES = "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"
EPOCHS = 10
RIVALS: dict[str, Callable[[], Any]] = {
    "LogisticRegression": lambda: LogisticRegression(max_iter=100),
    "KNeighborsClassifier, 5": lambda: KNeighborsClassifier(5),
    "RandomForestClassifier": lambda: RandomForestClassifier(200, random_state=0),
    "MLPClassifier, 256": lambda: MLPClassifier((256,), early_stopping=True, random_state=0),
}


def images(folder: Path, number: int) -> pa.Table:
    """The first training images: id, pixels row by row, label."""
    if not list(folder.glob(f"{PACKAGE}*.deb")):
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True, capture_output=True)
    subprocess.run(["dpkg-deb", "-x", str(next(folder.glob(f"{PACKAGE}*.deb"))), str(folder / "deb")], check=True)
    files = {path.name: gzip.decompress(path.read_bytes()) for path in (folder / "deb" / FILES).glob("train-*.gz")}
    pixels, labels = (next(files[name] for name in files if kind in name) for kind in ("images", "labels"))
    shown = np.frombuffer(pixels, np.uint8)[16:].reshape(-1, 28 * 28)[:number]
    return pa.table(
        {
            "id": [f"{place:05d}" for place in range(number)],
            "image": pa.array(shown.tolist(), pa.list_(pa.uint8())),
            "label": [str(label) for label in np.frombuffer(labels, np.uint8)[8 : 8 + number]],
        }
    )


def rivals(storage: Storage, prepared: str) -> list[tuple[str, float, float, float]]:
    """Accuracy, log loss and seconds of scikit-learn's models, fitted on the training rows."""
    known, asked = (vision.tensors(read_split(storage, prepared, part, ("id",))) for part in ("train", "test"))
    found = []
    for name, make in RIVALS.items():
        began = time.monotonic()
        given = make().fit(known["pixels"].numpy(), known["class"].numpy()).predict_proba(asked["pixels"].numpy())
        scores = accuracy_score(asked["class"], given.argmax(1)), log_loss(asked["class"], given)
        found.append((name, float(scores[0]), float(scores[1]), time.monotonic() - began))
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    storage = Storage(str(given.folder / "storage"))
    sink = pa.BufferOutputStream()
    pq.write_table(images(given.folder, given.images), sink)
    storage.write("raw/digits/images.parquet", sink.getvalue().to_pybytes())
    overrides = [f"storage={storage.uri}", "layout={}", "workload.height=28", "workload.width=28"]
    overrides += ["workload.block_channels=[16, 32, 64]", "train.optimizer.learning_rate=2.0e-3"]
    overrides += [f"train.num_epochs={EPOCHS}", "prepare.split={by: hash, valid: 0.1, test: 0.2}"]
    spec = load_ring(SPEC, overrides)
    prepared = prepare.run(spec, storage).folder
    scores, trained_s = trained(spec, storage)
    metrics = scores["test"]
    rows = [("Rayline's CNN", metrics["accuracy"], metrics["log_loss"], trained_s), *rivals(storage, prepared)]
    lines = [f"| {name} | {right:.4f} | {bits:.4f} | {seconds:.0f} |" for name, right, bits, seconds in rows]
    counts = storage.manifest(prepared)["num_rows"]
    text = f"""# The convolutional network beside scikit-learn on Fashion-MNIST

The first {given.images:,} training images: {counts["train"]:,} to train on, {counts["valid"]:,} for early stopping,
{counts["test"]:,} to test on, by a hash of their number. The network is that of `jobs/specs/vision.yaml` but for blocks
of 16, 32 and 64 channels and a learning rate of 2e-3, {EPOCHS} epochs on one worker without augmentation; scikit-learn
{sklearn.__version__} has the same scaled pixels and its own settings but for those that are named.
{platform.machine()}, one thread. Made by `python -m benchmarks.image_quality FOLDER --images {given.images}`.

| | accuracy | log loss | seconds |
|---|---:|---:|---:|
{chr(10).join(lines)}
"""
    print(text)
    Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
