"""Spec: the base of every typed configuration object, and how pydantic's complaints become one sentence."""

from __future__ import annotations

import difflib
import types
import typing
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hepdist.errors import RecipeError


class Spec(BaseModel):
    """A frozen, strict-keyed configuration object; the docstring under a field gives its unit and reason."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, coerce_numbers_to_str=True)


def known_keys(spec: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key that `spec` accepts, nested specs included."""
    keys = []
    for name, field in spec.model_fields.items():
        keys.append(prefix + name)
        for inner in _specs_in(field.annotation):
            keys += known_keys(inner, f"{prefix}{name}.")
    return keys


def _specs_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [s for a in typing.get_args(annotation) for s in _specs_in(a)]
    return []


def unknown_key(what: str, key: str, known: list[str]) -> RecipeError:
    """`recipe key 'optim.lrr' is unknown; did you mean 'optim.lr'?`"""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return RecipeError(f"{what} key '{key}' is unknown; did you mean '{near[0]}'?")
    siblings = [k for k in known if k.rpartition(".")[0] == key.rpartition(".")[0]]
    return RecipeError(f"{what} key '{key}' is unknown; known here: {', '.join(sorted(siblings or known))}")


def parse(spec: type[Spec], values: Any, *, what: str = "recipe", prefix: str = "") -> Any:
    """Build `spec` from plain values; the first thing wrong with them is raised as one RecipeError sentence."""
    try:
        return spec.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = prefix + ".".join(str(p) for p in first["loc"] if not (isinstance(p, str) and p.startswith(("function-", "literal["))))
        if first["type"] == "extra_forbidden":
            raise unknown_key(what, key, known_keys(spec, prefix)) from None
        message = first["msg"].removeprefix("Value error, ")
        if not key or key == prefix.rstrip("."):
            raise RecipeError(f"{what}: {message}") from None
        if first["type"] == "missing":
            raise RecipeError(f"{what} key '{key}' is missing; set it in the file or with {key}=VALUE") from None
        raise RecipeError(f"{what} key '{key}' is {first['input']!r}: {message[0].lower()}{message[1:]}") from None


def parse_pairs(spec: type[Spec], pairs: list[str], what: str) -> Any:
    """Build `spec`, which holds no other specs, from `key=value` texts; what: whose options they are. Raises RecipeError as `parse` does."""
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RecipeError(f"{what} option '{pair}' is not of the form key=value")
        if key not in spec.model_fields:
            raise unknown_key(what, key, known_keys(spec))
        values[key] = value
    return parse(spec, values, what=what)
