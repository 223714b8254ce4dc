"""What a table's search index is called, and how its columns are indexed.

``_source`` keeps every value exactly as it stands on the log; the mapping decides only by what a row can be found.
Values that a search type cannot hold (NaN, infinity, dates BC) are left out of the index and never refused.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

from schemas.table import TableSchema
from schemas.types import Kind, LogicalType

MAX_NAME_BYTES: Final = 200
"""OpenSearch allows 255; the rest is for the generation."""
IGNORE_ABOVE: Final = 1024

_FOREIGN: Final = re.compile(r"[.=]|^_|^\s+$")

_KEYWORD: Final[dict[str, Any]] = {"type": "keyword", "ignore_above": IGNORE_ABOVE}
_UNSEARCHED: Final[dict[str, Any]] = {"type": "object", "enabled": False}


def _number(kind: str) -> dict[str, Any]:
    return {"type": kind, "ignore_malformed": True}


_READABLE: Final[dict[Kind, dict[str, Any]]] = {
    Kind.BOOLEAN: {"type": "boolean"},
    Kind.INT16: _number("short"),
    Kind.INT32: _number("integer"),
    Kind.INT64: _number("long"),
    Kind.UINT64: {**_KEYWORD, "fields": {"number": _number("double")}},
    Kind.DECIMAL: {**_KEYWORD, "fields": {"number": _number("double")}},
    Kind.FLOAT32: _number("float"),
    Kind.FLOAT64: _number("double"),
    Kind.STRING: {"type": "text", "fields": {"keyword": _KEYWORD}},
    Kind.BYTES: {"type": "binary"},
    Kind.BITS: _KEYWORD,
    Kind.GEOMETRY: {"type": "binary"},
    Kind.POINT: {"type": "binary"},
    Kind.COORDINATES: _KEYWORD,
    Kind.EWKB: _KEYWORD,
    Kind.JSON: {"type": "text"},
    Kind.UUID: _KEYWORD,
    Kind.DATE: {"type": "date", "ignore_malformed": True},
    Kind.TIME: _KEYWORD,
    Kind.TIMETZ: _KEYWORD,
    Kind.TIMESTAMP: {"type": "date", "ignore_malformed": True},
    Kind.TIMESTAMPTZ: {"type": "date", "ignore_malformed": True},
    Kind.ENUM: _KEYWORD,
    Kind.OTHER: _KEYWORD,
}

_DEBEZIUM: Final[dict[Kind, dict[str, Any]]] = {
    **_READABLE,
    Kind.DECIMAL: _UNSEARCHED,  # base64 of the unscaled integer, with its scale beside it or not
    Kind.DATE: _number("long"),
    Kind.TIME: _number("long"),
    Kind.TIMESTAMP: _number("long"),
    Kind.GEOMETRY: _UNSEARCHED,
    Kind.POINT: _UNSEARCHED,
    Kind.COORDINATES: _UNSEARCHED,
    Kind.EWKB: _UNSEARCHED,
}

OWN_FIELDS: Final[dict[str, Any]] = {"_cdc_partition": {"type": "integer"}, "_cdc_version": {"type": "long"}}
"""What we add to each document, so that a marker finds the rows that it concerns."""


def mapping(schema: TableSchema) -> dict[str, Any]:
    """The mapping's properties by field."""
    kinds = _DEBEZIUM if schema.profile == "debezium" else _READABLE
    names = field_names(schema)
    return {names[column.name]: kinds[_innermost(column.type).kind] for column in schema.columns}


def field_names(schema: TableSchema) -> dict[str, str]:
    """The field of each column: its name, escaped as in :func:`index_name` where the index would not take it as it is.

    A dot means a field within a field, and what begins with ``_`` belongs to the index and to us.
    """
    return {column.name: _FOREIGN.sub(_hex, column.name) for column in schema.columns}


def _innermost(logical: LogicalType) -> LogicalType:
    """The type of an array's elements: a search field takes any number of values."""
    while logical.element is not None:
        logical = logical.element
    return logical


def index_name(text: str) -> str:
    """A legal name of an index: lower case, other characters than ``a-z 0-9 _ . -`` as ``=`` and their bytes in hex."""
    name = re.sub(r"[^a-z0-9_.-]", _hex, text.lower())
    if name[:1] in {"_", "-", "."}:
        name = _hex_of(name[0]) + name[1:]
    if len(name) > MAX_NAME_BYTES:
        name = f"{name[: MAX_NAME_BYTES - 17]}={hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name


def _hex(match: re.Match[str]) -> str:
    return _hex_of(match[0])


def _hex_of(character: str) -> str:
    return "".join(f"={byte:02x}" for byte in character.encode())
