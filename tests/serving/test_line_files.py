import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.errors import StorageError
from cluster.storage import Storage
from serving.line_files import LineFiles, lines_in

NOON = datetime(2026, 5, 4, 12, 0, 0, 250, UTC)


def test_files_are_named_by_moment_writer_and_number_so_that_none_meet(tmp_path: Path) -> None:
    writers = [LineFiles(Storage(str(tmp_path)), "said/films", lambda: NOON) for _ in range(2)]
    for number in range(6):
        writers[number % 2].write([{"number": number}])
    paths = sorted(tmp_path.rglob("*.jsonl"))
    assert len(paths) == 6
    assert {path.parent for path in paths} == {tmp_path / "said/films/2026-05-04"}
    assert all(path.name.startswith("120000-000250-") for path in paths)
    assert sorted(json.loads(path.read_text())["number"] for path in paths) == [*range(6)]


def test_lines_are_read_back_and_damage_is_named(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert list(lines_in(storage, "said", int)) == []
    LineFiles(storage, "said").write(["1", "22"])
    assert list(lines_in(storage, "said", int)) == [1, 22]
    LineFiles(storage, "said").write(["three"])
    with pytest.raises(StorageError, match=r"\.jsonl' is damaged: invalid literal .*; mend or remove it"):
        list(lines_in(storage, "said", int))
