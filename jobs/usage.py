"""What training took of the machines: the numbers of an epoch that say how well they are used."""

import resource
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.communication import communication_share
from jobs.flops import peak_flops
from jobs.parallel.collectives import all_of, rank, sum_over_all, world_size
from jobs.parallel.feed import StepRows
from jobs.parallel.parted import Parted
from jobs.training_step import StepResult

TOKENS = "num_targets"
"""What says in a batch how many tokens of each row are learned from [rows]."""


@dataclass(frozen=True)
class Usage:
    """Of the time that an epoch's steps took, without validation and checkpoints."""

    tokens_per_s: float | None
    """Tokens that were to be predicted, of all workers; None where rows are not made of tokens."""
    flops_per_s: float | None
    """Of the model's own arithmetic, of all workers; see `jobs.flops`."""
    mfu: float | None
    """The share of the devices' peak that this is; None where the peak is not known."""
    communication: float | None
    """Share of one step's time in which a message of the first worker was under way; None until one was looked into."""
    peak_bytes: tuple[int, ...]
    """The most memory that each rank has had so far: of a GPU what torch allocated, of a process its resident set."""
    step_s: float | None = None
    """Of a step, on average."""

    def line(self) -> str:
        """In a few words."""
        tokens = f"{self.tokens_per_s:,.0f} tokens/s  " if self.tokens_per_s is not None else ""
        rate = f"{self.flops_per_s / 1e12:.3g} TFLOP/s  " if self.flops_per_s is not None else ""
        share = f"MFU {self.mfu:.1%}  " if self.mfu is not None else ""
        talk = (
            f"communication {self.communication:.0%}  "
            if len(self.peak_bytes) > 1 and self.communication is not None
            else ""
        )
        return f"{tokens}{rate}{share}{talk}{max(self.peak_bytes) / 2**30:.2f} GiB"

    def scalars(self) -> dict[str, float]:
        """What there is as numbers by name."""
        rates = {
            "train/tokens_per_s": self.tokens_per_s,
            "train/flops_per_s": self.flops_per_s,
            "train/mfu": self.mfu,
            "train/communication": self.communication,
        }
        return {
            **{name: value for name, value in rates.items() if value is not None},
            "train/peak_bytes": float(max(self.peak_bytes)),
        }


class Meter:
    """What the steps of a process take, from its first one on."""

    def __init__(self, parted: Parted, flops_a_row: float | None) -> None:
        """`flops_a_row` is known on the first worker at least."""
        self._parted, self._flops_a_row = parted, flops_a_row
        self._communication = 0.0 if world_size() == 1 else None
        self._num_steps = self._num_told = 0
        self._tokens: Tensor | None = None
        if parted.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(parted.device)

    def take(self, rows: StepRows, step: Callable[[], StepResult]) -> StepResult:
        """Take a step; the second one of the process is looked into, by the first worker."""
        self._num_steps += 1
        for batch in rows.passes:
            if TOKENS in batch:
                there = (batch[TOKENS] * (batch["weight"] > 0)).sum()
                self._tokens = there if self._tokens is None else self._tokens + there
        if self._communication is not None or self._num_steps < 2 or rank():
            return step()
        result, self._communication = communication_share(step, self._parted.device.type == "cuda")
        return result

    def usage(self, num_rows: int, seconds: float) -> Usage:
        """Since the last call, in which all workers together trained on so many rows; all of them call it."""
        tokens = self._tokens_of_all()
        rate = None if self._flops_a_row is None else self._flops_a_row * num_rows / seconds
        peak = peak_flops(self._parted.device)
        mfu = None if rate is None or peak is None else rate / (peak * self._parted.layout.num_workers)
        per_s = None if tokens is None else tokens / seconds
        num_steps, self._num_told = self._num_steps - self._num_told, self._num_steps
        step_s = seconds / num_steps if num_steps else None
        return Usage(per_s, rate, mfu, self._communication, tuple(all_of(self._peak_bytes())), step_s)

    def _tokens_of_all(self) -> float | None:
        """Those of every replica, once."""
        if self._tokens is None:
            return None
        tokens, self._tokens = self._tokens, None
        if self._parted.mesh is None:
            return float(tokens)
        place = self._parted.layout.coordinate(rank())
        is_counted = not (place.pipeline or place.context or place.tensor)
        return float(sum_over_all(tokens if is_counted else torch.zeros_like(tokens)))

    def _peak_bytes(self) -> int:
        device = self._parted.device
        if device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(device))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
