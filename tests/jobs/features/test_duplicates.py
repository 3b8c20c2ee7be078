import pandas as pd
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from jobs.features.duplicates import Duplicates
from jobs.features.transform import Transform
from tests.jobs.features.fitting import fitted, table, text

TEXTS = st.one_of(st.none(), st.sampled_from(["a", "b", "ab", "😀"]))


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=30), st.lists(st.integers(0, 30), max_size=3), st.randoms())
def test_the_rows_that_pandas_drops_are_left_out(
    rows: list[tuple[str | None, str | None]], cuts: list[int], draw: object
) -> None:
    keys = [f"k{number:02}" for number in range(len(rows))]
    draw.shuffle(keys)  # type: ignore[attr-defined]
    given_rows = table(one=text([one for one, _ in rows]), two=text([two for _, two in rows]), key=text(keys))
    step = fitted(Duplicates(columns=("one", "two"), key="key"), given_rows, cuts)
    kept = given_rows.filter(step.keeps(given_rows)).column("key").to_pylist()
    frame = pd.DataFrame(rows, columns=["one", "two"], dtype=object).assign(key=keys).sort_values("key")
    assert sorted(kept) == frame.drop_duplicates(["one", "two"])["key"].to_list()
    assert step.told().startswith(f"one, two: {len(rows) - len(kept)} duplicates")


def test_validation_rows_stay() -> None:
    rows = table(one=["x", "x", "x"], key=["1", "2", "3"])
    step = fitted(Duplicates(columns=("one",), key="key"), rows)
    mixed = rows.set_column(2, "split", pa.array(["train", "train", "valid"]))
    assert Transform((step,)).prepare(mixed).column("key").to_pylist() == ["1", "3"]
    assert step.apply_row({"one": "x", "key": "2"}) == {}
