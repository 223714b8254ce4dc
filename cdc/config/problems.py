"""Errors of a configuration file: each with its place, all of them at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdc.config.secrets import redact, redact_line
from cdc.errors import ConfigurationError


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A stretch of one line of a file, counted from 1; `width` in characters."""

    line: int
    column: int
    width: int = 1
    file: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `path` names the setting (``sources.db.slot``), `suggestion` the nearest right word."""

    code: str
    path: tuple[str | int, ...]
    message: str
    place: Place
    suggestion: str = ""
    help: str = ""

    @property
    def pointer(self) -> str:
        """JSON pointer of the setting."""
        return pointer(self.path)


class InvalidConfiguration(ConfigurationError):
    """A file that cannot be used, with everything that is wrong in it and in the files that it includes."""

    def __init__(self, texts: Mapping[str, str], problems: Iterable[Problem]) -> None:
        """`texts`: what each file holds, by its name, in the order in which their problems are told."""
        unique = dict.fromkeys(problems)
        order = list(texts)
        self.problems = sorted(
            unique,
            key=lambda problem: (
                order.index(problem.place.file),
                problem.place,
                problem.path and str(problem.path[-1]),
            ),
        )
        self._lines = {name: text.splitlines() for name, text in texts.items()}
        super().__init__("\n".join(self.render(problem) for problem in self.problems))

    def render(self, problem: Problem) -> str:
        """``file:line:column: error[code] path: message``, the line with a caret beneath, suggestion and help."""
        place = problem.place
        path = ".".join(map(str, problem.path))
        head = f"{place.file}:{place.line}:{place.column}: error[{problem.code}] {path + ': ' if path else ''}"
        parts = [head + problem.message + (f", did you mean {problem.suggestion!r}?" if problem.suggestion else "")]
        lines = self._lines[place.file]
        if place.line <= len(lines):
            line = lines[place.line - 1]
            shown = redact_line(line)
            indent = len(redact_line(line[: place.column - 1]))
            width = max(1, min(place.width, len(line) - place.column + 1)) if shown == line else 1
            margin = " " * (len(str(place.line)) + 2)
            parts += [f"  {place.line} | {shown}", f"{margin} | {' ' * indent}{'^' * width}"]
        if problem.help:
            parts.append(f"  help: {problem.help}")
        return redact("\n".join(parts))

    def to_json(self) -> list[dict[str, Any]]:
        """The problems for ``--json``."""
        return [
            {
                "code": problem.code,
                "message": redact(problem.message),
                "pointer": problem.pointer,
                "file": problem.place.file,
                "line": problem.place.line,
                "column": problem.place.column,
                "suggestion": problem.suggestion or None,
                "help": redact(problem.help) or None,
            }
            for problem in self.problems
        ]


def pointer(path: Sequence[str | int]) -> str:
    """JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def nearest(word: str, known: Sequence[str]) -> str:
    """The known word that `word` was probably meant to be, or an empty string."""
    return next(iter(difflib.get_close_matches(word, known, 1, 0.6)), "")
