"""How far a model's answers are from those of another that it learns from."""

from torch import Tensor
from torch.nn import functional as F


def divergence(outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """The Kullback-Leibler divergence of wanted and given shares, in nats times the temperature squared [...].

    Both are softened by the temperature first; times its square, gradients stay as large as those of the labels
    (Hinton et al., 2015).

    Args:
        outputs: logits [..., classes].
        wanted: the other's logits [..., classes].
    """
    given, shares = (logits.float() / temperature for logits in (outputs, wanted))
    each = F.kl_div(given.log_softmax(-1), shares.log_softmax(-1), reduction="none", log_target=True)
    return each.sum(-1) * temperature**2
