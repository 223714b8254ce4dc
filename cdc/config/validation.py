"""From pydantic's errors to problems with a place, a plain sentence and a suggestion."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from cdc.config.document import Node
from cdc.config.fields import FromFile
from cdc.config.problems import Problem, nearest
from cdc.config.secrets import REFERENCE_HELP

M = TypeVar("M", bound=BaseModel)
Path = tuple[str | int, ...]

_SENTENCES: Final = {
    "dict_type": "needs a map",
    "model_type": "needs a map",
    "mapping_type": "needs a map",
    "list_type": "needs a list",
    "sequence_str": "needs a list",
    "string_type": "needs text",
    "int_type": "needs a whole number",
    "int_parsing": "needs a whole number",
    "int_from_float": "needs a whole number",
    "float_type": "needs a number",
    "float_parsing": "needs a number",
    "bool_type": "needs true or false",
    "bool_parsing": "needs true or false",
    "path_type": "needs a path",
    "too_short": "must not be empty",
}
_WRONG_FORM: Final = frozenset(code for code in _SENTENCES if code.endswith(("_type", "_str")))
"""Of the alternatives of a setting, those whose very form was not meant."""


def validate(model: type[M], node: Node, path: Path) -> tuple[M | None, list[Problem]]:
    """`node`, which stands at `path`, as a `model`; or the problems that it has."""
    try:
        return model.model_validate(node.plain(), context=FromFile()), []
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
    problems: list[Problem] = []
    wrong_form: dict[Path, list[Problem]] = {}
    right_form: set[Path] = set()
    for detail in errors:
        inner, alternative = _within(node, detail["loc"], detail["type"])
        problem = _problem(model, node, path, inner, detail)
        if alternative is None:
            problems.append(problem)
        elif detail["type"] in _WRONG_FORM and alternative == inner:
            wrong_form.setdefault(alternative, []).append(problem)
        else:
            right_form.add(alternative)
            problems.append(problem)
    for alternative, alternatives in wrong_form.items():
        if alternative not in right_form:
            first = alternatives[0]
            message = " or ".join(dict.fromkeys(problem.message for problem in alternatives))
            problems.append(Problem("bad_value", first.path, message.replace("or needs", "or"), first.place))
    return None, problems


def _within(node: Node, location: Sequence[str | int], code: str) -> tuple[Path, Path | None]:
    """The place in the tree that pydantic means, and where in it alternatives begin, if it went through some.

    Pydantic's locations also name the alternative of a union that was tried; no setting is called like that.
    """
    inner: Path = ()
    alternative: Path | None = None
    for index, part in enumerate(location):
        child = node.child(part)
        if child is not None:
            node, inner = child, (*inner, part)
        elif code == "missing" and index == len(location) - 1:
            inner = (*inner, part)
        elif part != "[key]" and alternative is None:
            alternative = inner
    return inner, alternative


def _problem(model: type[BaseModel], node: Node, path: Path, inner: Path, detail: Mapping[str, Any]) -> Problem:
    parent = _at(node, inner[:-1]) if inner else node
    found = _at(node, inner)
    whole = (*path, *inner)
    match detail["type"]:
        case "missing":
            return Problem("missing_key", whole, f"`{inner[-1]}` is missing", parent.key or parent.place)
        case "extra_forbidden":
            known = _keys(model, detail["loc"])
            near = nearest(str(inner[-1]), known)
            help_ = "" if near else "known here: " + ", ".join(known)
            return Problem("unknown_key", whole, "unknown key", found.key or found.place, near, help_)
        case "literal_secret":
            return Problem("literal_secret", whole, detail["msg"], found.place, help=REFERENCE_HELP)
        case "literal_error":
            expected = str(detail["ctx"]["expected"])
            near = nearest(str(found.value), re.findall(r"'([^']*)'", expected))
            return Problem("bad_value", whole, f"should be {expected}", found.place, near)
        case code:
            message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input ")
            at = found.key if detail["loc"][-1:] == ("[key]",) and found.key else found.place
            return Problem("bad_value", whole, _SENTENCES.get(code, message), at)


def _at(node: Node, path: Path) -> Node:
    for part in path:
        node = node.child(part) or node
    return node


def _keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys that could stand beside the last part of `location`."""
    models = [model]
    for part in location[:-1]:
        fields = [_fields(candidate).get(str(part)) for candidate in models]
        models = [deeper for field in fields if field for deeper in _models(field.annotation)] or models
    return sorted({name for candidate in models for name in _fields(candidate)})


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A model's fields by the names that they have in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """All models that a type annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models(argument)]
