from pathlib import Path

import pytest

from cluster.lifecycle import Cluster
from jobs import kernel_kills


def test_the_count_of_this_machine_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel_kills.count_here() >= 0
    (tmp_path / "vmstat").write_text("nr_free 5\noom_kill 7\noom_kill_other 9\n")
    monkeypatch.setattr(kernel_kills, "VMSTAT", tmp_path / "vmstat")
    assert kernel_kills.count_here() == 7
    monkeypatch.setattr(kernel_kills, "VMSTAT", tmp_path / "none")
    assert kernel_kills.count_here() == 0


def test_a_node_that_came_meanwhile_has_killed_nobody() -> None:
    assert kernel_kills.has_risen({"a": 1}, {"a": 2})
    assert not kernel_kills.has_risen({"a": 1}, {"a": 1, "b": 9})


@pytest.mark.ray
def test_every_node_answers(cluster: Cluster) -> None:
    before = kernel_kills.count_here()  # of the whole machine, on which it may rise meanwhile
    (count,) = kernel_kills.kernel_kills().values()
    assert before <= count <= kernel_kills.count_here()
