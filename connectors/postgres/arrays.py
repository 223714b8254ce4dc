"""PostgreSQL's array text: ``{1,NULL,"with \\"quotes\\""}``, nested per dimension."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from cdc.event import Value
from schemas.types import LogicalType

_TOKEN: Final = re.compile(rb'[{},]|"((?:[^"\\]|\\.)*)"|[^{},"\\]+', re.DOTALL)
_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_BOUNDS: Final = re.compile(rb"(?:\[-?\d+:-?\d+\])+=")


def parse(text: bytes, load: Callable[[bytes], Value]) -> list[Value]:
    """The elements of an array's `text`, each through `load`. Raises ValueError when it is no array.

    Lower bounds other than 1 (``[0:1]={1,2}``) are skipped.
    """
    bounds = _BOUNDS.match(text)
    place = bounds.end() if bounds else 0
    outer: list[Value] = []
    open_lists = [outer]
    expect_value, ended = True, False
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None or ended:
            raise ValueError("not an array")
        place = token.end()
        word = token.group()
        current = open_lists[-1]
        if word == b"{" and expect_value:
            nested: list[Value] = []
            current.append(nested)
            open_lists.append(nested)
        elif word == b"}" and len(open_lists) > 1 and expect_value == (not current):
            open_lists.pop()
            expect_value, ended = False, len(open_lists) == 1
        elif word == b"," and not expect_value and len(open_lists) > 1:
            expect_value = True
        elif word not in (b"{", b"}", b",") and expect_value and len(open_lists) > 1:
            if token.group(1) is not None:
                current.append(load(_ESCAPE.sub(rb"\1", token.group(1))))
            else:
                current.append(None if word == b"NULL" else load(word))
            expect_value = False
        else:
            raise ValueError("not an array")
    if not ended:
        raise ValueError("an array does not end")
    (array,) = outer
    assert isinstance(array, list)
    return array


def literal(element: LogicalType, values: list[Value], text: Callable[[LogicalType, Value], str | None]) -> str:
    """The array text of `values`, nested lists being further dimensions; `text` prints one element."""
    return "{" + ",".join(_item(element, value, text) for value in values) + "}"


def _item(element: LogicalType, value: Value, text: Callable[[LogicalType, Value], str | None]) -> str:
    if isinstance(value, list):
        return literal(element, value, text)
    printed = text(element, value)
    if printed is None:
        return "NULL"
    return '"' + printed.replace("\\", "\\\\").replace('"', '\\"') + '"'
