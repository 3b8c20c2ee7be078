import json
from pathlib import Path

import torch
import torch.distributed as dist

from cluster.spec import dump, parse
from jobs.parallel.collectives import rank
from jobs.search.device import Device
from jobs.search.footprint import Kind
from jobs.search.microbenchmarks import MESSAGE_BYTES, _message, measured_device
from tests.jobs.parallel.workers import run_together

KINDS: tuple[Kind, ...] = ("all_reduce", "all_gather", "reduce_scatter")


def write_device(folder: Path) -> None:
    found = measured_device(torch.device("cpu"), 2, 4.0)
    (folder / f"{rank()}.json").write_text(found.model_dump_json())


def test_two_workers_measure_one_device(tmp_path: Path) -> None:
    run_together(2, write_device, tmp_path, 120)
    first, second = (Device.model_validate_json((tmp_path / f"{number}.json").read_text()) for number in range(2))
    assert first == second
    assert parse(Device, dump(first), "what was kept") == first
    assert first.is_cpu
    assert not first.overlaps
    assert 0 < (first.cores or 0) <= 2
    assert first.devices_a_node == 2
    assert set(first.tflops) == {"fp32", "bf16"}
    assert set(first.measured) == {"all_reduce", "all_gather", "reduce_scatter", "send"}
    assert all(set(sizes) == {2} for sizes in first.measured.values())
    assert first.overheads.op_us > 0
    assert first.overheads.sharded_update_us > 0
    assert json.loads((tmp_path / "0.json").read_text())["source"].startswith("measured by 2 workers on ")


def write_messages(folder: Path) -> None:
    """What each of three workers does."""
    for kind in KINDS:
        _message(kind, dist.group.WORLD, 3, MESSAGE_BYTES[0], torch.device("cpu"))()
    (folder / f"{dist.get_rank()}.json").write_text("[]")


def test_messages_of_which_each_has_a_third_add_up(tmp_path: Path) -> None:
    run_together(3, write_messages, tmp_path, 60)
    assert (tmp_path / "2.json").exists()
