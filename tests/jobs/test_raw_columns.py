import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from cluster.errors import DataError
from cluster.storage import Storage
from jobs import prepare
from jobs.raw_columns import describe_columns
from jobs.spec import RingSpec, load_ring
from jobs.workloads.tabular import TabularSpec
from tests.jobs.conftest import Ring

N = 60
SPEC = """
name: loans
storage: {storage}
raw: {{events: {{path: raw/loans, columns: {{id: key, income: Einkommen}}}}}}
prepare:
  split: {{by: hash}}
  steps: [{{kind: compare, column: days, above: 30, output: late}}]
workload: {{kind: tabular, label: late, numeric: [income], categorical: [home]}}
train: {{early_stopping: {{metric: log_loss, mode: min}}}}
"""
ROWS = [
    {
        "key": f"k{n}",
        "Einkommen": n * 1.5 if n % 6 else None,
        "home": ["own", "rent"][n % 2],
        "days": n % 50,
        "debt": n % 9,
        "no": ["x", "y", "z"][n % 3],
        "two, words": n / 4,
        "late": n % 2,
        "class": n % 2,
        "country": "DE",
        "note": f"note {n} on\nit",
    }
    for n in range(N)
]


def loans_ring(folder: Path, *overrides: str) -> tuple[RingSpec, Storage]:
    file = folder / "loans.yaml"
    file.write_text(SPEC.format(storage=folder))
    return load_ring(file, overrides), Storage(str(folder))


def loans(folder: Path) -> tuple[RingSpec, Storage]:
    spec, storage = loans_ring(folder)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    storage.write("raw/loans/a.parquet", sink.getvalue())
    return spec, storage


def lines_of(said: str) -> dict[str, list[str]]:
    """The cells of each column's line."""
    table = said.partition("\n\n")[2].partition("\n\n")[0]
    return {line.split("  ")[0]: [cell.strip() for cell in line.split("  ") if cell] for line in table.splitlines()}


def test_each_column_is_told_with_what_it_suggests_and_what_the_spec_reads_it_as(tmp_path: Path) -> None:
    said = describe_columns(*loans(tmp_path))
    assert said.startswith(f"the first 60 rows of '{tmp_path}/raw/loans/a.parquet'\n")
    lines = lines_of(said)
    assert list(lines) == ["column", *ROWS[0]]
    assert lines["key"] == ["key", "id", "0.0%", "id id", "k0, k1, k2"]
    assert lines["Einkommen"] == ["Einkommen", "number", "16.7%", "number income", "1.5, 3.0, 4.5"]
    assert lines["home"] == ["home", "text, 2 different", "0.0%", "text", "own, rent"]
    assert lines["debt"] == ["debt", "number", "0.0%", "-", "0, 1, 2"]
    assert lines["note"][-1] == "note 0 on it, note 1 on it, note 2 on it"


def test_the_block_keeps_what_the_spec_names_and_can_be_pasted(tmp_path: Path) -> None:
    block = describe_columns(*loans(tmp_path)).rpartition("\n\n")[2]
    workload = YAML(typ="safe").load(block)["workload"]
    assert workload == {
        "kind": "tabular",
        "label": "late",
        "numeric": ["income", "debt", "two, words"],
        "categorical": ["home", "no"],
    }
    lines = (block if line.startswith("workload:") else line for line in SPEC.format(storage="x").splitlines())
    (tmp_path / "pasted.yaml").write_text("\n".join(lines))
    assert load_ring(tmp_path / "pasted.yaml", []).workload == TabularSpec(
        label="late", numeric=("income", "debt", "two, words"), categorical=("home", "no")
    )
    assert [line.strip() for line in block.splitlines()[5:]] == [
        "# without key: all its values differ",
        "# without days: the spec reads it already, as number",
        "# without late: the spec has another column of that name",
        "# without class: prepare makes a column of that name; name it anew in raw.events.columns",
        "# without country: it is always DE",
        "# without note: all its values differ",
    ]


