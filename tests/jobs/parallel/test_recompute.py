import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from cluster.layout import Layout
from jobs.parallel.feed import Feed
from tests.jobs.parallel.training import CPU, parted, sample, source


def step(layout: Layout) -> tuple[int, list[Tensor]]:
    """The numbers kept for the backward pass, and the gradients of one."""
    model = parted(sample("language"), layout)
    (rows,) = next(iter(Feed(source(sample("language")), layout, 0, 0, 8, CPU).epoch(0, 0))).passes
    kept = 0

    def note(values: Tensor) -> Tensor:
        nonlocal kept
        kept += values.numel()
        return values

    with saved_tensors_hooks(note, lambda values: values):
        loss = model.losses(model.parts[0](rows), rows).sum()
    loss.backward()
    return kept, [weight.grad for weight in model.model.parameters() if weight.grad is not None]


def test_fewer_activations_are_kept_and_gradients_stay_the_same() -> None:
    kept, gradients = step(Layout())
    kept_when_recomputing, same = step(Layout(recompute=True))
    assert kept_when_recomputing < kept / 2
    assert len(gradients) == len(same) > 0
    assert all(torch.equal(one, other) for one, other in zip(gradients, same, strict=True))
