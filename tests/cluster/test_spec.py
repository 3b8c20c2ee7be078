from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from cluster.errors import SpecError
from cluster.spec import Spec, dump, load, parse, with_values


class Optimizer(Spec):
    kind: Literal["adam", "sgd"] = "adam"
    learning_rate: float = Field(1e-2, gt=0)


class Circle(Spec):
    kind: Literal["circle"] = "circle"
    radius: float = Field(gt=0)


class Box(Spec):
    kind: Literal["box", "cube"] = "box"
    edge: float = 1.0
    optimizer: Optimizer = Optimizer()


class Example(Spec):
    name: str
    seed: int = Field(0, ge=0)
    shuffle: bool = True
    optimizer: Optimizer = Optimizer()
    fallback: Optimizer | None = None
    shape: Annotated[Circle | Box, Field(discriminator="kind")] = Box()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "example.yaml"
    path.write_text("name: first\noptimizer:\n  learning_rate: 1e-3\n")
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load(Example, path, overrides)
    return str(caught.value)


def refused_text(text: str, path: Path) -> str:
    path.write_text(text)
    return refused(path)


def test_overrides_win_over_the_file_and_the_file_over_defaults(file: Path) -> None:
    spec = load(Example, file, ["optimizer.learning_rate=0.5", "seed=3"])
    assert spec == Example(name="first", seed=3, optimizer=Optimizer(kind="adam", learning_rate=0.5))


def test_the_last_of_two_overrides_wins(file: Path) -> None:
    assert load(Example, file, ["seed=1", "seed=2"]).seed == 2


def test_numbers_and_words_are_read_as_yaml_1_2(file: Path) -> None:
    spec = load(Example, file, ["name=no"])
    assert spec.optimizer.learning_rate == 0.001
    assert spec.name == "no"


def test_an_override_can_hold_an_equals_sign_and_a_section(file: Path) -> None:
    assert load(Example, file, ["name=a=b"]).name == "a=b"
    assert load(Example, file, ["fallback={kind: sgd}"]).fallback == Optimizer(kind="sgd")


def test_an_unknown_key_names_the_nearest_valid_one(file: Path) -> None:
    assert "unknown key 'sed'. Did you mean 'seed'? Valid: fallback, name, optimizer, seed, shape, shuffle." in refused(
        file, "sed=1"
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("{kind: bux}", "shape.kind: there is no 'bux'. Did you mean 'box'? Valid: box, circle, cube."),
        ("{kind: 3}", "shape.kind: there is no '3'. Valid: box, circle, cube."),
        ("{edge: 2}", "key 'shape.kind' is missing; it has no default. Valid: box, circle, cube."),
        ("{kind: circle}", "key 'shape.radius' is missing; it has no default"),
        ("{kind: circle, radius: 0}", "shape.radius: input should be greater than 0, got 0"),
        ("{kind: circle, radius: 1, edge: 1}", "unknown key 'shape.edge'. Valid: kind, radius."),
        ("{kind: cube, egde: 1}", "unknown key 'shape.egde'. Did you mean 'edge'? Valid: edge, kind, optimizer."),
        (
            "{kind: box, optimizer: {kin: sgd}}",
            "'shape.optimizer.kin'. Did you mean 'kind'? Valid: kind, learning_rate.",
        ),
        ("round", 'shape: input should be an object, got "round"'),
    ],
)
def test_a_section_of_several_kinds_is_explained_by_the_keys_of_its_own_kind(
    file: Path, shape: str, message: str
) -> None:
    assert message in refused(file, f"shape={shape}")


def test_the_kind_of_a_section_is_the_one_that_is_given(file: Path) -> None:
    spec = load(Example, file, ["shape={kind: circle, radius: 2.0}"])
    assert spec.shape == Circle(radius=2.0)
    assert parse(Example, dump(spec), "again") == spec


@pytest.mark.parametrize("section", ["optimizer", "fallback"])
def test_an_unknown_key_in_a_section_names_the_keys_of_that_section(file: Path, section: str) -> None:
    message = refused(file, f"{section}.learning_rat=1")
    assert f"unknown key '{section}.learning_rat'. Did you mean 'learning_rate'? Valid: kind, learning_rate." in message


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("seed=one", 'seed: input should be a valid integer, got "one"'),
        ("seed=1.5", "seed: input should be a valid integer, got 1.5"),
        ("seed=-1", "seed: input should be greater than or equal to 0, got -1"),
        ("seed='1'", 'seed: input should be a valid integer, got "1"'),
        ("shuffle=yes", 'shuffle: input should be a valid boolean, got "yes"'),
        ("name=7", "name: input should be a valid string, got 7"),
        ("optimizer.kind=adm", "optimizer.kind: input should be 'adam' or 'sgd', got \"adm\""),
        ("optimizer.learning_rate=0", "optimizer.learning_rate: input should be greater than 0, got 0"),
    ],
)
def test_a_wrong_value_is_shown_with_its_key_and_rule(file: Path, override: str, fault: str) -> None:
    assert fault in refused(file, override)


def test_every_fault_is_told_at_once(file: Path) -> None:
    message = refused(file, "seed=one", "nmae=x")
    assert "seed: " in message
    assert "'nmae'" in message


def test_a_missing_key_is_named(file: Path) -> None:
    assert "key 'name' is missing" in refused_text("seed: 1\n", file)


def test_a_key_given_twice_is_refused(file: Path) -> None:
    assert 'found duplicate key "seed"' in refused_text("name: a\nseed: 1\nseed: 2\n", file)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "a spec is a YAML mapping of keys to values, this is empty"),
        ("- a\n- b\n", "a spec is a YAML mapping of keys to values, this is a list"),
        ("name: [a\n", "is not valid YAML"),
        ("name: 2024-01-01\n", "Quote dates and the like"),
    ],
)
def test_a_file_that_is_no_spec_says_why(file: Path, text: str, fault: str) -> None:
    assert fault in refused_text(text, file)


def test_a_file_that_is_not_there_or_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert f"spec file '{tmp_path}/none.yaml' does not exist" in refused(tmp_path / "none.yaml")
    assert f"spec file '{tmp_path}' cannot be read" in refused(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\n")
    assert "cannot be read" in refused(tmp_path / "latin.yaml")


@pytest.mark.parametrize("override", ["seed", "=1", ""])
def test_an_override_of_another_form_is_refused(file: Path, override: str) -> None:
    assert f"override '{override}' is not of the form key.path=value" in refused(file, override)


def test_a_spec_cannot_be_changed(file: Path) -> None:
    spec = load(Example, file)
    with pytest.raises(ValidationError, match="frozen"):
        spec.seed = 2  # type: ignore[misc]


def test_dump_and_parse_give_back_an_equal_spec(file: Path) -> None:
    spec = load(Example, file, ["name=no", "fallback={kind: sgd}", "optimizer.learning_rate=1e-7"])
    assert parse(Example, dump(spec), "copy") == spec


def test_values_replace_dotted_keys_in_a_copy(file: Path) -> None:
    spec = load(Example, file)
    assert with_values(spec, {"optimizer.kind": "sgd"}).optimizer == Optimizer(kind="sgd", learning_rate=0.001)
    assert spec.optimizer.kind == "adam"
    with pytest.raises(SpecError, match=r"unknown key 'optimizer\.knd'"):
        with_values(spec, {"optimizer.knd": "sgd"})
