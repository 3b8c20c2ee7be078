import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.storage import Storage
from jobs.features.columns import Column
from jobs.features.survey import survey
from jobs.report.files import PAGE, PROFILE, keys_of, local_page, raw_table, read_reasons, roles, write
from jobs.report.page import page
from jobs.report.quarantine import Reason
from jobs.spec import load_ring
from tests.jobs.report.test_report import example

SPECS = Path(__file__).parents[3] / "jobs/specs"


def test_the_page_and_the_profile_are_written_beside_each_other(tmp_path: Path) -> None:
    storage, made = Storage(str(tmp_path)), example()
    write(storage, "prepared/flights/abc", made)
    folder = tmp_path / "prepared/flights/abc"
    assert (folder / PAGE).read_text() == page(made)
    assert json.loads((folder / PROFILE).read_text()) == made.as_json()
    assert local_page(storage, "prepared/flights/abc", "flights") == folder / PAGE


def test_a_page_in_a_storage_elsewhere_is_copied_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path / "elsewhere"))
    write(storage, "prepared/flights/abc", example())
    monkeypatch.setattr(Storage, "is_local", False)
    monkeypatch.chdir(tmp_path)
    copy = local_page(storage, "prepared/flights/abc", "flights")
    assert copy == tmp_path / "flights-report.html"
    assert copy.read_text() == page(example())


def test_reasons_of_all_files_of_a_quarantine_add_up(tmp_path: Path) -> None:
    (tmp_path / "quarantine").mkdir()
    for number, reasons in enumerate((["x 'a' is no number"], ["x 'b' is no number", "x is missing"])):
        pq.write_table(pa.table({"reason": reasons}), tmp_path / f"quarantine/{number}.parquet")
    storage = Storage(str(tmp_path))
    assert read_reasons(storage, "quarantine") == (
        Reason("x is no number", 2, ("a", "b")),
        Reason("x is missing", 1, ()),
    )
    assert read_reasons(storage, "nothing") == ()


@pytest.mark.parametrize(
    ("name", "keys", "label", "features"),
    [
        ("flights", ("id",), "late", {"dep_delay", "carrier", "origins", "tail_late"}),
        ("tabular", ("id",), "Status", {"Seniority", "Job"}),
        ("recommender", ("user_id", "item_id"), None, {"rating"}),
    ],
)
def test_the_workload_says_what_a_column_is(
    name: str, keys: tuple[str, ...], label: str | None, features: set[str]
) -> None:
    found = roles(load_ring(SPECS / f"{name}.yaml"))
    assert (found.keys, found.label) == (keys, label)
    assert features <= set(found.features)
    assert not {*keys, label} & set(found.features)


def test_rows_of_a_table_without_a_known_key_are_told_apart_by_all_columns() -> None:
    spec = load_ring(SPECS / "recommender.yaml")
    assert keys_of(spec, (Column("item_id", "id"), Column("title", "text"))) == ("item_id",)
    assert keys_of(spec, (Column("a", "id"), Column("b", "text"))) == ("a", "b")


def test_a_raw_table_knows_its_moments() -> None:
    found = survey(pa.table({"hour": [0, 3600]}), ("hour",))
    made = raw_table("events", "raw/x", (Column("hour", "time"),), (1, 10), (3, 1), found, ())
    assert (made.num_files, made.num_bytes, made.num_rows, made.num_bad) == (1, 10, 3, 1)
    assert made.columns[0].kind == "time"
