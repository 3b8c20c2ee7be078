import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [[], ["upp"], ["up", "--num-cpus", "0"], ["up", "--num-cpus", "two"], ["run"]])
def test_a_wrong_command_line_ends_with_2_and_the_right_form(home: Path, arguments: list[str]) -> None:
    ended = cluster(*arguments)
    assert ended.returncode == 2
    assert "python -m cluster" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(home.iterdir()) == []


def test_with_no_cluster_status_says_how_to_start_one(home: Path) -> None:
    ended = cluster("status")
    assert (ended.returncode, ended.stdout) == (1, "no cluster is running; start one with: python -m cluster up\n")


def test_with_no_cluster_down_has_nothing_to_do(home: Path) -> None:
    ended = cluster("down")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_token_that_cannot_be_written_is_a_message_and_2(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "file" / "token"))
    ended = cluster("up")
    assert ended.returncode == 2
    assert ended.stderr.startswith("rayline: the cluster's token cannot be written to")
