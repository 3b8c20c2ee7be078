import pyarrow as pa

from jobs.features.duplicates import Duplicates
from tests.jobs.features.fitting import text


def test_rows_of_the_learned_keys_go_and_all_others_stay_as_they_are() -> None:
    rows = pa.table({"id": text(["a", "b", "c", None]), "x": text(["1", "1", "2", "2"])})
    step = Duplicates(columns=("x",), key="id").with_state(pa.table({"key": ["b", "z"]}))
    assert step.leaves_out
    assert step.keeps(rows).to_pylist() == [True, False, True, True]
    assert step.apply(rows) is rows
    assert step.apply_row({"id": "b", "x": "1"}) == {}
