import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.head import Head, forget, note, noted_head, running_head, start_head
from cluster.processes import Process, family, find


@pytest.fixture
def head(home: Path) -> Head:
    ourselves = find(os.getpid())
    assert ourselves is not None
    return Head(ourselves.pid, ourselves.started_ticks, "10.0.0.1:6379", "http://127.0.0.1:8265", str(home))


def test_a_noted_head_is_found_until_it_is_forgotten(head: Head, home: Path) -> None:
    assert noted_head() is None
    note(head)
    assert noted_head() == running_head() == head
    assert [path.name for path in (home / ".rayline").iterdir()] == ["cluster.json"]
    forget()
    forget()
    assert noted_head() is None


def test_a_head_whose_pid_was_handed_out_again_does_not_run(head: Head) -> None:
    stale = replace(head, started_ticks=head.started_ticks - 1)
    note(stale)
    assert running_head() is None
    assert noted_head() == stale


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"pid": 1}', "no JSON"])
def test_a_damaged_note_is_none(home: Path, content: str) -> None:
    (home / ".rayline").mkdir()
    (home / ".rayline" / "cluster.json").write_text(content)
    assert noted_head() is None


def test_only_its_owner_reads_the_note(head: Head, home: Path) -> None:
    note(head)
    assert stat.S_IMODE((home / ".rayline").stat().st_mode) == 0o700


@pytest.mark.ray
def test_a_start_that_fails_shows_the_cause_and_leaves_nothing_running(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_START_HOOK", "no_such_module.hook")
    with pytest.raises(ClusterError) as caught:
        start_head(2, lambda waited_s: None)
    message = str(caught.value)
    assert "the cluster did not start: `ray start` ended with 1 after" in message
    assert "No module named 'no_such_module'" in message
    scratch = Path(message.partition("All logs: ")[2].partition("\n")[0])
    assert (scratch / "start.log").is_file()
    assert family(Process(-1, -1), f"RAYLINE_CLUSTER={scratch}") == set()
    shutil.rmtree(scratch)
