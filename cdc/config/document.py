"""A YAML file as a tree in which every value knows its place. YAML 1.2, safe, bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from cdc.config.problems import Place, Problem

LARGEST_FILE_BYTES: Final = 1 << 20
MOST_VALUES: Final = 50_000
"""Values of the tree with every alias written out: an alias bomb ends here."""

Scalar = str | int | float | bool | None


@dataclass(slots=True)
class Node:
    """A value with its place, and the place of its key if it has one."""

    value: Scalar | dict[str, Node] | list[Node]
    place: Place
    key: Place | None = None
    written: str | None = None
    """The text in the file, where `value` is what its references gave."""

    def plain(self) -> Any:
        """The value as plain Python, for pydantic."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def child(self, part: str | int) -> Node | None:
        """The value under a key or at an index."""
        if isinstance(self.value, dict) and isinstance(part, str):
            return self.value.get(part)
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            return self.value[part]
        return None

    def without(self, *keys: str) -> Node:
        """The same map less some of its keys; anything else as it is."""
        if not isinstance(self.value, dict):
            return self
        return Node({key: node for key, node in self.value.items() if key not in keys}, self.place, self.key)

    def children(self) -> list[tuple[str | int, Node]]:
        """The values of a map or list with their keys or indexes; none of a scalar."""
        if isinstance(self.value, dict):
            return list(self.value.items())
        return list(enumerate(self.value)) if isinstance(self.value, list) else []

    def leaves(self, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Node]]:
        """All scalars beneath, and maps and lists that are empty, with their paths."""
        children = self.children()
        if not children:
            yield path, self
        for part, node in children:
            yield from node.leaves((*path, part))


def beneath(base: Node, over: Node) -> Node:
    """`over` with what only `base` has, maps merged key by key: how ``defaults`` and ``profiles`` work.

    Maps of two different `type` have nothing to do with each other: there `over` is all.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    before, now = base.child("type"), over.child("type")
    if before and now and before.value != now.value:
        return over
    merged = {**base.value, **over.value}
    for key in base.value.keys() & over.value.keys():
        merged[key] = beneath(base.value[key], over.value[key])
    return Node(merged, over.place, over.key)


def parse(text: str, file: str = "") -> tuple[Node, list[Problem]]:
    """The tree of a YAML text, and what is wrong with the text itself. The tree is empty when it cannot be parsed."""
    start = Place(1, 1, file=file)
    empty = Node({}, start)
    if len(text.encode()) > LARGEST_FILE_BYTES:
        return empty, [Problem("too_large", (), f"the file is larger than {LARGEST_FILE_BYTES >> 20} MiB", start)]
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
        if root is None:
            return empty, []
        builder = _Builder(yaml, file)
        return builder.build(root, (), ()), builder.problems
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1, file=file) if mark else start
        message = ", ".join(filter(None, [error.problem, error.context]))
        near = text.splitlines()[place.line - 1 : place.line]
        help_ = 'inside {…} and […] a reference needs quotes: "${VAR}"' if near and "${" in near[0] else ""
        return empty, [Problem("syntax", (), f"not YAML: {message}", place, help=help_)]
    except (YAMLError, ValueError) as error:  # characters that YAML forbids
        message = str(error).partition("\n")[0]
        return empty, [Problem("syntax", (), f"not YAML: {message}", start)]
    except (_TooMany, RecursionError):
        return empty, [Problem("too_large", (), "nested or repeated by aliases beyond all measure", start)]


class _TooMany(Exception):
    pass


class _Builder:
    def __init__(self, yaml: Any, file: str) -> None:
        self._yaml = yaml
        self._file = file
        self._left = MOST_VALUES
        self.problems: list[Problem] = []

    def build(self, node: Any, path: tuple[str | int, ...], within: tuple[int, ...], key: Place | None = None) -> Node:
        """`within` are the identities of the nodes around this one: an alias to one of them never ends."""
        self._left -= 1
        if self._left < 0 or id(node) in within:
            raise _TooMany
        within = (*within, id(node))
        if not isinstance(node, ScalarNode) and _kind(node) not in ("map", "seq"):
            self._unsupported(node, path)
        if isinstance(node, MappingNode):
            return Node(self._map(node, path, within), self._place(node), key)
        if isinstance(node, SequenceNode):
            items = [self.build(item, (*path, index), within) for index, item in enumerate(node.value)]
            return Node(items, self._place(node), key)
        return Node(self._scalar(node, path), self._place(node), key)

    def _map(self, node: Any, path: tuple[str | int, ...], within: tuple[int, ...]) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, ScalarNode):
                self.problems.append(Problem("bad_key", path, "a key must be a plain word", place))
                continue
            name = str(key_node.value)
            if key_node.tag == "tag:yaml.org,2002:merge":
                self.problems.append(
                    Problem("bad_key", path, "merge keys are not part of YAML 1.2", place, help="use `defaults`")
                )
            elif name in entries:
                first = entries[name].key
                where = f" (first on line {first.line})" if first else ""
                self.problems.append(Problem("duplicate_key", (*path, name), f"the key is here twice{where}", place))
            else:
                entries[name] = self.build(value_node, (*path, name), within, place)
        return entries

    def _scalar(self, node: Any, path: tuple[str | int, ...]) -> Scalar:
        kind = _kind(node)
        if kind in ("str", "timestamp"):
            return str(node.value)
        if kind in ("int", "float", "bool", "null"):
            try:
                scalar: Scalar = self._yaml.constructor.construct_object(node)
            except ValueError:
                return str(node.value)
            return scalar
        self._unsupported(node, path)
        return None

    def _unsupported(self, node: Any, path: tuple[str | int, ...]) -> None:
        self.problems.append(Problem("bad_value", path, f"the YAML tag {node.tag} is not supported", self._place(node)))

    def _place(self, node: Any) -> Place:
        start, end = node.start_mark, node.end_mark
        width = end.column - start.column if end.line == start.line and isinstance(node, ScalarNode) else 1
        return Place(start.line + 1, start.column + 1, max(1, width), self._file)


def _kind(node: Any) -> str:
    return str(node.tag).removeprefix("tag:yaml.org,2002:")
