"""Device: how fast one computes and speaks to its peers, by a data sheet or by measurement."""

import hashlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from cluster.errors import SpecError
from cluster.layout import Precision
from cluster.spec import Spec, parse
from jobs.search.footprint import Kind, Work


class Link(Spec):
    """How messages go: each takes the latency, and as long as its bytes take at the rate (Hockney, 1994)."""

    latency_us: float = Field(ge=0)
    gb_per_s: float = Field(gt=0)

    def seconds(self, num_bytes: float) -> float:
        """Of one message."""
        return self.latency_us * 1e-6 + num_bytes / (self.gb_per_s * 1e9)


class Overheads(Spec):
    """What the processor does besides the arithmetic, in microseconds."""

    op_us: float = Field(0, ge=0)
    """Of each kernel: until it runs."""
    view_us: float = Field(0, ge=0)
    """Of each operator that moves nothing."""
    update_us: float = Field(0, ge=0)
    """Of each weight that the optimizer moves."""
    sharded_update_us: float = Field(0, ge=0)
    """The same where workers have a part of it each."""
    split_layer_us: float = Field(0, ge=0)
    """Of each layer that is split on the tensor axis, forward and backward."""
    unit_us: float = Field(0, ge=0)
    """Of each unit that is gathered and reduced, forward and backward."""
    action_us: float = Field(0, ge=0)
    """Of each micro-batch on each stage of a pipeline, forward or backward."""


class Device(Spec):
    """One kind of device, and the nodes it stands in."""

    memory_gib: float = Field(gt=0)
    devices_a_node: int = Field(8, ge=1)
    tflops: dict[Precision, Annotated[float, Field(gt=0)]]
    """Of matrix products, as large ones reach it; a precision that is not told has the rate of fp32."""
    convolution_share: float = Field(1.0, gt=0, le=1)
    """Of that rate, which convolutions reach."""
    memory_gb_per_s: float = Field(gt=0)
    """Of kernels that do little but read and write."""
    inside: Link
    """Between devices of a node: what one sends, while it receives as much."""
    between: Link
    """The same between devices of different nodes."""
    overlaps: bool = True
    """Whether messages travel while the device computes."""
    cores: float | None = Field(None, gt=0)
    """Devices that compute at full speed side by side, where they share processors; None where each has its own."""
    overheads: Overheads = Overheads()
    measured: dict[Kind, Annotated[dict[int, Link], Field(min_length=1)]] = {}
    """Of messages among so many, whatever is between them; instead of `inside` and `between`."""
    source: str
    """Where the numbers are from."""

    @model_validator(mode="after")
    def _has_single(self) -> "Device":
        if "fp32" not in self.tflops:
            raise ValueError(
                f"tflops has {', '.join(self.tflops) or 'nothing'}; give fp32 too, which others fall back to"
            )
        return self

    @property
    def is_cpu(self) -> bool:
        """Whether devices are processes that share a processor, and speak by gloo."""
        return self.cores is not None

    @property
    def rates_key(self) -> str:
        """What tells these rates from others; memory and cores may be those of the cluster at hand, and are none."""
        rates = self.model_dump(mode="json", exclude={"memory_gib", "cores", "source"})
        return hashlib.sha256(json.dumps(rates, sort_keys=True).encode()).hexdigest()[:12]

    def work_s(self, work: Work, precision: Precision) -> float:
        """How long kernels take, one after the other (Williams et al., 2009, the roofline model)."""
        rate = self.tflops.get(precision, self.tflops["fp32"]) * 1e12
        shares = np.array([self.convolution_share if "convolution" in name else 1.0 for name in work.names])
        arithmetic, moving = work.flops / (rate * shares), work.moved / (self.memory_gb_per_s * 1e9)
        over = self.overheads
        beside = over.op_us * len(work.names) + over.view_us * work.num_views
        return float(np.maximum(arithmetic, moving).sum()) + beside * 1e-6

    def message_s(self, kind: Kind, num_bytes: float, size: int, stride: int) -> float:
        """How long a message takes a group of peers, each with its own device.

        By rings (Patarasuk and Yuan, 2009): each round passes on one part of the whole. A ring over nodes leaves each
        by as many links as peers stand on it.

        Args:
            num_bytes: of the whole tensor.
            stride: how far the ranks of neighbours are apart; those of a node follow each other.
        """
        if size == 1:
            return 0.0
        if kind in self.measured:
            return self._nearest(self.measured[kind], size).seconds(num_bytes)
        on_a_node = max(1, min(size, self.devices_a_node // stride))
        link = self.inside if on_a_node == size else self._between_nodes(on_a_node)
        if kind == "send":
            return link.seconds(num_bytes)
        rounds = 2 * (size - 1) if kind == "all_reduce" else size - 1
        return rounds * link.seconds(num_bytes / size)

    def _between_nodes(self, num_links: int) -> Link:
        rate = min(self.between.gb_per_s * num_links, self.inside.gb_per_s)
        return Link(latency_us=self.between.latency_us, gb_per_s=rate)

    def _nearest(self, by_size: dict[int, Link], size: int) -> Link:
        return by_size[min(by_size, key=lambda known: (abs(known - size), known))]


class DeviceTable(Spec):
    """A file of devices."""

    devices: dict[str, Device]


@cache
def shipped() -> dict[str, Device]:
    """The devices of `devices.yaml`, by name."""
    return _read(files("jobs.search").joinpath("devices.yaml").read_text(), "jobs/search/devices.yaml")


def table_of(path: str) -> dict[str, Device]:
    """The devices of a user's own file of the same form.

    Raises:
        SpecError: it cannot be read, or breaks a rule.
    """
    try:
        text = Path(path).expanduser().read_text("utf-8")
    except OSError as error:
        raise SpecError(f"tune.device_table={path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"tune.device_table={path} is no text in UTF-8: {error.reason}; save it as such") from None
    return _read(text, path)


def _read(text: str, source: str) -> dict[str, Device]:
    return parse(DeviceTable, text, source).devices
