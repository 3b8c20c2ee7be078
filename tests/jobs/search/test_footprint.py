from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from cluster.layout import Layout
from jobs.flops import flops_a_row
from jobs.search.footprint import Footprint, Message, Recorder, Shape, footprint_of
from jobs.workloads.chain import Chain
from tests.jobs.search.models import model_of, wide

ROWS, INPUTS, OUTPUTS = 8, 16, 32


def linear() -> tuple[Footprint, Shape]:
    recorder = Recorder()
    with recorder:
        layer = nn.Linear(INPUTS, OUTPUTS)

    def run(hidden: Tensor | None, batch: Mapping[str, Tensor]) -> Tensor:
        output: Tensor = layer(hidden)
        return output

    return footprint_of(recorder, run, layer, Shape((ROWS, INPUTS), torch.float32), {})


def test_a_linear_layer_multiplies_once_forward_and_twice_backward() -> None:
    footprint, output = linear()
    once = 2 * ROWS * INPUTS * OUTPUTS
    assert (footprint.forward.flops.sum(), footprint.backward.flops.sum()) == (once, 2 * once)
    assert footprint.forward.names == ("addmm",)
    values = ROWS * INPUTS + INPUTS * OUTPUTS + OUTPUTS + ROWS * OUTPUTS
    assert footprint.forward.moved.tolist() == [4 * values]
    assert output == Shape((ROWS, OUTPUTS), torch.float32)
    assert output.num_bytes == footprint.output_bytes == 4 * ROWS * OUTPUTS


def test_a_linear_layer_keeps_what_came_in_and_nothing_else() -> None:
    footprint, _ = linear()
    assert (footprint.keeps_input, footprint.keeps_output, footprint.kept_bytes) == (True, False, 0)
    assert footprint.forward_peak_bytes == footprint.output_bytes
    gradients = 4 * (ROWS * OUTPUTS + ROWS * INPUTS + INPUTS * OUTPUTS + OUTPUTS)
    assert footprint.backward_peak_bytes == pytest.approx(gradients, rel=0.1)


def test_a_softmax_keeps_what_goes_out() -> None:
    footprint, _ = footprint_of(
        Recorder(), lambda hidden, _: torch.softmax(hidden, 1), nn.Identity(), Shape((4, 8), torch.float32), {}
    )
    assert (footprint.keeps_input, footprint.keeps_output, footprint.kept_bytes) == (False, True, 0)


def test_what_is_made_and_dropped_counts_at_its_peak_alone() -> None:
    def run(hidden: Tensor | None, batch: Mapping[str, Tensor]) -> Tensor:
        assert hidden is not None
        with torch.no_grad():
            torch.empty(1000)
        return hidden + 1

    footprint, _ = footprint_of(Recorder(), run, nn.Identity(), Shape((4,), torch.float32), {})
    assert footprint.forward_peak_bytes == 4000
    assert footprint.kept_bytes == 0


def test_a_model_has_the_operations_that_torch_counts_for_all_of_it() -> None:
    given = wide()
    counted = flops_a_row(given.spec, given.transform, given.rows.slice(0, 4))
    model = model_of("wide")
    stretches = model.stretches(Layout(), 4)
    found = sum(each.footprint.forward.flops.sum() + each.footprint.backward.flops.sum() for each in stretches)
    assert counted is not None
    assert found / 4 == pytest.approx(counted, rel=0.01)  # whose attention is not that of a fused kernel


def test_messages_are_noted_where_they_would_be_sent() -> None:
    recorder = Recorder()
    message = Message("all_reduce", "tensor", 16)

    def run(hidden: Tensor | None, batch: Mapping[str, Tensor]) -> Tensor:
        assert hidden is not None
        recorder.tell(message)
        return hidden * 2

    footprint, _ = footprint_of(recorder, run, Chain(), Shape((4,), torch.float32), {})
    assert footprint.forward.messages == (message,)
    assert footprint.backward.messages == ()
