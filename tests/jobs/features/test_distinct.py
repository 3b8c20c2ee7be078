import numpy as np
import pyarrow as pa
import pytest

from jobs.features.distinct import last_of_each

ROWS = pa.table(
    {
        "user": ["b", "a", "b", "a", "c"],
        "item": ["1", "1", "1", "2", "1"],
        "time": [5, 3, 9, 1, 1],
        "image": [[5.0], [3.0], [9.0], [1.0], None],
    }
)


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    return table.take(np.random.default_rng(seed).permutation(table.num_rows))


def test_the_latest_row_of_each_key_stays_sorted_by_key() -> None:
    kept = last_of_each(ROWS, ("user", "item"), "time").to_pylist()
    assert [(row["user"], row["item"], row["time"]) for row in kept] == [
        ("a", "1", 3),
        ("a", "2", 1),
        ("b", "1", 9),
        ("c", "1", 1),
    ]


def test_one_key_may_be_of_one_column() -> None:
    assert last_of_each(ROWS, ("user",), "time").column("time").to_pylist() == [3, 9, 1]


@pytest.mark.parametrize("seed", range(5))
def test_without_a_time_one_row_stays_whatever_the_order_of_the_input(seed: int) -> None:
    expected = last_of_each(ROWS, ("user", "item"), None)
    assert expected.num_rows == 4
    assert last_of_each(shuffled(ROWS, seed), ("user", "item"), None).to_pylist() == expected.to_pylist()
    assert all(row in ROWS.to_pylist() for row in expected.to_pylist())


@pytest.mark.parametrize("time", ["time", None])
def test_rows_that_are_the_same_in_all_become_one(time: str | None) -> None:
    twice = pa.concat_tables([ROWS, ROWS])
    assert last_of_each(twice, ("user", "item"), time) == last_of_each(ROWS, ("user", "item"), time)


@pytest.mark.parametrize("time", ["time", None])
@pytest.mark.parametrize("num_rows", [0, 1])
def test_few_rows_stay_as_they_are(num_rows: int, time: str | None) -> None:
    table = ROWS.slice(0, num_rows)
    assert last_of_each(table, ("user",), time) == table
