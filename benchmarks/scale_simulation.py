"""Llama 3.1 on up to 1,024 H100 as the plan foresees it, beside what torchtitan has published of real ones.

    python -m benchmarks.scale_simulation

No device and no data: the plan of `jobs.search`, on the GPUs that torchtitan measured on (96 GB of HBM2e at 2.4 TB/s, 8
a node, 400 Gb/s of network each), with the rates of `jobs/search/devices.yaml` besides. Writes the .md beside it.
"""

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluster.layout import Layout
from cluster.storage import Storage
from jobs.layout_forecast import model_of, optimizer_of
from jobs.search.device import shipped
from jobs.search.memory import memory_of
from jobs.search.stretches import Model
from jobs.search.timing import time_of
from jobs.spec import RingSpec, load_ring

CONTEXT = 8192
MODELS: dict[str, dict[str, int]] = {
    "8B": {"hidden_dim": 4096, "num_layers": 32, "num_heads": 32, "feed_forward_dim": 14336},
    "70B": {"hidden_dim": 8192, "num_layers": 80, "num_heads": 64, "feed_forward_dim": 28672},
    "405B": {"hidden_dim": 16384, "num_layers": 126, "num_heads": 128, "feed_forward_dim": 53248},
}
GRAND_TETON = shipped()["H100"].model_copy(update={"memory_gib": 96.0, "memory_gb_per_s": 2400.0})


@dataclass(frozen=True)
class Published:
    """A row of torchtitan's benchmarks/llama3_h100_202412_torchtitan.md: tokens a second and GPU."""

    model: str
    layout: dict[str, Any]
    batch_size: int
    tokens_per_s: float
    how: str


PUBLISHED = (
    Published("8B", {"shard": 8, "recompute": True}, 16, 5762, "selective recomputation"),
    Published("8B", {"shard": 8, "recompute": True}, 16, 6667, "the same, compiled"),
    Published("8B", {"shard": 128, "recompute": True}, 256, 5605, "selective recomputation"),
    Published("8B", {"shard": 128, "recompute": True}, 256, 6514, "the same, compiled"),
    Published(
        "70B",
        {"shard": 32, "tensor": 8, "sequence_parallel": True, "recompute": True},
        512,
        829,
        "full recomputation, compiled, float8",
    ),
    Published(
        "405B",
        {"shard": 8, "tensor": 8, "pipeline": 8, "micro_batches": 32, "sequence_parallel": True, "recompute": True},
        256,
        100,
        "1F1B, full recomputation, compiled, float8, asynchronous TP",
    ),
    Published(
        "405B",
        {
            **{"shard": 8, "tensor": 8, "pipeline": 8, "micro_batches": 32, "schedule": "interleaved_1f1b"},
            **{"sequence_parallel": True, "recompute": True},
        },
        256,
        128,
        "interleaved 1F1B, likewise",
    ),
)


@dataclass(frozen=True)
class Foreseen:
    """Of one layout."""

    tokens_per_s: float
    """A GPU."""
    waits: float
    """Share of a step."""
    gib: float


def spec_of(model: str, storage: str) -> RingSpec:
    """The shipped language spec with the sizes of a Llama."""
    sizes = {**MODELS[model], "num_kv_heads": 8, "vocabulary_size": 128256, "context_length": CONTEXT}
    overrides = [f"workload.{key}={size}" for key, size in sizes.items()]
    return load_ring(
        "jobs/specs/language.yaml", [f"storage={storage}", "layout.replicate=1", "layout.precision=bf16", *overrides]
    )