def test_a_label_that_is_nowhere_is_left_open_and_vectors_stay(tmp_path: Path) -> None:
    _, storage = loans(tmp_path)
    spec, _ = loans_ring(tmp_path, "workload.label=unknown", "workload.vectors=[seen]")
    said = describe_columns(spec, storage)
    assert "\n  label: ?\n" in said
    assert "\n  vectors: [seen]\n" in said


def test_the_first_file_that_has_rows_is_read_up_to_so_many(tmp_path: Path) -> None:
    spec, storage = loans_ring(tmp_path)
    storage.write("raw/loans/a.csv", b"")
    storage.write("raw/loans/b.csv", b"key,days\n" + b"".join(b"%d,%d\n" % (n, n % 7) for n in range(10_500)))
    storage.write("raw/loans/c.csv", b"other\n1\n")
    said = describe_columns(spec, storage)
    assert said.startswith(f"the first 10,000 rows of '{tmp_path}/raw/loans/b.csv'\n")
    assert list(lines_of(said)) == ["column", "key", "days"]
    assert lines_of(said)["days"][1] == "number"


def test_objects_in_json_lines_are_told_and_do_not_hide_the_rest(tmp_path: Path) -> None:
    spec, storage = loans_ring(tmp_path)
    rows = [
        {"key": n, "deep": {"a": 1}, "deep in": n, "tags": ["u", "v"], "pair": [[1], [2]], "debt": n % 5}
        for n in range(N)
    ]
    storage.write("raw/loans/a.jsonl", "\n".join(["no json", *map(json.dumps, rows)]).encode())
    lines = lines_of(describe_columns(spec, storage))
    assert [lines[name][1] for name in ("key", "deep", "deep in", "tags", "pair", "debt")] == [
        "id",
        "nested",
        "id",
        "labels, 2 different",
        "nested",
        "number",
    ]


def test_a_file_without_a_row_and_one_with_a_name_twice_are_refused(tmp_path: Path) -> None:
    spec, storage = loans_ring(tmp_path)
    storage.write("raw/loans/a.jsonl", b'{"key": 1\n[1]\n')
    with pytest.raises(DataError, match=r"no row of raw file '.*a\.jsonl' can be read: line is no JSON: Expecting"):
        describe_columns(spec, storage)
    storage.write("raw/loans/a.csv", b"key,key\n1,2\n")
    with pytest.raises(DataError, match=r"a\.csv' has 2 columns 'key'; keep one"):
        describe_columns(spec, storage)


def test_the_command_needs_raw_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, storage = loans(tmp_path)
    assert prepare.main(["columns", str(tmp_path / "loans.yaml")]) == 0
    assert '  numeric: [income, debt, "two, words"]\n' in capsys.readouterr().out
    assert not storage.exists("prepared")
    assert not storage.exists("quarantine")


def test_of_a_workload_without_a_table_of_features_the_columns_alone_are_told(ring: Ring) -> None:
    said = describe_columns(ring.spec(), ring.storage)
    lines = lines_of(said)
    assert {name: cells[1:4] for name, cells in lines.items() if name != "column"} == {
        "userId": ["number", "0.0%", "id user_id"],
        "movieId": ["number", "0.0%", "id item_id"],
        "rating": ["number", "0.0%", "number"],
        "timestamp": ["time", "0.0%", "time"],
    }
    assert "workload:" not in said


def test_a_column_that_a_history_makes_is_not_taken_from_the_file(tmp_path: Path) -> None:
    _, storage = loans(tmp_path)
    made = "prepare.history=[{column: income, group: home, time: when, output: debt, size: 3}]"
    spec, _ = loans_ring(tmp_path, made)
    said = describe_columns(spec, storage)
    assert "  # without debt: the spec has another column of that name" in said
    assert "debt" not in said.partition("numeric: ")[2].partition("\n")[0]
