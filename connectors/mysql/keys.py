"""Keys in SQL: the end of what a chunk has read as text (:class:`cdc.source.plan.KeyRange`), and as a condition.

What the server prints of a value is not always the value: it rounds a ``float``, converts characters, compares an
``enum`` by its number. So there is a form for each type that is exact and compares as the column does.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cdc.event import Value
from cdc.source.plan import KeyRange
from connectors.mysql.catalogue import CatalogTable
from connectors.mysql.charsets import charset
from connectors.mysql.definitions import quote
from connectors.mysql.tablemap import ColumnType, MapColumn
from connectors.mysql.values import INTEGERS, declared_type, is_text

_TIMES: Final = frozenset(
    {
        ColumnType.DATE,
        ColumnType.TIME,
        ColumnType.TIME2,
        ColumnType.DATETIME,
        ColumnType.DATETIME2,
        ColumnType.TIMESTAMP,
        ColumnType.TIMESTAMP2,
    }
)
_NUMBERED: Final = frozenset({ColumnType.BIT, ColumnType.SET, ColumnType.ENUM})
_UNICODE: Final = frozenset({"utf8mb4", "utf8mb3", "ascii"})
"""Character sets whose text is in UTF-8 what it is."""
_DIGITS: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_MOMENT: Final = re.compile(r"[-0-9:. ]+")
_HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F]*")


@dataclass(frozen=True)
class KeyColumn:
    """How values of one column are written in the ends of ranges."""

    column: MapColumn
    expression: str
    """What is to be selected for it, where that is not what is selected of the column for its row; else empty."""
    text: Callable[[bytes], str]
    """What the server printed, as text."""
    literal: Callable[[str], str]
    """The text as an SQL literal. Raises ValueError when it is none of this column's."""
    canonical: Callable[[Value], str]
    """A canonical value as an SQL literal. Characters that the column's character set has twice may be confused."""

    @property
    def name(self) -> str:
        """As SQL has it."""
        return quote(self.column.name)

    def equal(self, text: str) -> str:
        """The condition that a value is this one."""
        return f"{self.name} = {self.literal(text)}"

    def is_value(self, value: Value) -> str:
        """The condition that a value equals this canonical one. Raises ValueError when it is none of this column's."""
        return f"{self.name} = {self.canonical(value)}"

    def beyond(self, text: str, *, above: bool) -> str:
        """The condition that a value comes after this one, or before it."""
        if self.column.type is not ColumnType.ENUM:
            return f"{self.name} {'>' if above else '<'} {self.literal(text)}"
        # By number, and as a list: servers do not look up an enum in an index by > or <.
        number = int(text)
        numbers = range(number + 1, len(self.column.members) + 1) if above else range(number)
        return f"{self.name} IN ({', '.join(map(str, numbers))})" if numbers else "FALSE"


def key_columns(table: CatalogTable) -> list[KeyColumn]:
    """Those of a table's key, in key order."""
    columns = {column.name: column for column in table.columns}
    return [_key_column(columns[name], table.declared.get(name, "")) for name in table.key]


def condition(key: Sequence[KeyColumn], range_: KeyRange) -> str:
    """The condition for the rows of a range, empty where it has no end.

    Written out column by column: the servers find no place in an index for ``(a, b) > (1, 2)``.
    """
    ends = []
    if range_.after is not None:
        ends.append(_beyond(key, range_.after, above=True))
    if range_.until is not None:
        ends.append(_beyond(key, range_.until, above=False))
    return " AND ".join(ends)


def _beyond(key: Sequence[KeyColumn], end: Sequence[str], *, above: bool) -> str:
    same: list[str] = []
    ways = []
    for column, text in zip(key, end, strict=False):
        ways.append(" AND ".join([*same, column.beyond(text, above=above)]))
        same.append(column.equal(text))
    if not above:
        ways.append(" AND ".join(same))
    return f"({' OR '.join(ways)})"


def _key_column(column: MapColumn, declared: str) -> KeyColumn:
    utf8 = _characters("utf8mb4")
    if declared_type(column, declared):
        return KeyColumn(column, "", bytes.decode, utf8, _as_text(utf8))
    if column.type in _NUMBERED:
        return KeyColumn(
            column, f"{quote(column.name)} + 0", bytes.decode, _number, lambda v: str(_number_of(column, v))
        )
    if column.type in INTEGERS or column.type in (ColumnType.YEAR, ColumnType.NEWDECIMAL):
        return KeyColumn(column, "", bytes.decode, _number, _as_text(_number))
    if column.type is ColumnType.FLOAT:
        return KeyColumn(column, "", bytes.decode, _float, _as_text(_single))
    if column.type is ColumnType.DOUBLE:
        return KeyColumn(column, "", bytes.decode, _float, _as_text(_float))
    if column.type in _TIMES:
        moment = _as_text(_moment)
        return KeyColumn(column, "", bytes.decode, _moment, lambda v: moment(str(v).replace("T", " ").rstrip("Z")))
    if not is_text(column):
        return KeyColumn(column, "", bytes.hex, _hexadecimal, _bytes)
    name = charset(column.collation).name
    if name in _UNICODE:
        return KeyColumn(column, "", bytes.decode, utf8, _as_text(utf8))
    expression = f"HEX({quote(column.name)})"
    return KeyColumn(column, expression, bytes.decode, lambda text: f"_{name} {_hexadecimal(text)}", _as_text(utf8))


def _as_text(literal: Callable[[str], str]) -> Callable[[Value], str]:
    return lambda value: literal(str(value))


def _bytes(value: Value) -> str:
    if not isinstance(value, bytes):
        raise ValueError
    return f"x'{value.hex()}'"


def _number_of(column: MapColumn, value: Value) -> int:
    """The number by which a bit, set or enum is compared."""
    if isinstance(value, bytes):
        return int.from_bytes(value, "big")
    if isinstance(value, bool):
        return int(value)
    members = column.members
    if column.type is ColumnType.ENUM:  # 0 is what is none of them
        return members.index(str(value)) + 1 if value in members else 0
    return sum(1 << members.index(member) for member in str(value).split(",") if member)


def _number(text: str) -> str:
    if not _DIGITS.fullmatch(text):
        raise ValueError
    return text


def _float(text: str) -> str:
    return f"{float(text):.17e}"


def _single(text: str) -> str:
    """A column of single precision is compared as the double that it is."""
    try:
        return f"{struct.unpack('<f', struct.pack('<f', float(text)))[0]:.17e}"
    except OverflowError as error:
        raise ValueError from error


def _moment(text: str) -> str:
    if not _MOMENT.fullmatch(text):
        raise ValueError
    return f"'{text}'"


def _hexadecimal(text: str) -> str:
    if not _HEXADECIMAL.fullmatch(text):
        raise ValueError
    return f"x'{text}'"


def _characters(name: str) -> Callable[[str], str]:
    return lambda text: f"_{name} x'{text.encode().hex()}'"
