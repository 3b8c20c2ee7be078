import pytest
from torch import nn

from jobs.parallel.modules import matches, matching, replace


def model() -> nn.Module:
    layers = {f"layer{n}": nn.ModuleDict({"norm": nn.Identity(), "up": nn.Linear(2, 2)}) for n in range(3)}
    return nn.ModuleDict({"stem": nn.Identity(), **layers})


def paths(*patterns: str) -> list[str]:
    return [path for path, _ in matching(model(), patterns)]


@pytest.mark.parametrize(
    ("path", "pattern", "is_match"),
    [
        ("layer0", "layer*", True),
        ("layer10.up", "layer*.up", True),
        ("layer0.up", "layer*", False),
        ("layer0", "layer*.up", False),
        ("a.layer0", "layer*", False),
        ("player0", "layer*", False),
        ("Layer0", "layer*", False),
        ("layer0.up", "*.*", True),
        ("", "", True),
        ("stem", "", False),
        ("", "*", True),
    ],
)
def test_a_star_stands_for_a_part_of_one_name(path: str, pattern: str, is_match: bool) -> None:
    assert matches(path, pattern) is is_match


def test_modules_that_match_come_in_the_order_of_the_model() -> None:
    assert paths("layer*.up", "stem") == ["stem", "layer0.up", "layer1.up", "layer2.up"]


def test_a_module_that_two_patterns_match_comes_once() -> None:
    assert paths("layer1", "layer*") == ["layer0", "layer1", "layer2"]


def test_the_empty_pattern_is_the_whole_model() -> None:
    whole = model()
    assert list(matching(whole, [""])) == [("", whole)]


def test_what_matches_is_the_module_itself() -> None:
    whole = model()
    assert [module for _, module in matching(whole, ["layer2.up"])] == [whole.get_submodule("layer2.up")]


@pytest.mark.parametrize("path", ["stem", "layer1", "layer1.norm"])
def test_a_module_takes_the_place_of_another(path: str) -> None:
    whole, new = model(), nn.Linear(1, 1)
    before = [name for name, _ in whole.named_children()]
    replace(whole, path, new)
    assert whole.get_submodule(path) is new
    assert [name for name, _ in whole.named_children()] == before
