import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import SpecError
from jobs.features.history import HistorySpec, history_group, with_history

ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 12), st.one_of(st.none(), st.integers(-9, 9).map(float))),
    max_size=40,
)


def history(size: int = 3, within_s: int | None = None, group: str = "plane", output: str = "past") -> HistorySpec:
    return HistorySpec(column="delay", group=group, time="at", output=output, size=size, within_s=within_s)


def flights(rows: list[tuple[str, int, float | None]]) -> pa.Table:
    names = {"plane": pa.string(), "at": pa.int64(), "delay": pa.float64()}
    columns = {name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(names.items())}
    return pa.table({**columns, "id": pa.array(range(len(rows)), pa.int64())})


def expected(table: pa.Table, spec: HistorySpec) -> list[list[float]]:
    """By a loop over all pairs of rows."""
    rows = sorted(table.to_pylist(), key=lambda row: (row["at"], row["id"]))
    found = {}
    for row in rows:
        past = [
            other["delay"]
            for other in rows
            if other["plane"] == row["plane"]
            and other["at"] < row["at"]
            and other["delay"] is not None
            and (spec.within_s is None or row["at"] - other["at"] <= spec.within_s)
        ]
        found[row["id"]] = past[-spec.size :]
    return [found[number] for number in range(len(rows))]


@given(ROWS, st.integers(1, 5), st.one_of(st.none(), st.integers(1, 6)))
def test_a_list_holds_the_last_known_values_of_the_group_before_the_moment(
    rows: list[tuple[str, int, float | None]], size: int, within_s: int | None
) -> None:
    table, spec = flights(rows), history(size, within_s)
    made = with_history(table, [spec], ["id"])
    assert made.column("past").to_pylist() == expected(table, spec)
    assert made.schema.field("past").type == pa.list_(pa.float32())
    assert made.drop_columns(["past"]) == table


@given(ROWS, st.randoms())
def test_the_order_of_the_input_does_not_matter(rows: list[tuple[str, int, float | None]], draw: object) -> None:
    table = flights(rows)
    places = [*range(len(rows))]
    draw.shuffle(places)  # type: ignore[attr-defined]
    shuffled = with_history(table.take(pa.array(places, pa.int64())), [history()], ["id"])
    assert shuffled.sort_by("id") == with_history(table, [history()], ["id"]).combine_chunks()


def test_a_million_rows_take_about_a_second() -> None:
    draw, num_rows = np.random.default_rng(0), 1_000_000
    table = pa.table(
        {
            "plane": pa.array(draw.integers(0, 20_000, num_rows)).cast(pa.string()),
            "at": draw.integers(0, 10**8, num_rows),
            "delay": draw.normal(size=num_rows),
        }
    )
    started = time.process_time()  # what it takes of the CPUs, however many wait for them
    made = with_history(table, [history(5, 10**6)], [])
    assert time.process_time() - started < 15  # loaded machines are several times slower
    frame = table.to_pandas()
    frame["past"] = [len(past) for past in made.column("past").to_pylist()]
    one = frame[frame["plane"] == "7"].sort_values("at")
    window = pd.Series(1, pd.to_datetime(one["at"].to_numpy(), unit="s")).rolling("1000000s", closed="both").sum() - 1
    assert one["past"].to_list() == window.clip(upper=5).to_list()


def test_numbers_beyond_single_precision_become_its_largest() -> None:
    made = with_history(flights([("a", 0, 1e300), ("a", 1, 0.0)]), [history()], [])
    assert made.column("past").to_pylist()[1] == [float(np.finfo(np.float32).max)]


def test_all_histories_are_of_one_group() -> None:
    assert history_group([]) is None
    assert history_group([history(), history(output="other")]) == "plane"
    with pytest.raises(SpecError, match="names the groups crew, plane, but rows can be gathered by one only"):
        history_group([history(), history(group="crew")])
