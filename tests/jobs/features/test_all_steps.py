"""Every kind of step at once: a table and its rows one by one get the same."""

import io
import json
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from PIL import Image

from jobs.features.pretrained_tokens import PretrainedTokens
from jobs.features.split import SPLIT, TrainRows
from jobs.features.step import Step
from jobs.features.steps import StepSpec, step_of
from jobs.features.transform import Transform
from tests.jobs.features.byte_level import tokenizer_json

SETTINGS: tuple[dict[str, Any], ...] = (
    {"kind": "duplicates", "columns": ["word", "text"], "key": "key"},
    {"kind": "near_duplicates", "column": "text", "key": "key"},
    {"kind": "lag", "column": "past", "output": "lag", "back": 2},
    {"kind": "rolling", "column": "past", "output": "rolled", "of": "mean", "size": 3},
    {"kind": "compare", "column": "x", "output": "is_high", "above": 0.0},
    {"kind": "outliers", "column": "x", "output": "clipped", "method": "iqr", "then": "clip"},
    {"kind": "impute", "column": "clipped", "indicator": "was_missing"},
    {"kind": "complete", "columns": ["clipped"]},
    {"kind": "scaling", "column": "clipped", "output": "scaled"},
    {"kind": "log", "column": "positive", "output": "log", "shift": 1.0},
    {"kind": "bins", "column": "clipped", "output": "bin", "num_bins": 5},
    {"kind": "isolation_forest", "columns": ["clipped"], "then": "mark", "output": "odd", "num_trees": 5},
    {"kind": "one_hot", "column": "word", "output": "hot"},
    {"kind": "vector", "column": "hot", "output": "input"},
    {"kind": "vocabulary", "column": "word", "output": "number"},
    {"kind": "ordinal", "column": "word", "output": "place"},
    {"kind": "hashing", "column": "word", "output": "bucket", "num_buckets": 8},
    {"kind": "target_encoding", "column": "word", "output": "rate", "target": "label", "positive": "a", "key": "key"},
    {"kind": "class_weight", "column": "label", "output": "weight"},
    {"kind": "bag_of_words", "column": "text", "output": "bag", "max_features": 20},
    {"kind": "bpe", "column": "text", "output": "tokens", "vocabulary_size": 300, "ends_output": "ends"},
    {
        **{"kind": "pretrained_tokens", "column": "text", "output": "given", "ends_output": "given_ends"},
        **{"folder": "there", "vocabulary_size": 320},
    },
    {"kind": "word_places", "column": "text", "ends": "ends", "output": "word_place", "num_tokens": 6},
    {"kind": "word_places", "column": "text", "ends": "given_ends", "output": "given_place", "num_tokens": 20},
    {"kind": "vocabulary", "column": "tags", "output": "tag_number", "of": "labels", "min_count": 20},
    {"kind": "first_tokens", "column": "tokens", "output": "first", "num_tokens": 6},
    {"kind": "image", "column": "picture", "output": "pixels", "height": 2, "width": 3},
    {"kind": "hashed_words", "column": "text", "output": "hashed", "num_features": 16},
    {"kind": "smote", "columns": ["clipped"], "label": "label", "key": "key"},
)


def picture(seed: int, mode: str) -> bytes:
    """A small PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(content, "PNG")
    return content.getvalue()


PICTURES = [picture(0, "RGB"), picture(1, "L"), picture(2, "P")]


def rows(seed: int, num_rows: int) -> pa.Table:
    draw = np.random.default_rng(seed)
    numbers = np.array([None, 0.0, 1e300, -1e300, 1e-300, 3.0, *draw.normal(size=30)], object)
    words = np.array([None, "a", "b", "ä", "😀", "a b", "unseen"[seed:]], object)
    lists = [None, [], [1.0], [3.0, -2.5], [1e38, 1e-38, 0.1, 7.0]]
    texts = [" ".join(str(word) for word in draw.choice(words, 5)) for _ in range(num_rows)]
    return pa.table(
        {
            "key": pa.array([f"k{seed}-{number}" for number in range(num_rows)]),
            "x": pa.array(draw.choice(numbers, num_rows), pa.float64()),
            "positive": pa.array(np.abs(draw.normal(size=num_rows))),
            "word": pa.array(draw.choice(words, num_rows), pa.string()),
            "text": pa.array(texts),
            "tags": pa.array([None if len(text) % 7 == 0 else list(text[:4]) for text in texts], pa.list_(pa.string())),
            "picture": pa.array(draw.choice(np.array([None, *PICTURES], object), num_rows), pa.binary()),
            "label": pa.array(draw.choice(["a", "b"], num_rows, p=[0.3, 0.7])),
            "past": pa.array(
                [lists[place] for place in draw.integers(0, len(lists), num_rows)], pa.list_(pa.float32())
            ),
            SPLIT: pa.array(["train"] * num_rows),
        }
    )


def made(settings: dict[str, Any]) -> Step:
    step = step_of(settings)
    return step.with_tokenizer(tokenizer_json(["a b"]), 256, []) if isinstance(step, PretrainedTokens) else step


def test_every_kind_is_covered_and_a_table_gets_what_its_rows_get() -> None:
    kinds = {get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(get_args(StepSpec)[0])}
    assert {settings["kind"] for settings in SETTINGS} == kinds
    transform = Transform(tuple(map(made, SETTINGS))).fit([TrainRows(rows(0, 600))])
    served = rows(1, 10_000).drop_columns([SPLIT])
    applied = transform.apply(served)
    names = sorted({name for step in transform.steps for name in step.makes})
    expected = [transform.apply_row(row) for row in served.to_pylist()]
    for name in names:
        assert applied.column(name).to_pylist() == [row[name] for row in expected], name
    assert json.dumps({name: expected[0][name] for name in names})
