from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.features.history import HistorySpec, with_history
from jobs.features.rolling import Rolling
from tests.jobs.features.fitting import as_nan, made, table

PANDAS = {"mean": "mean", "sum": "sum", "min": "min", "max": "max", "sd": "std", "count": "count"}
ROWS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(-9, 9)), min_size=1, max_size=30)


@pytest.mark.parametrize("of", PANDAS)
@given(rows=ROWS, size=st.integers(1, 4))
def test_over_a_history_it_is_the_open_window_of_pandas(of: Any, rows: list[tuple[str, int]], size: int) -> None:
    groups, values = [group for group, _ in rows], [float(value) for _, value in rows]
    times = pa.array(range(len(rows)), pa.int64())
    spec = HistorySpec(column="value", group="group", time="at", output="past", size=6)
    past = with_history(table(group=groups, value=values, at=times), [spec], [])
    found = made(Rolling(column="past", output="x", of=of, size=size), past)["x"]
    frame = pd.DataFrame({"group": groups, "value": values})
    windows = frame.groupby("group")["value"].rolling(size, min_periods=0, closed="left")
    expected = getattr(windows, PANDAS[of])().droplevel(0).sort_index()
    np.testing.assert_allclose(as_nan(found), expected.fillna(0) if of == "sum" else expected, atol=1e-6)


def test_the_last_difference_is_of_the_last_two_values() -> None:
    rows = table(past=pa.array([[1, 5, 3], [4], [], None], pa.list_(pa.float32())))
    for size, first in ((1, None), (2, -2.0), (3, -2.0)):
        step = Rolling(column="past", output="x", of="last_difference", size=size)
        assert made(step, rows)["x"] == [first, None, None, None]


def test_of_no_values_the_sum_and_the_count_are_0() -> None:
    rows = table(past=pa.array([[], None], pa.list_(pa.float32())))
    for of, expected in (("sum", 0.0), ("count", 0.0), ("mean", None), ("min", None), ("max", None), ("sd", None)):
        step = Rolling.model_validate({"column": "past", "output": "x", "of": of, "size": 3})
        assert made(step, rows)["x"] == [expected, expected]
