"""A training step: gradients of one global batch, clipped, and the weights moved by them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.moving_average import decay_of, update
from jobs.optimization import build_optimizer, learning_rate, set_learning_rate
from jobs.parallel.feed import StepRows
from jobs.parallel.gradients import clip_factor, gradient_norm, scale_gradients
from jobs.parallel.mesh import num_averaged
from jobs.parallel.parted import Parted
from jobs.parallel.precision import FIRST_LOSS_SCALE, next_loss_scale
from jobs.spec import TrainSpec
from jobs.workloads.chain import Batch
from jobs.workloads.partition import Turn


@dataclass(frozen=True)
class StepResult:
    """What one step came to."""

    summed_loss: Tensor
    """Of this worker's rows []; `Parted.summed` makes it that of the global batch."""
    gradient_norm: Tensor | None
    """Before clipping [], where it was asked for or needed."""


class TrainingStep:
    """The optimizer of a worker's part of the model, and one step at a time."""

    def __init__(self, spec: TrainSpec, parted: Parted, num_steps: int, turns: Sequence[Turn] = ()) -> None:
        """`num_steps` is how long the learning rate's schedule lasts; `turns` are the partition's."""
        self._spec, self._parted, self._num_steps = spec, parted, num_steps
        self._parameters = list(parted.model.parameters())
        self._players = [_weights_of(turn, parted) for turn in turns]
        factors = {
            weight: turn.rate_factor for turn, player in zip(turns, self._players, strict=True) for weight in player
        }
        # What an optimizer keeps is kept of each weight by itself, and it passes over weights without a gradient:
        # one of all weights is as good as one for each player.
        self.optimizer = build_optimizer(spec.optimizer, self._parameters, factors)
        self._scales_loss = parted.layout.precision == "fp16"
        self.loss_scale = FIRST_LOSS_SCALE if self._scales_loss else 1.0
        self._good_steps = 0

    def __call__(self, rows: StepRows, number: int, wants_norm: bool) -> StepResult:
        """Move the weights by one global batch.

        Args:
            number: of the step, over all epochs.
            wants_norm: whether the gradients' norm is wanted though nothing here needs it.
        """
        set_learning_rate(self.optimizer, learning_rate(self._spec, number, self._num_steps))
        self.optimizer.zero_grad(set_to_none=True)
        # Workers take the mean of their gradients; so scaled, it is that of the mean over the global batch's rows.
        scale = self.loss_scale * num_averaged(self._parted.layout) / rows.num_rows
        passes = [batch | {"weight": batch["weight"] * scale} | self._turn(batch, number) for batch in rows.passes]
        total = self._parted.backward(passes)
        self._drop_gradients(number)
        norm = None
        if wants_norm or self._scales_loss or self._spec.max_gradient_norm:
            norm = gradient_norm(self._parameters, self._parted.mesh) / self.loss_scale
        if self._moves(norm):
            self.optimizer.step()
            if self._spec.ema_decay is not None:
                update(self.optimizer, decay_of(self._spec.ema_decay, number))
        return StepResult(total / scale, norm)

    def _turn(self, batch: Batch, number: int) -> Batch:
        """What says whose turn a step is, where there are players."""
        if not self._players:
            return {}
        return {"turn": torch.full_like(batch["weight"], number % len(self._players), dtype=torch.int64)}

    def _drop_gradients(self, number: int) -> None:
        """Leave gradients to the player alone whose turn it is."""
        for place, player in enumerate(self._players):
            if place != number % len(self._players):
                for weight in player:
                    weight.grad = None

    def _moves(self, norm: Tensor | None) -> bool:
        """Unscale and clip the gradients; False where they overflowed fp16, so that this step is left out."""
        factor: Tensor | float = 1 / self.loss_scale
        if norm is not None and self._spec.max_gradient_norm:
            factor = factor * clip_factor(norm, self._spec.max_gradient_norm)
        if self._scales_loss:
            overflowed = not bool(torch.isfinite(norm)) if norm is not None else False
            self.loss_scale, self._good_steps = next_loss_scale(self.loss_scale, self._good_steps, overflowed)
            if overflowed:
                return False
        if factor != 1.0:
            scale_gradients(self._parameters, factor)
        return True


def _weights_of(turn: Turn, parted: Parted) -> list[Tensor]:
    return [weight for name, weight in parted.model.named_parameters() if name.startswith(f"{turn.module}.")]
