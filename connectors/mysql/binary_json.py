"""MySQL's binary JSON to the text that the server prints, and the differences of partial updates.

https://dev.mysql.com/doc/dev/mysql-server/latest/json__binary_8h.html. A document becomes a tree in which objects are
``dict``, arrays ``list`` and everything else the text that it is printed as. Whatever the bytes, all functions raise
nothing but ValueError.
"""

from __future__ import annotations

import json
import re
import struct
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Union

from connectors.mysql.numbers import decimal_text, double_text
from connectors.mysql.temporal import clock_text, day_text, time_text

Tree = Union[dict[str, "Tree"], list["Tree"], str]  # noqa: UP007 - recursive

_DEEPEST: Final = 100
"""The server's limit."""
_LITERALS: Final = ("null", "true", "false")
_INTEGERS: Final = {5: (2, True), 6: (2, False), 7: (4, True), 8: (4, False), 9: (8, True), 10: (8, False)}
_INLINED: Final = {False: (4, 5, 6), True: (4, 5, 6, 7, 8)}
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPED: Final = re.compile('["\\\\\x00-\x1f]')

_OBJECT, _ARRAY = 0, 2
"""The small ones."""
_small: Final = struct.Struct("<HH").unpack_from
_entries: Final = struct.Struct("<BH").iter_unpack

_DIGITS: Final = 81
"""Of a decimal within a document: it may have more than a column's, of which the groups are not full."""
_BASE64_LINE: Final = 76

_DATE, _TIME, _DATETIME, _TIMESTAMP, _DECIMAL = 10, 11, 12, 7, 246


def parse(document: bytes) -> Tree:
    """The tree of a document. An empty one is the JSON null, as the server has it."""
    return _Reader(document).document() if document else "null"


def text(tree: Tree) -> str:
    """The tree as the server prints it."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{_quoted(key)}: {text(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(text, tree)) + "]"
    return tree


@lru_cache(256)
def document_text(document: bytes) -> str:
    """What the server prints for a document: the common way, straight to text. The old and the new image of a row
    mostly have the same one."""
    if document and document[0] in (_OBJECT, _ARRAY):
        with suppress(ValueError, IndexError, struct.error):
            return _Printer(document).container(document[0], 1, len(document), 1)
    return text(parse(document))


class _Printer:
    """Prints small objects and arrays (of less than 64 KiB) and what is mostly in them; the rest is `_Reader`'s."""

    __slots__ = ("_budget", "_content")

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._budget = len(content)

    def container(self, kind: int, start: int, end: int, depth: int) -> str:
        """The object or array that begins at `start`; nothing of it lies beyond `end`."""
        content = self._content
        count, size = _small(content, start)
        stop = start + size
        self._budget -= count + 1
        if stop > end or depth > _DEEPEST or self._budget < 0:
            raise ValueError("an object or array ends beyond its document")
        entries = start + 4 + (4 * count if kind == _OBJECT else 0)
        first = entries + 3 * count
        if first > stop:
            raise ValueError("an object or array ends beyond its document")
        parts = []
        for inner, place in _entries(content[entries:first]):
            if inner == 12:
                place += start
                length = content[place]
                ends = place + 1 + length
                if length > 127 or ends > stop:
                    parts.append(self._rest(inner, place, stop, depth))
                    continue
                self._budget -= length
                string = content[place + 1 : ends].decode()
                parts.append(f'"{string}"' if _ESCAPED.search(string) is None else _quoted(string))
            elif inner == 5:
                parts.append(str(place - 65536 if place > 32767 else place))
            elif inner == 4:
                parts.append(_LITERALS[place])
            elif inner < 2 << 1 and not inner & 1:
                parts.append(self.container(inner, start + place, stop, depth + 1))
            elif inner == 6:
                parts.append(str(place))
            else:
                parts.append(self._rest(inner, start + place, stop, depth))
        if self._budget < 0:
            raise ValueError("parts overlap")
        if kind == _ARRAY:
            return f"[{', '.join(parts)}]"
        if not count:
            return "{}"
        offset, length = _small(content, entries - 4)
        last = start + offset + length
        self._budget -= last - first
        if last > stop or self._budget < 0:
            raise ValueError("a key ends beyond its object")
        names = _names(content[start + 4 : entries], content[first:last], first - start)
        return f"{{{', '.join(map(str.__add__, names, parts))}}}"

    def _rest(self, kind: int, start: int, end: int, depth: int) -> str:
        return text(_Reader(self._content).value(kind, start, end, depth))


