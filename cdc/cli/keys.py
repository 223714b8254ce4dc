"""Record keys that an operator lists: a JSON object a line, as they stand on the topic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from cdc.errors import ConfigurationError, DecodeError
from cdc.event import Value
from cdc.formats.envelope import record_key
from cdc.formats.json import decode, render_key
from cdc.record import key_columns
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType

MOST_KEYS: Final = 100_000
"""As many can be listed at once: the log keeps them until they are read."""
PART_KEYS: Final = 1_000
PART_BYTES: Final = 64 << 10
"""How many keys a request has at most, and how long they are: each position has them until they are read."""

_BITS: Final = {Kind.INT16: 15, Kind.INT32: 31, Kind.INT64: 63}
_FRACTION: Final = r"(\.\d{0,5}[1-9])?"
_DATE: Final = r"\d{4,7}-\d\d-\d\d"
_TIME: Final = r"\d\d:\d\d:\d\d" + _FRACTION
_FORMS: Final = {
    Kind.FLOAT32: r"-?\d+(\.\d+)?([eE][-+]?\d+)?|NaN|-?Infinity",
    Kind.UUID: "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    Kind.DATE: f"{_DATE}( BC)?|-?infinity",
    Kind.TIME: r"-?\d{2,3}:\d\d:\d\d" + _FRACTION,
    Kind.TIMESTAMP: f"{_DATE}T{_TIME}( BC)?|-?infinity",
    Kind.TIMESTAMPTZ: f"{_DATE}T{_TIME}Z( BC)?|-?infinity",
}
_FORMS[Kind.FLOAT64] = _FORMS[Kind.FLOAT32]


def listed_keys(lines: Iterable[tuple[str, bytes]], schema: TableSchema) -> list[str]:
    """The keys that `lines` hold, each line with its place, as the records of a table have them; each of them once.

    Raises ConfigurationError for a line that is no key, and when there is none or there are too many.
    """
    expected = ", ".join(f'"{name}": {schema.by_name[name].native}' for name in schema.key)
    table = f"{schema.schema}.{schema.table}"
    keys: dict[str, None] = {}
    for place, line in lines:
        if not line.strip():
            continue
        if problem := _problem(line, schema):
            raise ConfigurationError(
                f"{place}: {problem}; nothing was requested",
                hint=f"expected {{{expected}}}, as `cdc tap --table {table}` shows keys",
            )
        keys[record_key(schema, decode(schema, line)).decode()] = None
        if len(keys) > MOST_KEYS:
            raise ConfigurationError(
                f"more than {MOST_KEYS:,} keys are listed; nothing was requested",
                hint=f"`cdc snapshot {table}` reads the whole table, or list them in parts",
            )
    if not keys:
        raise ConfigurationError("no key is listed", hint=f"write {{{expected}}}, one a line")
    return list(keys)


def parts(keys: Iterable[str]) -> Iterator[list[str]]:
    """The keys as requests have them."""
    part: list[str] = []
    size = 0
    for key in keys:
        if part and (len(part) == PART_KEYS or size + len(key) > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(key)
        size += len(key)
    yield part


def _problem(line: bytes, schema: TableSchema) -> str:
    """Why a line is no key, without its values; empty when it is one."""
    try:
        given = key_columns(line)
    except DecodeError:
        return "not a JSON object"
    if set(given) != set(schema.key):
        return f"the columns are not those of the key ({', '.join(schema.key)})"
    try:
        row = decode(schema, line)
    except DecodeError:
        return "a value is not of its column's type"
    for name in schema.key:
        column = schema.by_name[name]
        if not _is_canonical(column.type, row[name]) or not _same(column, schema.profile, row[name], given[name]):
            return f"the value of {name} is not as record keys have it"
    return ""


def _same(column: Column, profile: str, value: Value, given: object) -> bool:
    """Whether a value is printed as it was given."""
    printed = render_key(column.type, profile, value)
    return key_columns(b'{"":%b}' % printed)[""] == given


def _is_canonical(type_: LogicalType, value: Value) -> bool:
    """Whether `value` is one that the databases print for a key of this type."""
    kind = type_.kind
    if kind in _BITS:
        return type(value) is int and -1 << _BITS[kind] <= value < 1 << _BITS[kind]
    if kind is Kind.UINT64:
        return type(value) is int and 0 <= value < 1 << 64
    if kind is Kind.BOOLEAN:
        return isinstance(value, bool)
    if kind is Kind.BYTES:
        return isinstance(value, bytes)
    if not isinstance(value, str):
        return False
    form = _decimal(type_.scale) if kind is Kind.DECIMAL else _FORMS.get(kind, ".*")
    return re.fullmatch(form, value, re.DOTALL) is not None


def _decimal(scale: int | None) -> str:
    fraction = r"(\.\d+)?" if scale is None else rf"\.\d{{{scale}}}" if scale > 0 else ""
    return rf"-?(0|[1-9]\d*){fraction}|NaN|-?Infinity"
