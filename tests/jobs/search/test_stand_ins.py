import pytest
import torch
from torch import nn

from cluster.layout import Layout
from jobs.search.footprint import Recorder
from jobs.search.stand_ins import LinearStandIn, localise
from jobs.workloads.partition import Partition
from tests.jobs.search.models import model_of

ROWS = 4
PARTITION = Partition(tensor={"up": "column", "down": "row", "head": "head"})


def network() -> nn.ModuleDict:
    return nn.ModuleDict({"up": nn.Linear(8, 16), "down": nn.Linear(16, 8), "head": nn.Linear(8, 4)})


def test_split_layers_have_a_workers_sizes_and_others_stay() -> None:
    recorder = Recorder()
    with recorder:
        modules = network()
        localise(modules, "", Layout(tensor=2), PARTITION, recorder)
    shapes = {name: tuple(module.weight.shape) for name, module in modules.items()}
    assert shapes == {"up": (8, 8), "down": (8, 8), "head": (2, 8)}
    biases = {name: tuple(module.bias.shape) for name, module in modules.items()}
    assert biases == {"up": (8,), "down": (8,), "head": (2,)}  # of a row layer all have all of it
    assert all(isinstance(module, LinearStandIn) for module in modules.values())


def test_without_a_tensor_group_nothing_changes() -> None:
    recorder = Recorder()
    with recorder:
        modules = network()
        localise(modules, "", Layout(), PARTITION, recorder)
    assert all(isinstance(module, nn.Linear) for module in modules.values())


def test_a_pair_of_layers_sums_once_each_way() -> None:
    recorder = Recorder()
    with recorder:
        modules = network()
        localise(modules, "", Layout(tensor=2), PARTITION, recorder)
        recorder.begin()
        hidden = torch.empty(ROWS, 8, requires_grad=True)
        output = modules["down"](modules["up"](hidden))
        forward = list(recorder.notes.messages)
        output.sum().backward()
    assert [(message.kind, message.bytes) for message in forward] == [("all_reduce", 4 * ROWS * 8)]
    assert [message.kind for message in recorder.notes.messages] == ["all_reduce", "all_reduce"]
    assert output.shape == (ROWS, 8)


def test_a_head_gathers_what_goes_out() -> None:
    recorder = Recorder()
    with recorder:
        modules = network()
        localise(modules, "", Layout(tensor=2), PARTITION, recorder)
        logits = modules["head"](torch.empty(ROWS, 8))
    assert logits.shape == (ROWS, 4)
    assert [message.kind for message in recorder.notes.messages] == ["all_gather"]


@pytest.mark.parametrize(
    ("by_sequence", "kinds"),
    [(False, ["all_reduce"] * 2), (True, ["all_gather", "reduce_scatter"] * 2)],
)
def test_a_layer_speaks_as_its_papers_say(by_sequence: bool, kinds: list[str]) -> None:
    """Shoeybi et al., 2019, figure 4, and Korthikanti et al., 2022, figure 5: twice forward."""
    layer = model_of("wide").stretches(Layout(tensor=2, sequence_parallel=by_sequence), ROWS)[1]
    assert [message.kind for message in layer.footprint.forward.messages] == kinds
