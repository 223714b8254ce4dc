"""Column types of DuckDB, and the SQL that makes their values out of a row's JSON.

===============================  ==================================================================================
logical type                     column
===============================  ==================================================================================
``decimal`` with p ≤ 38, s ≤ p   ``DECIMAL(p,s)``; a NaN does not fit, the row is rejected
other ``decimal``                ``VARCHAR``, the digits as the database prints them
``date timestamp timestamptz``   the same, BC and infinity included; a timestamp after the year 294246 is rejected
``time timetz uuid``             the same
``json string`` and any other     ``VARCHAR``: JSON as the database prints it, which DuckDB's JSON functions take
``bytes geometry point``         ``BLOB``, a geometry as MySQL stores it: its SRID, then WKB
``array``                        ``LIST`` of the element's type; an array of several dimensions is rejected
===============================  ==================================================================================

The SQL reads the ``readable`` profile. A value arrives in its *wire* type, as DuckDB's JSON parser hands it over, and a
cast that fails makes it known: nothing ever becomes NULL in silence.
"""

from __future__ import annotations

from typing import Any, Final

from schemas.types import Kind, LogicalType
from sinks._widening import TypeNames

MAX_DECIMAL_DIGITS: Final = 38

_TYPES: Final = {
    Kind.BOOLEAN: "BOOLEAN",
    Kind.INT16: "SMALLINT",
    Kind.INT32: "INTEGER",
    Kind.INT64: "BIGINT",
    Kind.UINT64: "UBIGINT",
    Kind.FLOAT32: "FLOAT",
    Kind.FLOAT64: "DOUBLE",
    Kind.BYTES: "BLOB",
    Kind.GEOMETRY: "BLOB",
    Kind.POINT: "BLOB",
    Kind.UUID: "UUID",
    Kind.DATE: "DATE",
    Kind.TIME: "TIME",
    Kind.TIMETZ: "TIME WITH TIME ZONE",
    Kind.TIMESTAMP: "TIMESTAMP",
    Kind.TIMESTAMPTZ: "TIMESTAMP WITH TIME ZONE",
}
_AS_JSON_HAS_IT: Final = frozenset(
    {Kind.BOOLEAN, Kind.INT16, Kind.INT32, Kind.INT64, Kind.UINT64, Kind.FLOAT32, Kind.FLOAT64}
)
_WITH_ERA: Final = frozenset({Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ})


def column_type(type_: LogicalType) -> str:
    """The column's type as DuckDB's catalogue prints it."""
    if type_.element is not None:
        return column_type(type_.element) + "[]"
    if type_.kind is Kind.DECIMAL and type_.precision is not None:
        scale = type_.scale or 0
        if 0 <= scale <= type_.precision <= MAX_DECIMAL_DIGITS:
            return f"DECIMAL({type_.precision},{scale})"
    return _TYPES.get(type_.kind, "VARCHAR")


def wire_type(type_: LogicalType) -> Any:
    """What DuckDB's JSON parser makes of a value, in the form that ``from_json`` wants."""
    if type_.element is not None:
        return [wire_type(type_.element)]
    return _TYPES[type_.kind] if type_.kind in _AS_JSON_HAS_IT else "VARCHAR"


def value(type_: LogicalType, wire: str, *, flat: bool) -> str:
    """SQL for a column's value, out of SQL for the wire value. Evaluating it fails where the type cannot hold it.

    `flat`: it is known that no array has a further dimension. If it is not, a text that looks like a list fails, too:
    that is how the JSON parser hands over a nested list where a text is wanted.
    """
    if type_.element is not None:
        if type_.element.kind in _AS_JSON_HAS_IT:
            return wire
        item = value(type_.element, "item", flat=flat)
        if not flat:
            item = f"CASE WHEN item[1] = '[' THEN error('nested') ELSE {item} END"
        return f"list_transform({wire}, lambda item: {item})"
    if type_.kind in _AS_JSON_HAS_IT:
        return wire
    if type_.kind in _WITH_ERA:
        era = rf"regexp_replace({wire}, '^([0-9-]+)(.*) BC$', '\1 (BC)\2')"
        wire = f"CASE WHEN suffix({wire}, ' BC') THEN {era} ELSE {wire} END"
    column = column_type(type_)
    if column == "BLOB":
        return f"from_base64({wire})"
    return wire if column == "VARCHAR" else f"CAST({wire} AS {column})"


_NAMES: Final = TypeNames(
    digits={"SMALLINT": 5, "INTEGER": 10, "BIGINT": 19, "UBIGINT": 20},
    wider={
        "SMALLINT": {"INTEGER", "BIGINT", "FLOAT", "DOUBLE"},
        "INTEGER": {"BIGINT", "DOUBLE"},
        "FLOAT": {"DOUBLE"},
    },
    text="VARCHAR",
    uuid="UUID",
)
holds: Final = _NAMES.holds
"""Whether a column of one type takes every value of another, both as :func:`column_type` prints them."""
