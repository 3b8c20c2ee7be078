import pandas as pd
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from jobs.features.history import HistorySpec, with_history
from jobs.features.lag import Lag
from tests.jobs.features.fitting import made, table

LISTS = st.lists(st.one_of(st.none(), st.lists(st.floats(-1e6, 1e6, width=32), max_size=5)), max_size=12)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-9, 9)), min_size=1, max_size=40), st.integers(1, 4))
def test_over_a_history_it_is_the_shift_of_pandas(rows: list[tuple[str, int]], back: int) -> None:
    groups, values = [group for group, _ in rows], [float(value) for _, value in rows]
    times = pa.array(range(len(rows)), pa.int64())
    spec = HistorySpec(column="value", group="group", time="at", output="past", size=5)
    past = with_history(table(group=groups, value=values, at=times), [spec], [])
    shifted = pd.Series(values).groupby(groups).shift(back)
    expected = [None if pd.isna(value) else value for value in shifted]
    assert made(Lag(column="past", output="lag", back=back), past)["lag"] == expected


@given(LISTS, st.integers(1, 4))
def test_it_counts_from_the_end_of_any_list(lists: list[list[float] | None], back: int) -> None:
    rows = table(past=pa.array(lists, pa.list_(pa.float32()))).slice(len(lists) // 3)
    expected = [values[-back] if values and len(values) >= back else None for values in lists[len(lists) // 3 :]]
    assert made(Lag(column="past", output="lag", back=back), rows)["lag"] == expected
