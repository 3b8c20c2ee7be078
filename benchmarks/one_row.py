"""How long the features of one row take, beside scikit-learn's pipeline and pandas: what a served request pays.

    OMP_NUM_THREADS=1 python -m benchmarks.one_row

Nine numbers imputed and scaled, four categories numbered, of the credit data and fitted on the same rows; in turns, in
one process, several times. Writes the .md beside it. Needs the extras `demo`, `test` and `bench`.
"""

import io
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sklearn
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from jobs.examples import credit
from jobs.features.impute import Impute
from jobs.features.scaling import Scaling
from jobs.features.split import SPLIT, TrainRows
from jobs.features.transform import Transform
from jobs.features.vocabulary import Vocabulary

NUMBERS = ["Seniority", "Time", "Age", "Expenses", "Income", "Assets", "Debt", "Amount", "Price"]
CATEGORIES = ["Home", "Marital", "Records", "Job"]
NUM_ROWS, REPEATS = 1000, 7
"""Rows of a turn, one by one, and turns."""
TOLERANCE = 1e-5
Take = Callable[[Mapping[str, Any]], Any]


def ours(frame: pd.DataFrame) -> Transform:
    """The same with the project's steps."""
    steps = [Impute(column=name, fill="mean") for name in NUMBERS]
    steps += [Scaling(column=name, output=name) for name in NUMBERS]
    steps += [Vocabulary(column=name, output=f"number of {name}") for name in CATEGORIES]
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    return Transform(tuple(steps)).fit([TrainRows(rows.append_column(SPLIT, pa.array(["train"] * rows.num_rows)))])


def of_sklearn(frame: pd.DataFrame) -> Take:
    """A pipeline that takes a frame of one row, as its documentation has it."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    categories = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    pipeline = ColumnTransformer([("numbers", numbers, NUMBERS), ("categories", categories, CATEGORIES)]).fit(frame)
    return lambda row: pipeline.transform(pd.DataFrame([row]))


def of_pandas(frame: pd.DataFrame) -> Take:
    """The same by hand, on a frame of one row."""
    means = frame[NUMBERS].mean()
    stds = frame[NUMBERS].fillna(means).std(ddof=0)
    numbers_of = {name: {value: n for n, value in enumerate(frame[name].value_counts().index)} for name in CATEGORIES}

    def take(row: Mapping[str, Any]) -> pd.DataFrame:
        one = pd.DataFrame([row])
        one[NUMBERS] = (one[NUMBERS].fillna(means) - means) / stds
        for name in CATEGORIES:
            one[name] = one[name].map(numbers_of[name])
        return one

    return take


def seconds(take: Take, rows: list[dict[str, Any]]) -> float:
    began = time.perf_counter()
    for row in rows:
        take(row)
    return (time.perf_counter() - began) / len(rows)


def main() -> None:
    frame = pd.read_csv(io.BytesIO(credit().content)).drop(columns=["id", "Status"])
    frame = frame.astype(dict.fromkeys(NUMBERS, float))
    frame[CATEGORIES] = frame[CATEGORIES].astype(object).where(frame[CATEGORIES].notna(), None)
    transform, pipeline = ours(frame), of_sklearn(frame)
    takes: dict[str, Take] = {
        "Transform.apply_row": transform.apply_row,
        "scikit-learn's pipeline": pipeline,
        "pandas by hand": of_pandas(frame),
    }
    rows = frame.sample(NUM_ROWS, random_state=0).astype(object).where(frame.notna(), None).to_dict("records")
    served = [transform.apply_row(row) for row in rows]
    theirs = np.concatenate([pipeline(row) for row in rows])[:, : len(NUMBERS)].astype(float)
    apart = np.abs(theirs - [[row[name] for name in NUMBERS] for row in served]).max()
    assert apart < TOLERANCE, f"scikit-learn scales otherwise by {apart}"
    turns = [{name: seconds(take, rows) for name, take in takes.items()} for _ in range(REPEATS)]
    ratios = {name: [turn[name] / turn["Transform.apply_row"] for turn in turns] for name in takes}
    lines = [
        f"| {name} | {1e6 * median(turn[name] for turn in turns):,.0f} | {median(ratios[name]):,.0f} "
        f"({min(ratios[name]):,.0f} to {max(ratios[name]):,.0f}) |"
        for name in takes
    ]
    text = f"""# The features of one row

{len(NUMBERS)} numbers imputed by the mean and scaled, {len(CATEGORIES)} categories numbered, of {NUM_ROWS:,} of
{len(frame):,} loans, each row by itself (theirs as a frame of one row);
{REPEATS} turns in one process, the ratio within a turn, its median and range.
The scaled numbers agree with scikit-learn's within {TOLERANCE:g}; that `apply_row` equals `apply` is held on 10,000
random rows of every step (`tests/jobs/features/test_all_steps.py`).
scikit-learn {sklearn.__version__}, pandas {pd.__version__}, {platform.machine()}. Made by
`python -m benchmarks.one_row`.

| | microseconds a row | times as long |
|---|---:|---:|
{chr(10).join(lines)}
"""
    print(text)
    Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
