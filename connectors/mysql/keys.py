"""Keys in SQL: the end of what a chunk has read as text (:class:`cdc.source.plan.KeyRange`), and as a condition.

What the server prints of a value is not always the value: it rounds a ``float``, converts characters, compares an
``enum`` by its number. So there is a form for each type that is exact and compares as the column does.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

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
ODD: Final = (ValueError, TypeError, AttributeError, OverflowError)
"""What a value may raise that is none of its column's."""
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
    of: Callable[[Any], str | None] = str
    """The text of a canonical value; None where only the server knows it. Raises one of `ODD` when it is none of this
    column's."""

    @property
    def name(self) -> str:
        """As SQL has it."""
        return quote(self.column.name)

    def equal(self, text: str) -> str:
        """The condition that a value is this one."""
        return f"{self.name} = {self.literal(text)}"

    def matches(self, value: Value) -> str:
        """The condition that a value is this canonical one, or perhaps is equal but for its bytes. Raises as `of`."""
        text = self.of(value)
        if text is None:  # the server looks at all rows for it
            return f"CONVERT({self.name} USING utf8mb4) = {_characters('utf8mb4')(str(value))}"
        return self.equal(text)

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


def listed(key: Sequence[KeyColumn], rows: Iterable[Mapping[str, Value]]) -> str:
    """The condition for rows that have one of these keys, or perhaps are equal to one but for their bytes."""
    ways = []
    for row in rows:
        with suppress(*ODD):  # no row can have it
            ways.append(" AND ".join(column.matches(row[column.column.name]) for column in key))
    return f"({') OR ('.join(ways)})" if ways else "FALSE"


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
    if declared_type(column, declared):
        return KeyColumn(column, "", bytes.decode, _characters("utf8mb4"))
    if column.type in _NUMBERED:
        return KeyColumn(column, f"{quote(column.name)} + 0", bytes.decode, _number, partial(_numbered, column))
    if column.type in INTEGERS or column.type in (ColumnType.YEAR, ColumnType.NEWDECIMAL):
        return KeyColumn(column, "", bytes.decode, _number)
    if column.type in (ColumnType.FLOAT, ColumnType.DOUBLE):
        single = column.type is ColumnType.FLOAT
        return KeyColumn(column, "", bytes.decode, _float, _single if single else str)
    if column.type in _TIMES:
        return KeyColumn(column, "", bytes.decode, _moment, _printed)
    if not is_text(column):
        return KeyColumn(column, "", bytes.hex, _hexadecimal, bytes.hex)
    characters = charset(column.collation)
    name = characters.name
    if name in _UNICODE:
        return KeyColumn(column, "", bytes.decode, _characters("utf8mb4"))
    hexadecimal = f"HEX({quote(column.name)})"
    return KeyColumn(
        column,
        hexadecimal,
        bytes.decode,
        lambda text: f"_{name} {_hexadecimal(text)}",
        lambda text: None if (encoded := characters.encode(text)) is None else encoded.hex(),
    )


def _numbered(column: MapColumn, value: Any) -> str:
    """The number of an enum's member, the bits of a set or a bit field."""
    if isinstance(value, bytes):
        return str(int.from_bytes(value, "big"))
    if column.type is ColumnType.ENUM:
        return str(("", *column.members).index(value))
    if column.type is ColumnType.SET:
        return str(sum(1 << column.members.index(member) for member in value.split(",") if value))
    return str(int(value))


def _printed(moment: str) -> str:
    """A date or time as the server prints it, which has a year 0."""
    if moment.endswith(" BC"):
        moment = "0000" + moment.removesuffix(" BC")[4:]
    return moment.replace("T", " ").rstrip("Z")


def _single(text: str) -> str:
    """The digits of a `float`, as a `double` has them."""
    return repr(struct.unpack("<f", struct.pack("<f", float(text)))[0])


def _number(text: str) -> str:
    if not _DIGITS.fullmatch(text):
        raise ValueError
    return text


def _float(text: str) -> str:
    return f"{float(text):.17e}"


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
