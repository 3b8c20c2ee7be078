from pathlib import Path

import numpy as np
import pytest

from cluster.errors import SpecError
from cluster.spec import dump, parse
from jobs.flops import PEAK_TFLOPS
from jobs.search.device import Device, Link, Overheads, shipped, table_of
from jobs.search.footprint import Work

DEVICE = Device(
    memory_gib=1,
    devices_a_node=4,
    tflops={"fp32": 1.0, "bf16": 2.0},
    convolution_share=0.5,
    memory_gb_per_s=100,
    inside=Link(latency_us=10, gb_per_s=10),
    between=Link(latency_us=20, gb_per_s=2),
    overheads=Overheads(op_us=1, view_us=0.5),
    source="made up",
)


def work(*ops: tuple[str, float, float], num_views: int = 0) -> Work:
    names = tuple(name for name, _, _ in ops)
    return Work(names, np.array([op[1] for op in ops]), np.array([op[2] for op in ops]), num_views, ())


B200 = (
    b"devices:\n  B200:\n    memory_gib: 180\n    tflops: {fp32: 60, bf16: 1745}\n    memory_gb_per_s: 7700\n"
    b"    inside: {latency_us: 3, gb_per_s: 700}\n    between: {latency_us: 10, gb_per_s: 40}\n    source: ours\n"
)


def test_a_kernel_takes_the_longer_of_arithmetic_and_memory() -> None:
    assert DEVICE.work_s(work(("mm", 1e9, 1e6)), "fp32") == pytest.approx(1e-3 + 1e-6)
    assert DEVICE.work_s(work(("mm", 1e9, 1e9)), "fp32") == pytest.approx(1e-2 + 1e-6)
    assert DEVICE.work_s(work(("mm", 1e9, 1e6)), "bf16") == pytest.approx(0.5e-3 + 1e-6)
    assert DEVICE.work_s(work(("convolution", 1e9, 1e6)), "fp32") == pytest.approx(2e-3 + 1e-6)
    assert DEVICE.work_s(work(num_views=4), "fp32") == pytest.approx(2e-6)


def test_rates_are_told_apart_whatever_the_cluster_at_hand_has() -> None:
    here = DEVICE.model_copy(update={"memory_gib": 8.0, "cores": 4.0})
    assert here.rates_key == DEVICE.rates_key
    assert parse(Device, dump(DEVICE), "its file").rates_key == DEVICE.rates_key
    for rates in ({"memory_gb_per_s": 101.0}, {"tflops": {"fp32": 1.1}}, {"overheads": Overheads(op_us=2)}):
        assert DEVICE.model_copy(update=rates).rates_key != DEVICE.rates_key


def test_a_precision_that_is_not_told_has_the_rate_of_single() -> None:
    assert DEVICE.work_s(work(("mm", 1e9, 0)), "fp16") == DEVICE.work_s(work(("mm", 1e9, 0)), "fp32")


def test_rings_pass_each_part_on_as_often_as_they_are_long() -> None:
    part = 1e-5 + 1e6 / 4 / 10e9
    assert DEVICE.message_s("all_gather", 1e6, 4, 1) == pytest.approx(3 * part)
    assert DEVICE.message_s("all_reduce", 1e6, 4, 1) == pytest.approx(6 * part)
    assert DEVICE.message_s("send", 1e6, 2, 1) == pytest.approx(1e-5 + 1e-4)
    assert DEVICE.message_s("all_reduce", 1e6, 1, 1) == 0


def test_a_ring_over_nodes_leaves_each_by_all_its_links() -> None:
    alone = DEVICE.message_s("all_gather", 8e6, 8, 4)
    shared = DEVICE.message_s("all_gather", 8e6, 8, 1)
    assert alone == pytest.approx(7 * (2e-5 + 1e6 / 2e9))
    assert shared == pytest.approx(7 * (2e-5 + 1e6 / 8e9))


def test_what_was_measured_goes_before_what_is_computed() -> None:
    link = Link(latency_us=1, gb_per_s=1)
    measured = DEVICE.model_copy(update={"measured": {"all_reduce": {2: link, 8: link}}})
    assert measured.message_s("all_reduce", 1e9, 4, 1) == pytest.approx(1 + 1e-6)
    assert measured.message_s("all_gather", 1e6, 4, 1) == DEVICE.message_s("all_gather", 1e6, 4, 1)


def test_data_sheets_come_along_and_none_exceeds_its_peak() -> None:
    devices = shipped()
    assert {"A100", "H100", "H200", "L4", "A10", "RTX4090", "CPU"} <= set(devices)
    for name, peak in PEAK_TFLOPS.items():
        if name in devices:
            assert devices[name].tflops["bf16"] <= peak
    assert all(device.source for device in devices.values())


def test_a_user_adds_a_line(tmp_path: Path) -> None:
    table = tmp_path / "mine.yaml"
    table.write_bytes(B200)
    assert table_of(str(table))["B200"].tflops["bf16"] == 1745


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "tune.device_table=.* cannot be read"),
        (b"devices: {B200: {memory_gib: 0}}", "B200.memory_gib"),
        (B200.replace(b"fp32: 60, ", b""), r"B200: tflops has bf16; give fp32 too"),
        (B200 + b"    measured: {send: {}}\n", r"B200.measured.send: .* at least 1 item"),
        (B200.replace(b"bf16: 1745", b"bf16: 0"), r"B200.tflops.bf16: .* greater than 0"),
        (B200.replace(b"ours", b"\xe9"), r"tune.device_table=.* is no text in UTF-8"),
    ],
)
def test_a_table_that_is_wrong_says_where(tmp_path: Path, content: bytes | None, message: str) -> None:
    table = tmp_path / "mine.yaml"
    if content:
        table.write_bytes(content)
    with pytest.raises(SpecError, match=message):
        table_of(str(table))
