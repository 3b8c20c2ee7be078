"""How much arithmetic a training row takes, and how much a GPU could do: the two sides of MFU.

Counted are the multiplications and additions of matrix products, convolutions and attention, forward and backward, of
the model as it is written: what `recompute` does twice counts once (Chowdhery et al., 2022, PaLM, appendix B).
"""

import re
from typing import Any

import pyarrow as pa
import torch
from torch.utils.flop_counter import FlopCounterMode

from jobs.features.transform import Transform
from jobs.workloads import WORKLOADS, WorkloadSpec

PEAK_TFLOPS = {
    **{"H200": 989.4, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.4, "A100": 312.0, "A10": 125.0},
    **{"L40S": 362.05, "L4": 121.0, "V100": 125.0, "T4": 65.0},
}
"""Dense products of half precision, by NVIDIA's data sheets; the first name that is a word of the device's own."""


def flops_a_row(spec: WorkloadSpec, transform: Transform, rows: pa.Table) -> float | None:
    """Floating point operations of the model for a row, forward and backward; on the device `meta`, so none is done.

    Args:
        rows: transformed ones, as many as a batch has: what a step does once counts for each in part.

    Returns:
        None where the model does something that torch cannot follow without numbers.
    """
    workload = WORKLOADS[spec.kind]
    with torch.device("meta"):
        model = workload.build(spec, transform).train()
    given = {**workload.tensors(rows), **workload.draw(spec, transform, torch.Generator())}
    given["key"] = given["turn"] = torch.zeros(rows.num_rows, dtype=torch.int64)
    given = workload.augment(spec, given, lambda: given)
    batch = {name: value.to("meta") for name, value in given.items()}
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            outputs: Any = model(batch)
            workload.loss(spec, outputs, batch).sum().backward()
    except (NotImplementedError, RuntimeError):
        return None
    return float(counter.get_total_flops()) / int(rows.num_rows)


def peak_flops(device: torch.device) -> float | None:
    """What the device could do in a second, in half precision; None where that is not known, as of every CPU."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """The same of a GPU by its name."""
    return next((tflops * 1e12 for kind, tflops in PEAK_TFLOPS.items() if re.search(rf"\b{kind}\b", name)), None)
