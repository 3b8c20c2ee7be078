import shutil

import pytest
import torch
from torch import nn

from cluster.layout import Layout
from jobs.parallel import compiled
from jobs.workloads.partition import Partition
from tests.jobs.parallel.training import curve, sample


def model() -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(4, 4) for name in ("layer0", "layer1", "head")})


def test_units_alone_are_compiled_and_only_where_asked_for() -> None:
    partition = Partition(units=("layer*",))
    for wanted in (False, True):
        (made,) = compiled.apply([model()], Layout(compile=wanted), partition, None)
        assert [made.get_submodule(name)._compiled_call_impl is not None for name in ("layer0", "layer1", "head")] == [
            wanted,
            wanted,
            False,
        ]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_model_has_the_loss_of_one_that_is_not() -> None:
    try:
        found = curve(sample("tabular"), Layout(compile=True), "sgd")
    finally:
        torch.compiler.reset()
    expected = curve(sample("tabular"), Layout(), "sgd")
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert found.norms == pytest.approx(expected.norms, rel=1e-5)
