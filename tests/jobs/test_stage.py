import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.command import run as run_command
from cluster.errors import SpecError, StorageError
from cluster.storage import Storage
from jobs import train
from jobs.lineage import Made
from jobs.spec import RingSpec
from jobs.stage import describe, main

ROOT = Path(__file__).parents[2]
SPEC = """
name: films
raw: {events: {path: raw/ratings}, items: {path: raw/movies}}
workload: {kind: recommender}
train: {early_stopping: {metric: ndcg_at_10}}
"""


def spec_file(folder: Path) -> str:
    path = folder / "films.yaml"
    path.write_text(SPEC)
    return str(path)


def started(arguments: Sequence[str]) -> list[str]:
    """What a stage that is started with these arguments is given, as words."""
    calls: list[str] = []

    def run(spec: RingSpec, storage: Storage) -> Made:
        calls.append(f"run seed={spec.seed} epochs={spec.train.num_epochs} in {storage.uri}")
        return Made("count", "counted/films", True, "first run", "two\nlines")

    def plan(spec: RingSpec, storage: Storage) -> str:
        calls.append(f"plan seed={spec.seed} epochs={spec.train.num_epochs} in {storage.uri}")
        return "count: would run"

    assert main("count: counts.\n\nAt length.", run, plan, arguments) == 0
    return calls


def tree(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_overrides_after_the_spec_reach_the_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = tmp_path / "ring"
    calls = started([spec_file(tmp_path), "seed=5", "train.num_epochs=2", f"storage={storage}"])
    assert calls == [f"run seed=5 epochs=2 in {storage}"]
    assert capsys.readouterr().out == "count: ran (first run) -> counted/films\n  two\n  lines\n"


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_plan_prints_what_would_be_done_and_writes_nothing(
    tmp_path: Path, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "ring"
    arguments = [spec_file(tmp_path), f"storage={storage}", "seed=5"]
    arguments.insert(place, "--plan")
    before = tree(tmp_path)
    assert started(arguments) == [f"plan seed=5 epochs=12 in {storage}"]
    assert capsys.readouterr().out == "count: would run\n"
    assert tree(tmp_path) == before


def test_a_run_leaves_nothing_of_the_write_check(tmp_path: Path) -> None:
    storage = tmp_path / "ring"
    started([spec_file(tmp_path), f"storage={storage}"])
    assert tree(storage) == []


def test_nothing_runs_on_a_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"storage '.*file/below' cannot be written: .*storage=PATH_OR_URI"):
        started([spec_file(tmp_path), f"storage={tmp_path}/file/below"])


def test_nothing_runs_on_a_spec_that_is_not_valid(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="unknown key 'sed'"):
        started([spec_file(tmp_path), "sed=5"])


def test_help_shows_the_first_line_of_the_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        started(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "count: counts." in shown
    assert "At length" not in shown
    assert "SPEC" in shown


def test_without_a_spec_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        started([])
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (Made("tune", "plans/films/1", False, "unchanged"), "tune: skipped (unchanged) -> plans/films/1"),
        (Made("collect", "", True, "new feedback", "3 events"), "collect: ran (new feedback)\n  3 events"),
    ],
)
def test_an_outcome_says_whether_it_ran_and_why(made: Made, text: str) -> None:
    assert describe(made) == text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.num_epochs=many"], "train.num_epochs: input should be a valid integer"),
        (["train.num_epoch=2"], "unknown key 'train.num_epoch'. Did you mean 'num_epochs'?"),
        (["train.num_epochs"], "override 'train.num_epochs' is not of the form key.path=value"),
        (["storage=gs://bucket"], "storage 'gs://bucket': kind 'gs' is unknown"),
        (["storage={folder}/file/below"], "/file/below' cannot be written"),
        (["storage={folder}/ring", "--plan"], "raw data 'raw/ratings' does not exist"),
    ],
)
def test_a_users_mistake_ends_the_command_with_a_message_and_code_2(
    tmp_path: Path,
    overrides: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    given = [override.format(folder=tmp_path) for override in overrides]
    monkeypatch.setattr(sys, "argv", ["jobs.train", spec_file(tmp_path), *given])
    before = tree(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_command(train.main)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("rayline: ")
    assert message in shown.err
    assert tree(tmp_path) == before


def test_the_command_itself_exits_with_2_and_no_traceback() -> None:
    command = [sys.executable, "-m", "jobs.train", "gone.yaml"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("rayline: spec file 'gone.yaml' does not exist")
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
