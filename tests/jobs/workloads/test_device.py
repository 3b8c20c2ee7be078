import torch
from torch import nn

from jobs.workloads.device import device_of


def test_a_model_computes_where_its_weights_lie() -> None:
    assert device_of(nn.Linear(2, 2)) == device_of(nn.Identity()) == torch.device("cpu")
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
