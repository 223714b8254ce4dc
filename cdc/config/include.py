"""A file and all that it includes, as one tree."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from pathlib import Path

from cdc.config.document import Node, parse
from cdc.config.problems import Place, Problem
from cdc.config.references import resolve
from cdc.errors import ConfigurationError


class Reading:
    """Reads files. Keeps the text of each by its name, in the order of reading, and what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.texts: dict[str, str] = {}
        self.problems: list[Problem] = []
        self._environment = environment
        self._within: list[Path] = []

    def read(self, file: Path) -> Node:
        """The tree of `file`, which includes what its ``include`` names. Raises ConfigurationError: unreadable."""
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            message = f"cannot read {file}: {error.strerror}"
            raise ConfigurationError(message, hint="name the file: cdc -c PATH …") from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"{file} is not UTF-8 text") from None
        self.texts[str(file)] = text
        tree, problems = parse(text, str(file))
        self.problems += problems
        if isinstance(tree.value, dict) and (patterns := tree.value.pop("include", None)):
            self._within.append(file)
            self._include(tree, patterns)
            self._within.pop()
        return tree

    def _include(self, tree: Node, patterns: Node) -> None:
        self.problems += resolve(Node({"include": patterns}, patterns.place), self._environment)
        if not isinstance(patterns.value, list) or not all(isinstance(item.value, str) for item in patterns.value):
            message, example = "needs a list of files", "for example: include: [tables/*.yaml]"
            self.problems.append(Problem("bad_value", ("include",), message, patterns.place, help=example))
            return
        folder = self._within[-1].parent
        for item in patterns.value:
            pattern = str(item.value)
            found = sorted(glob.glob(pattern, root_dir=folder, recursive=True))
            if pattern and not found:
                self._problem(f"there is no file {folder / pattern}", item.place, "paths are relative to this file")
            for name in found:
                self._merge_file(tree, folder / name, item.place)

    def _merge_file(self, tree: Node, file: Path, place: Place) -> None:
        real = os.path.realpath(file)
        if real in map(os.path.realpath, self._within):
            way = " includes ".join(map(str, [*self._within, file]))
            self._problem(f"this never ends: {way}", place, "leave the file itself out of what it includes")
        elif real in map(os.path.realpath, self.texts):
            self._problem(f"{file} is included twice", place, "let one file include it, once")
        else:
            try:
                included = self.read(file)
            except ConfigurationError as error:
                self._problem(str(error.args[0]), place)
            else:
                self._merge(tree, included, ())

    def _merge(self, tree: Node, other: Node, path: tuple[str, ...]) -> None:
        """Put what `other` holds into `tree`, key by key; what both hold is a problem, never a choice of ours."""
        if not isinstance(tree.value, dict) or not isinstance(other.value, dict):
            self.problems.append(Problem("bad_value", path, "needs a map", other.place))
            return
        for key, node in other.value.items():
            mine = tree.value.setdefault(key, node)
            if mine is node:
                continue
            if all(isinstance(both.value, dict) and both.value for both in (mine, node)):
                self._merge(mine, node, (*path, key))
            else:
                first = mine.key or mine.place
                message = f"the key is in two files, first in {first.file}:{first.line}"
                self.problems.append(Problem("duplicate_key", (*path, key), message, node.key or node.place))

    def _problem(self, message: str, place: Place, help_: str = "") -> None:
        self.problems.append(Problem("bad_include", ("include",), message, place, help=help_))
