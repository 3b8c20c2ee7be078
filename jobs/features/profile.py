"""Profile: what each column looked like in training, for comparing live traffic with it later."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.features.split import SPLIT, TrainRows

NUM_BINS = 10
NUM_TOP_VALUES = 50


def profile(train: TrainRows) -> dict[str, dict[str, Any]]:
    """Statistics a column: `count` and `num_null` of all; of numbers mean, sd, min, max and decile edges; of text
    the number of distinct values and the shares that the most frequent ones have of what is not null."""
    columns = [name for name in train.table.column_names if name != SPLIT]
    return {name: _profile(train.table.column(name)) for name in columns}


def _profile(column: pa.ChunkedArray) -> dict[str, Any]:
    known = column.drop_null()
    counts: dict[str, Any] = {"count": len(column), "num_null": column.null_count}
    if not len(known):
        return counts
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return {**counts, **_of_text(known)}
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return {**counts, **_of_numbers(known)}
    return counts


def _of_text(known: pa.ChunkedArray) -> dict[str, Any]:
    values = pc.value_counts(known.combine_chunks())
    top = sorted(values.to_pylist(), key=lambda entry: (-entry["counts"], entry["values"]))[:NUM_TOP_VALUES]
    shares = {entry["values"]: entry["counts"] / len(known) for entry in top}
    return {"kind": "category", "num_distinct": len(values), "top_shares": shares}


def _of_numbers(known: pa.ChunkedArray) -> dict[str, Any]:
    edges = pc.quantile(known, q=[i / NUM_BINS for i in range(NUM_BINS + 1)]).to_pylist()
    moments = {"mean": pc.mean(known).as_py(), "sd": pc.stddev(known).as_py()}
    return {"kind": "number", **moments, "min": edges[0], "max": edges[-1], "decile_edges": edges}
