"""What a user writes: one YAML file and key.path=value overrides, checked into a frozen object.

Precedence: defaults in the classes < the file < overrides.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cluster.errors import SpecError, nearest


class Spec(BaseModel):
    """A frozen section of a spec; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


S = TypeVar("S", bound=Spec)


def load(kind: type[S], path: str | Path, overrides: Sequence[str] = ()) -> S:
    """Read `path`, apply `overrides` (each `key.path=value`, the value as YAML) and check the whole.

    Raises:
        SpecError: the file cannot be read, a key is unknown, or a value has the wrong type or range.
    """
    tree = _read(Path(path))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise SpecError(f"override '{override}' is not of the form key.path=value, for example seed=1")
        _put(tree, key, _parse(value, f"override '{override}'"))
    return check(kind, tree, str(path))


def with_values(spec: S, values: Mapping[str, Any]) -> S:
    """A copy of `spec` with each dotted key replaced by its value, checked like a file.

    Raises:
        SpecError: a key is unknown or a value does not fit it.
    """
    tree = spec.model_dump(mode="json")
    for key, value in values.items():
        _put(tree, key, value)
    return check(type(spec), tree, "values")


def check(kind: type[S], tree: Mapping[str, Any], source: str) -> S:
    """Turn plain data into a `kind`, or say every rule it breaks.

    Raises:
        SpecError: with one line for each fault.
    """
    try:
        return kind.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        lines = [_explain(kind, fault) for fault in error.errors(include_url=False)]
        raise SpecError(f"{source}: " + "\n  ".join(lines)) from None
    except (TypeError, ValueError) as error:
        raise SpecError(f"{source}: a value is not plain YAML data: {error}. Quote dates and the like.") from None


def dump(spec: Spec) -> str:
    """The resolved spec as YAML that `load` reads back to an equal object."""
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(spec.model_dump(mode="json"), text)
    return text.getvalue()


def parse(kind: type[S], text: str, source: str) -> S:
    """The inverse of `dump`.

    Raises:
        SpecError: `text` is no YAML, or not a valid `kind`.
    """
    return check(kind, _mapping(_parse(text, source), source), source)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"spec file '{path}' does not exist; the specs that come along lie in jobs/specs/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"spec file '{path}' cannot be read: {error}") from None
    return _mapping(_parse(text, str(path)), str(path))


def _mapping(tree: Any, source: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise SpecError(f"{source}: a spec is a YAML mapping of keys to values, this is {_name_of(tree)}")
    return tree


def _name_of(value: Any) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"


def _parse(text: str, source: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise SpecError(f"{source} is not valid YAML: {error}") from None


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.get(parent)
        if not isinstance(child, dict):
            child = tree[parent] = {}
        tree = child
    tree[last] = value


def _explain(kind: type[Spec], fault: ErrorDetails) -> str:
    keys, owner, kinds = _located(kind, fault["loc"])
    where = ".".join(keys) or "the spec"
    if fault["type"] == "extra_forbidden":
        return f"unknown key '{where}'. {nearest(keys[-1], owner.model_fields if owner else ())}"
    if fault["type"] == "missing":
        return f"key '{where}' is missing; it has no default"
    if fault["type"] == "union_tag_not_found":
        return f"key '{where}.kind' is missing; it has no default. {nearest('', kinds)}"
    if fault["type"] == "union_tag_invalid":
        given = str(fault["ctx"]["tag"])
        return f"{where}.kind: there is no '{given}'. {nearest(given, kinds)}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {message[0].lower() + message[1:]}, got {json.dumps(fault['input'], default=str)}"


def _located(
    kind: type[Spec], location: Sequence[int | str]
) -> tuple[list[str], type[Spec] | None, dict[str, type[Spec]]]:
    """The keys that lead to a fault, the class of the section it is in, and the kinds that could be there.

    After the key of a section of several kinds pydantic names the kind, which is no key.
    """
    keys: list[str] = []
    owner: type[Spec] | None = None
    section: type[Spec] | None = kind
    kinds: dict[str, type[Spec]] = {}
    for part in map(str, location):
        if part in kinds:
            section, kinds = kinds[part], {}
            continue
        keys.append(part)
        if part.isdecimal():  # of a list, whose kinds or section the next part speaks of
            continue
        field = section.model_fields.get(part) if section else None
        owner, section, kinds = section, _spec_in(field.annotation) if field else None, _kinds_of(field)
    return keys, owner, kinds


def _kinds_of(field: FieldInfo | None) -> dict[str, type[Spec]]:
    """The classes that a section can be of, by the `kind` that a user gives."""
    if field is None:
        return {}
    union = field.annotation
    if get_origin(union) is tuple:
        union, *marks = get_args(get_args(union)[0]) or (None,)
        field = next((mark for mark in marks if isinstance(mark, FieldInfo)), None)
    if field is None or field.discriminator != "kind":
        return {}
    classes = get_args(union)
    return {kind: spec for spec in classes for kind in get_args(spec.model_fields["kind"].annotation)}


def _spec_in(annotation: Any) -> type[Spec] | None:
    """The Spec class in an annotation such as `OptimizerSpec | None`."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, Spec) else None
    return next((spec for spec in map(_spec_in, get_args(annotation)) if spec), None)
