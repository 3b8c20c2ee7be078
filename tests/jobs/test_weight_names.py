import pytest
from torch import nn

from cluster.errors import SpecError
from jobs.weight_names import matching, own_weights

NAMES = ("embedding.token.weight", "layer0.up.weight", "layer0.up.bias", "layer1.up.weight", "head.output.weight")


def test_a_star_stands_for_dots_too() -> None:
    assert matching(["layer0*", "head.*"], NAMES, "train.freeze") == {NAMES[1], NAMES[2], NAMES[4]}
    assert matching(["*.bias"], NAMES, "train.freeze") == {NAMES[2]}
    assert matching(["layer[01].up.weight"], NAMES, "train.freeze") == {NAMES[1], NAMES[3]}
    assert matching([], NAMES, "train.freeze") == frozenset()


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SpecError, match=r"^train\.freeze: no name matches 'head\.weight'\. Did you mean 'head"):
        matching(["layer0*", "head.weight"], NAMES, "train.freeze")


def test_weights_that_two_layers_share_are_there_once_and_buffers_that_are_kept_too() -> None:
    model = nn.ModuleDict({"one": nn.Linear(2, 2, bias=False), "other": nn.Linear(2, 2, bias=False)})
    model["norm"] = nn.BatchNorm1d(2, affine=False)
    model["norm"].register_buffer("scratch", model["one"].weight.detach(), persistent=False)
    model["other"].weight = model["one"].weight
    names = [name for name, _ in own_weights(model)]
    assert names == ["one.weight", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
