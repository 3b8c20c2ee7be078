"""Tokens a second and MFU of a Llama-like model of 1B weights on one GPU, beside a plain PyTorch loop.

    python -m benchmarks.single_gpu [--rounds 3] [--sequence 2048 4096]

bf16 and torch.compile on both sides, the same weights, rows and optimizer. Each contestant is a process of its own, as
two do not fit into one GPU's memory; they take turns by rounds. Without a GPU it says so and ends; `--device cpu` and a
small model try the script itself.

MFU is the share of the GPU's dense bf16 peak that the model's own arithmetic takes (Chowdhery et al., 2022, PaLM,
appendix B): tokens/s x (6 N + 12 layers x hidden_dim x sequence) / peak, where N counts the weights that are multiplied
with, so not the table of the embedding. Recomputed activations do not count.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from cluster.layout import Layout
from jobs.flops import peak_of
from jobs.parallel.feed import StepRows
from jobs.parallel.parted import part
from jobs.spec import EarlyStoppingSpec, OptimizerSpec, TrainSpec
from jobs.training_step import TrainingStep
from jobs.workloads import language
from jobs.workloads.chain import Batch
from jobs.workloads.language import LanguageSpec

CONTESTANTS = ("Rayline", "plain loop")
NUM_WARMING, NUM_STEPS = 5, 20
LEARNING_RATE, WEIGHT_DECAY, MAX_NORM = 3e-4, 0.1, 1.0


def spec_of(given: argparse.Namespace, sequence: int) -> LanguageSpec:
    """The sizes of Llama 3.2 1B (Meta, 2024) but for a smaller vocabulary."""
    return LanguageSpec(
        context_length=sequence,
        num_layers=given.layers,
        hidden_dim=given.hidden,
        num_heads=given.heads,
        num_kv_heads=given.heads // 4,
        feed_forward_dim=4 * given.hidden,
        rope_theta=500_000.0,
        vocabulary_size=given.vocabulary,
    )


def batch_of(spec: LanguageSpec, rows: int, device: torch.device) -> Batch:
    token = torch.randint(spec.vocabulary_size, (rows, spec.context_length + 1), device=device)
    return {
        "token": token[:, :-1].contiguous(),
        "target": token[:, 1:].contiguous(),
        "position": torch.arange(spec.context_length, device=device).expand(rows, -1).contiguous(),
        "num_targets": torch.full((rows,), float(spec.context_length), device=device),
    }


def by_rayline(spec: LanguageSpec, model: nn.Module, batch: Batch, device: torch.device) -> Callable[[], None]:
    layout = Layout(precision="bf16", compile=device.type == "cuda")
    train = TrainSpec(
        batch_size=len(batch["token"]),
        optimizer=OptimizerSpec(name="adamw", learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        schedule="constant",
        max_gradient_norm=MAX_NORM,
        early_stopping=EarlyStoppingSpec(metric="bits_per_byte"),
    )
    parted = part(
        model, layout, language.partition(spec), lambda outputs, rows: language.loss(spec, outputs, rows), device
    )
    step, count = TrainingStep(train, parted, 10**9), iter(range(10**9))
    weight = torch.ones(len(batch["token"]), device=device)

    def take() -> None:
        step(StepRows([{**batch, "weight": weight}], len(weight), 0.0), next(count), wants_norm=False)

    return take


def by_hand(spec: LanguageSpec, model: nn.Module, batch: Batch, device: torch.device) -> Callable[[], None]:
    model = model.to(device)
    compiled = torch.compile(model) if device.type == "cuda" else model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=device.type == "cuda"
    )

    def take() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            logits = compiled(batch)
        F.cross_entropy(logits.float().flatten(0, 1), batch["target"].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()

    return take


def measure(given: argparse.Namespace) -> None:
    """One contestant: prints the seconds of a step and the memory as JSON."""
    device, spec = torch.device(given.device), spec_of(given, given.sequence[0])
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model, batch = language.build(spec, language.NOTHING_FITTED).train(), batch_of(spec, given.rows, device)
    take = {"Rayline": by_rayline, "plain loop": by_hand}[given.only](spec, model, batch, device)
    for _ in range(NUM_WARMING):
        take()
    seconds = []
    for _ in range(given.steps):
        _wait(device)
        began = time.perf_counter()
        take()
        _wait(device)
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    print(json.dumps({"step_s": median(seconds), "peak_gib": peak / 2**30}))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def flops_a_token(spec: LanguageSpec) -> float:
    with torch.device("meta"):
        model = language.build(spec, language.NOTHING_FITTED)
    embedding = spec.vocabulary_size * spec.hidden_dim
    multiplied = sum(weight.numel() for weight in model.parameters()) - (0 if spec.tie_embeddings else embedding)
    return 6 * multiplied + 12 * spec.num_layers * spec.hidden_dim * spec.context_length


def compare(given: argparse.Namespace, sequence: int, peak_flops: float | None) -> list[str]:
    """A row of the table a contestant: the medians over rounds, and the ratio round by round."""
    spec, found = spec_of(given, sequence), {name: list[dict[str, float]]() for name in CONTESTANTS}
    for number in range(given.rounds):
        for name in CONTESTANTS:
            command = [sys.executable, "-m", "benchmarks.single_gpu", "--only", name, "--sequence", str(sequence)]
            for key in ("device", "rows", "layers", "hidden", "heads", "vocabulary", "steps"):
                command += [f"--{key}", str(getattr(given, key))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"sequence {sequence}, round {number + 1}, {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    rival = [each["step_s"] for each in found["plain loop"]]
    rows = []
    for name in CONTESTANTS:
        steps = [each["step_s"] for each in found[name]]
        rate = given.rows * sequence / median(steps)
        mfu = f"{rate * flops_a_token(spec) / peak_flops:.1%}" if peak_flops else "-"
        ratios = [theirs / ours for theirs, ours in zip(rival, steps, strict=True)]
        spread = f"{median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
        rows.append(f"| {sequence} | {name} | {rate:,.0f} | {mfu} | {spread} | {found[name][-1]['peak_gib']:.1f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sequence", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=2, help="of a batch")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    parser.add_argument("--only", choices=CONTESTANTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no GPU")
        return
    if given.only:
        measure(given)
        return
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    peak = peak_of(name)
    print(f"{name}, torch {torch.__version__}, {given.rows} rows a batch, {given.rounds} rounds\n")
    print("| sequence | | tokens/s | MFU | rate / plain loop (least-most) | peak GiB |\n|---|---|---:|---:|---:|---:|")
    for sequence in given.sequence:
        print("\n".join(compare(given, sequence, peak)), flush=True)


if __name__ == "__main__":
    main()