@lru_cache(4096)
def _names(entries: bytes, keys: bytes, first: int) -> tuple[str, ...]:
    """What stands before each value of an object whose keys are at these offsets: rows have few sorts of objects."""
    names = []
    for offset, length in struct.iter_unpack("<HH", entries):
        begin = offset - first
        if begin < 0 or begin + length > len(keys):
            raise ValueError("a key lies elsewhere than after the entries")
        names.append(f"{_quoted(keys[begin : begin + length].decode())}: ")
    if len(set(names)) < len(names):
        raise ValueError("a key comes twice")
    return tuple(names)


def _quoted(string: str) -> str:
    return '"' + _ESCAPED.sub(_escape, string) + '"'


def _escape(found: re.Match[str]) -> str:
    return _ESCAPES.get(found[0]) or f"\\u{ord(found[0]):04x}"


class _Reader:
    """Reads one document. What it may yield is bounded by its length: parts of a sound one do not overlap."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._budget = len(content)

    def document(self) -> Tree:
        return self.value(self._content[0], 1, len(self._content), 0)

    def _spend(self, count: int) -> None:
        self._budget -= count
        if self._budget < 0:
            raise ValueError("parts overlap")

    def _take(self, start: int, size: int, end: int) -> bytes:
        if start + size > end:
            raise ValueError("a value ends beyond its document")
        return self._content[start : start + size]

    def _number(self, start: int, size: int, end: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(start, size, end), "little", signed=signed)

    def value(self, kind: int, start: int, end: int, depth: int) -> Tree:
        """The value of type `kind` that begins at `start`; nothing of it lies beyond `end`."""
        self._spend(1)
        if kind < 4:
            return self._container(kind, start, end, depth + 1)
        if kind == 4:
            literal = self._number(start, 1, end)
            if literal >= len(_LITERALS):
                raise ValueError("an unknown literal")
            return _LITERALS[literal]
        if kind in _INTEGERS:
            size, signed = _INTEGERS[kind]
            return str(self._number(start, size, end, signed))
        if kind == 11:
            number: float = struct.unpack("<d", self._take(start, 8, end))[0]
            printed = double_text(number)
            return printed if "." in printed or "e" in printed else f"{printed}.0"
        if kind == 12:
            return _quoted(self._bytes(start, end).decode())
        if kind == 15:
            return _opaque(self._number(start, 1, end), self._bytes(start + 1, end))
        raise ValueError(f"unknown type {kind}")

    def _bytes(self, start: int, end: int) -> bytes:
        """Bytes, after a length of which seven bits are in each byte."""
        length = 0
        for shift in range(0, 35, 7):
            byte = self._number(start, 1, end)
            start += 1
            length |= (byte & 127) << shift
            if byte < 128:
                break
        else:
            raise ValueError("a length of more than five bytes")
        self._spend(length)
        return self._take(start, length, end)

    def _container(self, kind: int, start: int, end: int, depth: int) -> Tree:
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        large, is_array = bool(kind & 1), kind > 1
        width = 4 if large else 2
        count, size = self._number(start, width, end), self._number(start + width, width, end)
        if size > end - start:
            raise ValueError("an object or array ends beyond its document")
        end = start + size
        entries = start + 2 * width + (0 if is_array else count * (width + 2))
        self._take(entries, count * (width + 1), end)
        values = []
        for entry in range(entries, entries + count * (width + 1), width + 1):
            inner = self._content[entry]
            place = entry + 1 if inner in _INLINED[large] else start + self._number(entry + 1, width, end)
            values.append(self.value(inner, place, end, depth))
        if is_array:
            return values
        keys = []
        for entry in range(start + 2 * width, entries, width + 2):
            offset, length = self._number(entry, width, end), self._number(entry + width, 2, end)
            self._spend(length)
            keys.append(self._take(start + offset, length, end).decode())
        return dict(zip(keys, values, strict=True))


def _opaque(kind: int, content: bytes) -> str:
    """A value of a type that JSON does not have."""
    if kind == _DECIMAL:
        precision, scale = content[:2].ljust(2, b"\0")
        if not 0 < precision <= _DIGITS or scale > precision:
            raise ValueError("an impossible decimal")
        return decimal_text(content[2:], precision, scale)
    if kind in (_DATE, _TIME, _DATETIME, _TIMESTAMP):
        if len(content) != 8:
            raise ValueError("an impossible time")
        packed = int.from_bytes(content, "little", signed=True)
        seconds, microseconds = abs(packed) >> 24, abs(packed) & 0xFFFFFF
        if microseconds > 999_999:
            raise ValueError("an impossible fraction")
        if kind == _TIME:
            return f'"{time_text(seconds, negative=packed < 0)}.{microseconds:06}"'
        if kind == _DATE:
            return f'"{day_text(seconds >> 17)}"'
        return f'"{day_text(seconds >> 17)} {clock_text(seconds & 0x1FFFF)}.{microseconds:06}"'
    encoded = b64encode(content).decode()
    lines = [encoded[i : i + _BASE64_LINE] for i in range(0, len(encoded), _BASE64_LINE)]
    return _quoted(f"base64:type{kind}:" + "\n".join(lines))


@dataclass(frozen=True, slots=True)
class Difference:
    """One change of a document: `operation` 0 replaces, 1 inserts, 2 removes what is at `path`."""

    operation: int
    path: tuple[str | int, ...]
    value: Tree


def parse_differences(content: bytes) -> list[Difference]:
    """What a partial update says of one column."""
    differences = []
    place = 0
    while place < len(content):
        operation = content[place]
        if operation > 2:
            raise ValueError("an unknown change")
        size, place = _length(content, place + 1)
        path = _path(_part(content, place, size).decode())
        place += size
        value: Tree = "null"
        if operation < 2:
            size, place = _length(content, place)
            value = parse(_part(content, place, size))
            place += size
        differences.append(Difference(operation, path, value))
    return differences


def _part(content: bytes, start: int, size: int) -> bytes:
    if start + size > len(content):
        raise ValueError("a part ends beyond the whole")
    return content[start : start + size]


def _length(content: bytes, place: int) -> tuple[int, int]:
    first = _part(content, place, 1)[0]
    size = {252: 2, 253: 3, 254: 8}.get(first, 0)
    if not size:
        return first, place + 1
    return int.from_bytes(_part(content, place + 1, size), "little"), place + 1 + size


_LEG: Final = re.compile(r'\s*(?:\.\s*(?:("(?:[^"\\]|\\.)*")|([^\s."\[]+))|\[\s*([0-9]{1,10})\s*\])', re.DOTALL)


def _path(path: str) -> tuple[str | int, ...]:
    if not path.startswith("$"):
        raise ValueError("a path does not begin with $")
    legs: list[str | int] = []
    place = 1
    while place < len(path):
        found = _LEG.match(path, place)
        if found is None:
            raise ValueError("a path that cannot be read")
        quoted, plain, index = found.groups()
        legs.append(int(index) if index else json.loads(quoted, strict=False) if quoted else plain)
        place = found.end()
    return tuple(legs)


def apply(tree: Tree, differences: list[Difference]) -> Tree:
    """The document after the changes, which are made in their order; `tree` itself may change."""
    for difference in differences:
        if not difference.path:
            if difference.operation != 0:
                raise ValueError("the whole document can only be replaced")
            tree = difference.value
            continue
        parent = tree
        for leg in difference.path[:-1]:
            parent = _child(parent, leg)
        _change(parent, difference.path[-1], difference)
    return tree


def _child(parent: Tree, leg: str | int) -> Tree:
    if isinstance(parent, dict) and isinstance(leg, str) and leg in parent:
        return parent[leg]
    if isinstance(parent, list) and isinstance(leg, int) and leg < len(parent):
        return parent[leg]
    raise ValueError("a change of what is not there")


def _change(parent: Tree, leg: str | int, difference: Difference) -> None:
    if difference.operation != 1:
        _child(parent, leg)
    if isinstance(parent, dict) and isinstance(leg, str):
        if difference.operation == 2:
            del parent[leg]
            return
        parent[leg] = difference.value
        if difference.operation == 1:  # members are in the order of their length, then of their bytes
            members = sorted(parent.items(), key=lambda member: (len(member[0].encode()), member[0].encode()))
            parent.clear()
            parent.update(members)
    elif isinstance(parent, list) and isinstance(leg, int):
        if difference.operation == 1:
            parent.insert(leg, difference.value)
        elif difference.operation == 2:
            del parent[leg]
        else:
            parent[leg] = difference.value
    else:
        raise ValueError("a change of what is not there")
