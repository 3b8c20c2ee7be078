"""A tagger that was trained for a moment on generated texts and published."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cluster.storage import Storage
from jobs.spec import RingSpec, load_ring
from tests.jobs.published import publish as publish_trained

SPEC = Path(__file__).parents[2] / "jobs/specs/tagging.yaml"
TAG_OF = {"the": "DET", "a": "DET", "cat": "NOUN", "ships": "NOUN", "sail": "VERB", "Grüße": "NOUN"}
SMALL = ["vocabulary_size=300", "context_length=16", "hidden_dim=16", "feed_forward_dim=32", "num_layers=1"]


class TaggedTexts(NamedTuple):
    """Where it lies."""

    storage: Storage
    spec: RingSpec
    version: str


def publish(root: Path) -> TaggedTexts:
    """Prepared, trained and published below `root`."""
    storage, draw = Storage(str(root)), np.random.default_rng(0)
    texts = [draw.choice(list(TAG_OF), draw.integers(1, 7)).tolist() for _ in range(300)]
    rows = [
        {"id": str(number), "text": " ".join(words), "tags": [TAG_OF[word] for word in words]}
        for number, words in enumerate(texts)
    ]
    storage.write("raw/tagged/texts.jsonl", "\n".join(map(json.dumps, rows)).encode())
    overrides = [f"storage={root}", "layout={replicate: 1}", "train.batch_size=16", "train.num_epochs=4"]
    overrides += ["train.optimizer.learning_rate=0.02", *(f"workload.{value}" for value in SMALL)]
    spec = load_ring(SPEC, overrides)
    return TaggedTexts(storage, spec, publish_trained(spec, storage))
