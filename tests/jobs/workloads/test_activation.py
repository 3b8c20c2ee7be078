from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from torch import nn

from jobs.workloads import WORKLOADS
from jobs.workloads.activation import ACTIVATIONS, Activation
from tests.jobs.workloads.prepared import RAW, SPECS, prepare

MODULES = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


@pytest.mark.parametrize("name", get_args(Activation))
def test_each_name_is_torchs_own(name: Activation) -> None:
    values = torch.linspace(-3, 3, 50)
    assert torch.equal(ACTIVATIONS[name](values), MODULES[name]()(values))


@pytest.mark.parametrize("kind", [kind for kind, spec in SPECS.items() if "activation" in type(spec).model_fields])
def test_every_activation_gives_the_same_weights_another_answer(kind: str) -> None:
    workload, prepared = WORKLOADS[kind], prepare(RAW[kind], SPECS[kind])
    batch = {**workload.tensors(prepared.train.table.slice(0, 4)), "key": torch.arange(4)}
    answers: list[Any] = []
    for name in ACTIVATIONS:
        torch.manual_seed(0)
        model = workload.build(SPECS[kind].model_copy(update={"activation": name}), prepared.transform).eval()
        answers.append(model(batch))
    assert not any(torch.allclose(one, other) for one, other in pairwise(answers))
