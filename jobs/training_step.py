"""A training step: gradients of one global batch, clipped, and the weights moved by them."""

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


@dataclass(frozen=True)
class StepResult:
    """What one step came to."""

    summed_loss: Tensor
    """Of this worker's rows []; `Parted.summed` makes it that of the global batch."""
    gradient_norm: Tensor | None
    """Before clipping [], where it was asked for or needed."""


class TrainingStep:
    """The optimizer of a worker's part of the model, and one step at a time."""

    def __init__(self, spec: TrainSpec, parted: Parted, num_steps: int) -> None:
        """`num_steps` is how long the learning rate's schedule lasts."""
        self._spec, self._parted, self._num_steps = spec, parted, num_steps
        self._parameters = list(parted.model.parameters())
        self.optimizer = build_optimizer(spec.optimizer, self._parameters)
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
        total = self._parted.backward([batch | {"weight": batch["weight"] * scale} for batch in rows.passes])
        norm = None
        if wants_norm or self._scales_loss or self._spec.max_gradient_norm:
            norm = gradient_norm(self._parameters, self._parted.mesh) / self.loss_scale
        if self._moves(norm):
            self.optimizer.step()
            if self._spec.ema_decay is not None:
                update(self.optimizer, decay_of(self._spec.ema_decay, number))
        return StepResult(total / scale, norm)

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