def foreseen(spec: RingSpec, model: Model, layout: dict[str, Any], batch_size: int) -> Foreseen:
    """A step of the global batch, whether it fits or not."""
    given = Layout(precision="bf16", **layout)
    rows = given.num_replicas * given.accumulation * given.micro_batches
    stretches = model.stretches(given, batch_size // rows)
    taken = time_of(given, stretches, GRAND_TETON)
    memory = memory_of(given, stretches, optimizer_of(spec.train, is_cpu=False), by_gloo=False)
    rate = batch_size * CONTEXT / taken.total / given.num_workers
    return Foreseen(rate, (taken.messages + taken.idle) / taken.total, memory.total / 2**30)


def main() -> None:
    """Write the page."""
    started = time.perf_counter()
    beside, weak, strong = [], [], []
    with TemporaryDirectory() as storage:
        specs = {name: spec_of(name, storage) for name in MODELS}
        models = {name: model_of(spec, Storage(storage)) for name, spec in specs.items()}
        for row in PUBLISHED:
            found = foreseen(specs[row.model], models[row.model], row.layout, row.batch_size)
            error = found.tokens_per_s / row.tokens_per_s - 1
            beside.append(
                f"| {row.model} | {Layout(**row.layout).line()} | {row.how} | {row.tokens_per_s:,.0f} | "
                f"{found.tokens_per_s:,.0f} | {error:+.0%} | {found.gib:.0f} |"
            )
        for power in range(8):
            number = 8 * 2**power
            layouts = {
                "8B, shard": ("8B", {"shard": number, "recompute": True}, 2 * number),
                "8B, shard 8 x replicate": (
                    "8B",
                    {"shard": 8, "replicate": number // 8, "recompute": True},
                    2 * number,
                ),
                "70B, tensor 8 x shard": (
                    "70B",
                    {"shard": number // 8, "tensor": 8, "sequence_parallel": True, "recompute": True},
                    number,
                ),
            }
            rates = [foreseen(specs[name], models[name], given, size) for name, given, size in layouts.values()]
            cells = [f"{each.tokens_per_s:,.0f} ({each.waits:.0%})" for each in rates]
            weak.append(f"| {number:,} | {' | '.join(cells)} |")
            fixed = foreseen(specs["8B"], models["8B"], {"shard": number, "recompute": True}, 1024)
            strong.append((number, fixed))
    first = strong[0][1].tokens_per_s
    lines = [
        "# Llama 3.1 on up to 1,024 GPUs, on paper",
        "",
        f"Foreseen in {time.perf_counter() - started:.0f} s on {platform.machine()} without a device, by",
        "`python -m benchmarks.scale_simulation`; rows of 8,192 tokens, bfloat16 products, weights and messages in",
        "float32 as Rayline has them. Tokens a second and GPU.",
        "",
        "## Beside torchtitan",
        "Its figures are those of [its page of December 2024](https://github.com/pytorch/torchtitan/blob/main/benchmarks/"
        "llama3_h100_202412_torchtitan.md).",
        "What is foreseen is Rayline's own way on the same layout: full recomputation, no float8, kernels not fused.",
        "",
        "| model | layout | published with | published | foreseen | difference | GiB foreseen |",
        "|---|---|---|---:|---:|---:|---:|",
        *beside,
        "",
        "float8 multiplies up to twice as fast, which the plan does not know; selective recomputation does less again.",
        "",
        "## Weak scaling: two rows a GPU (70B: one)",
        "In brackets the share of a step in which nothing is computed.",
        "",
        "| GPUs | 8B, shard | 8B, shard 8 x replicate | 70B, tensor 8 x shard |",
        "|---:|---:|---:|---:|",
        *weak,
        "",
        "## Strong scaling: 8B, 1,024 rows a step, shard",
        "",
        "| GPUs | tokens/s a GPU | of 8 GPUs' | waits | GiB |",
        "|---:|---:|---:|---:|---:|",
        *(
            f"| {number:,} | {each.tokens_per_s:,.0f} | {each.tokens_per_s / first:.0%} | {each.waits:.0%} | "
            f"{each.gib:.0f} |"
            for number, each in strong
        ),
    ]
    page = "\n".join(lines) + "\n"
    Path(__file__).with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
