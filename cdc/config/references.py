"""References: ``${VAR}``, ``${VAR:-default}``, ``${VAR:?message}``, ``${file:/path}``; ``$${`` is a literal ``${``.

They are resolved after parsing, inside string scalars only, so that no value can become YAML or needs quoting.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cdc.config.document import Node
from cdc.config.problems import Problem, nearest
from cdc.config.secrets import REFERENCE_HELP, SECRET_NAME, Referenced, inline_password, remember

LARGEST_SECRET_BYTES: Final = 64 << 10

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{(?P<inside>[^{}]*)(?P<end>\}?)")
_HOLE: Final = "\0"
_VARIABLE: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<kind>[-?])(?P<rest>.*))?", re.DOTALL)


def resolve(tree: Node, environment: Mapping[str, str] = os.environ) -> list[Problem]:
    """Replace the references of all string scalars in `tree`; what cannot be resolved becomes ``Referenced("")``.

    Passwords found inside URLs are remembered as secrets, and are a problem where the file holds them literally.
    """
    problems: list[Problem] = []
    for path, node in tree.leaves():
        if isinstance(node.value, str):
            _Resolver(node, path, environment, problems).resolve()
    return problems


class _Resolver:
    def __init__(
        self, node: Node, path: tuple[str | int, ...], environment: Mapping[str, str], problems: list[Problem]
    ) -> None:
        self._node, self._path, self._environment, self._problems = node, path, environment, problems
        self._failed = False

    def resolve(self) -> None:
        text = str(self._node.value)
        resolved = _REFERENCE.sub(self._value, text)
        self._node.written = text if resolved != text else None
        if self._failed:
            self._node.value = Referenced("")
            return
        written = _REFERENCE.sub(_as_written, text)
        if (password := inline_password(resolved)) is not None:
            remember(password)
        if inline_password(written) is not None:
            self._fail(
                "literal_secret",
                "a password must not be part of a URL in this file",
                "put it into a field of its own (`password: ${VAR}`), or take the whole URL from a reference",
            )
        elif "options" in self._path and SECRET_NAME.search(str(self._path[-1])) and written.strip(_HOLE):
            remember(resolved)
            self._fail("literal_secret", "a secret must not stand in this file", REFERENCE_HELP)
        self._node.value = Referenced(resolved) if resolved != text and not written.strip(_HOLE) else resolved

    def _value(self, match: re.Match[str]) -> str:
        inside = match["inside"]
        if inside is None:
            return "${"
        if not match["end"]:
            return self._fail("bad_reference", "a reference is not closed: `}` is missing")
        if inside.startswith("file:"):
            return self._file(Path(inside.removeprefix("file:")))
        variable = _VARIABLE.fullmatch(inside)
        if not variable:
            return self._fail(
                "bad_reference",
                "this is not a reference",
                "write ${VAR}, ${VAR:-default}, ${VAR:?message} or ${file:/path}; $${ is a literal ${",
            )
        name, kind, rest = variable["name"], variable["kind"], variable["rest"]
        value = self._environment.get(name)
        if value or (value is not None and kind is None):
            return value
        if kind == "-":
            return str(rest)
        if kind == "?" and rest:
            return self._fail("undefined_variable", f"{name} is not set: {rest}")
        near = nearest(name, list(self._environment))
        return self._fail(
            "undefined_variable",
            f"the environment variable {name} is not set",
            f"export {name}=…, or give a default: ${{{name}:-…}}",
            near,
        )

    def _file(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                content = file.read(LARGEST_SECRET_BYTES + 1)
            if len(content) > LARGEST_SECRET_BYTES:
                return self._fail("unreadable_file", f"{path} is larger than {LARGEST_SECRET_BYTES >> 10} KiB")
            text = content.decode()
        except OSError as error:
            return self._fail("unreadable_file", f"cannot read {path}: {error.strerror}")
        except UnicodeDecodeError:
            return self._fail("unreadable_file", f"{path} is not UTF-8 text")
        text = text.removesuffix("\n").removesuffix("\r")
        remember(text)
        return text

    def _fail(self, code: str, message: str, help_: str = "", suggestion: str = "") -> str:
        self._failed = True
        self._problems.append(Problem(code, self._path, message, self._node.place, suggestion, help_))
        return ""


def _as_written(match: re.Match[str]) -> str:
    """What a reference contributes that stands in the file itself: a hole, or its default."""
    if match["inside"] is None:
        return "${"
    variable = _VARIABLE.fullmatch(match["inside"])
    return (variable["rest"] if variable and variable["kind"] == "-" else "") or _HOLE
