import json

import numpy as np
import pyarrow as pa

from jobs.features.column_profile import describe
from jobs.features.compare import Compare
from jobs.features.impute import Impute
from jobs.features.scaling import Scaling
from jobs.features.split import TrainRows
from jobs.features.survey import survey
from jobs.features.transform import Transform
from jobs.report.quarantine import Reason
from jobs.report.report import RawTable, Report, Roles, report

NUM_ROWS = 2000
ROLES = Roles(("id",), ("delay", "carrier", "month"), "late", {"id": "id", "hour": "time"})


def example(carrier: str = "AA", reason: str = "delay is missing") -> Report:
    """Of rows whose month differs between the splits and whose feature `delay` is the label's source."""
    random = np.random.default_rng(0)
    delay = random.normal(10, 20, NUM_ROWS)
    rows = pa.table(
        {
            "id": [f"r{number}" for number in range(NUM_ROWS)],
            "delay": pa.array(delay, mask=random.random(NUM_ROWS) < 0.1),
            "carrier": random.choice(["UA", carrier], NUM_ROWS),
            "month": np.repeat([1.0, 2.0], NUM_ROWS // 2),
            "hour": np.arange(NUM_ROWS) * 3600,
            "split": np.repeat(["train", "test"], NUM_ROWS // 2),
        }
    )
    steps = (
        Compare(column="delay", output="late", above=15),
        Impute(column="delay", fill="median"),
        Scaling(column="delay"),
        Scaling(column="delay", output="number:delay"),
    )
    transform = Transform(steps).fit([TrainRows.of(rows)])
    prepared = transform.prepare(rows)
    splits = {
        name: survey(prepared.filter(pa.compute.equal(prepared.column("split"), name)), ("id",))
        for name in ("train", "test")
    }
    columns = tuple(describe(survey(rows.drop_columns(["split"]), ("id",)), ROLES.kinds).values())
    table = RawTable("events", "raw/flights", 2, 3000, NUM_ROWS + 3, 3, columns, (Reason(reason, 3, ("<b>",)),))
    return report("flights", "prepared/flights/abc", "2026-01-02 03:04 UTC", [table], transform, splits, ROLES, 5)


def test_a_step_stands_beside_its_columns_before_and_after() -> None:
    compare, impute, in_place, scaling = example().steps
    assert [each.name for each in compare.before + compare.after] == ["raw:delay", "late"]
    assert [each.name for each in impute.before + impute.after] == ["raw:delay", "delay"]
    assert (impute.before[0].num_null > 0, impute.after[0].num_null) == (True, 0)
    assert (impute.shared_with, in_place.shared_with, scaling.shared_with) == ((3,), (2,), ())
    assert [each.name for each in scaling.before + scaling.after] == ["delay", "number:delay"]
    assert "column=delay" in impute.given
    assert "where it is missing" in impute.learned


def test_what_is_worth_a_look_is_found() -> None:
    made = example()
    assert [(drift.column, drift.split) for drift in made.drifts] == [("month", "test")]
    assert [finding.column for finding in made.findings] == ["delay", "month"]
    assert made.splits == {"train": NUM_ROWS // 2, "test": NUM_ROWS // 2}


def test_it_is_plain_json_with_every_column() -> None:
    made = example()
    said = made.as_json()
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert said["num_rows"] == made.splits
    assert set(said["raw"]["events"]["columns"]) == {"id", "delay", "carrier", "month", "hour"}
    assert {"delay", "raw:delay", "number:delay", "late"} <= set(said["train"])
    assert said["raw"]["events"]["columns"]["hour"]["kind"] == "time"
