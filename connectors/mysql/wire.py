"""How rows lie in the bytes of a rows event, for the generator.

A row is a bitmap of the columns that are null, then the values of the others. What is common is read here by code of
its own; for other types the code calls what the plain way calls.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from cdc.compile import CompiledRows, Part, Wire, compile_rows
from cdc.event import Value
from cdc.formats import Fragment
from connectors.mysql.charsets import charset
from connectors.mysql.envelope import BLOCK
from connectors.mysql.numbers import double_text, groups
from connectors.mysql.tablemap import ColumnType, MapColumn, TableMap
from connectors.mysql.temporal import FRACTION_BYTES, clock_text, date_text, day_text, timestamp_text
from connectors.mysql.values import declared_type, is_text, layout, length_size
from schemas.table import TableSchema
from schemas.types import Kind, LogicalType

_CLOSE: Final = """
if i > end:
    raise ValueError
"""
_NULLABLE: Final = """
if nulls & {bit}:
    {{null}}
else:
    {code}
    {{value}}
"""
_STRUCTS: Final = {
    ColumnType.TINY: ("b", "B"),
    ColumnType.SHORT: ("h", "H"),
    ColumnType.LONG: ("i", "I"),
    ColumnType.LONGLONG: ("q", "Q"),
    ColumnType.DOUBLE: ("d", "d"),
}
_DOUBLE: Final = """x = v
v = b"%a" % x
if b"e" in v or v[-2:] == b".0" or not -1e15 < x < 1e15:
    v = double(x)"""
"""Most numbers are printed as Python prints them."""
_PART: Final = 3
"""How many columns are compared at once with those of the old image."""
_LETTERS: Final = {1: "B", 2: "H", 3: "BH", 4: "I", 5: "BI"}
_NUMBER: Final = re.compile(r"NUMBER\[(.+?)\]")
"""Stands in code for what unpacks numbers of this layout."""
_FRACTION: Final = """
if f:
    v += stripped[f // 1000] if not f % 1000 else (b"%b%03d" % (thousandths[f // 1000], f % 1000)).rstrip(b"0")"""
"""Most fractions are of milliseconds."""
_NUMBERS: Final = frozenset({Kind.INT16, Kind.INT32, Kind.INT64, Kind.UINT64})


def compile_table_map(table: TableMap, schema: TableSchema, declared: Mapping[str, str]) -> CompiledRows:
    """The functions for rows of `table` whose images have all columns; `schema` has the same columns, in order.

    `declared` as in :func:`connectors.mysql.rows.columns`. Bytes come without the event's head: what
    :attr:`connectors.mysql.events.Rows.body` has.
    """
    wire = _TableWire(table, declared)
    size = (len(table.columns) + 7) // 8
    opening = f"nulls = little(m[i : i + {size}], 'little')\ni += {size}"
    if never := sum(1 << i for i, column in enumerate(table.columns) if not column.nullable):
        opening += f"\nif nulls & {never}:\n    raise ValueError"
    return compile_rows(
        schema,
        Wire(
            _fragment,
            open=opening,
            value=lambda index: wire.codes[index],
            close=_CLOSE,
            open_old=f"{opening}\nold_nulls = nulls",
            parts=wire.parts,
            block=BLOCK,
            place=("place", "ordinal - first"),
            names=wire.names,
        ),
        [column.name for column in table.columns if not column.nullable],
    )


def _fragment(type_: LogicalType, _: str) -> Fragment:
    return Fragment("v", number=type_.kind in _NUMBERS)


class _TableWire:
    """The code of each column, and what the names in it stand for."""

    def __init__(self, table: TableMap, declared: Mapping[str, str]) -> None:
        self._columns = table.columns
        self._declared = declared
        self.names: dict[str, object] = {
            "little": int.from_bytes,
            "dates": _DATES,
            "days": _DAYS,
            "clocks": _CLOCKS,
            "epoch_days": _EPOCH_DAYS,
            "epoch_clocks": _EPOCH_CLOCKS,
            "thousandths": _THOUSANDTHS,
            "stripped": _STRIPPED,
            "zero": _zero_timestamp,
            "double": _double,
            "native": _native,
        }
        count = len(self._columns)
        ranges = [range(first, min(first + _PART, count)) for first in range(0, count, _PART)]
        self.parts = [Part(columns, self._same_nulls(columns)) for columns in ranges]
        self._runs = {index: code for columns in ranges for index, code in self._fused(columns).items()}
        self.codes = [self._value(index) for index in range(len(self._columns))]
        """The code of each column: see :attr:`cdc.compile.Wire.value`."""

    def _same_nulls(self, indices: range) -> str:
        nullable = sum(1 << index for index in indices if self._columns[index].nullable)
        return f"not (nulls ^ old_nulls) & {nullable}" if nullable else ""

    def _fused(self, indices: range) -> dict[int, str]:
        """For columns of a fixed size that are never null, and stand side by side: one call reads them all."""
        runs: dict[int, str] = {}
        run: list[int] = []
        for i in [*indices, None]:
            if i is not None and not self._columns[i].nullable and self._columns[i].type in _STRUCTS:
                run.append(i)
                continue
            if len(run) > 1:
                unpack = struct.Struct("<" + "".join(_format(self._columns[k]) for k in run))
                self.names[f"run{run[0]}"] = unpack.unpack_from
                runs[run[0]] = f"{', '.join(f'r{k}' for k in run)} = run{run[0]}(m, i)\ni += {unpack.size}\n"
                runs |= dict.fromkeys(run[1:], "")
            run = []
        return runs

    def _value(self, index: int) -> str:
        column = self._columns[index]
        if index in self._runs:
            text = f"{self._runs[index]}v = r{index}\n"
            return text + (_DOUBLE + "\n" if column.type is ColumnType.DOUBLE else "") + "{value}"
        code = self._code(index, column)
        if not column.nullable:
            return f"{code}\n{{value}}"
        return _NULLABLE.format(bit=1 << index, code=_indented(code))

    def _code(self, index: int, column: MapColumn) -> str:
        declared = declared_type(column, self._declared.get(column.name, ""))
        written = None if declared else _CODES.get(column.type)
        code = (written(column) if written else "") or self._called(column)
        if layout_ := _NUMBER.search(code):
            self.names[f"n{index}"] = struct.Struct(layout_[1]).unpack_from
        if "CONVERT" in code:
            self.names[f"convert{index}"] = layout(column, self._declared.get(column.name, "")).convert
        return _NUMBER.sub(f"n{index}", code).replace("CONVERT", f"convert{index}")

    def _called(self, column: MapColumn) -> str:
        """Code that calls the plain way."""
        found = layout(column, self._declared.get(column.name, ""))
        take = _counted(found.prefix) if found.prefix else f"v = m[i : i + {found.size}]\ni += {found.size}"
        size = "" if found.prefix else f"\nif len(v) != {found.size}:\n    raise ValueError"
        return f"{take}{size}\nv = native(CONVERT(v))"


def _format(column: MapColumn) -> str:
    return _STRUCTS[column.type][column.unsigned]


def _counted(size: int) -> str:
    """Code that takes bytes after a length of `size` bytes."""
    length = " | ".join(f"m[i + {k}] << {8 * k}" if k else "m[i]" for k in range(size))
    return f"e = i + {size} + ({length})\nv = m[i + {size} : e]\ni = e"


def _fixed(column: MapColumn) -> str:
    double = f"\n{_DOUBLE}" if column.type is ColumnType.DOUBLE else ""
    size = struct.calcsize(_format(column))
    return f"(v,) = NUMBER[<{_format(column)}](m, i)\ni += {size}{double}"


def _medium(column: MapColumn) -> str:
    signed = "" if column.unsigned else "\nif v > 8388607:\n    v -= 16777216"
    return f"v = m[i] | m[i + 1] << 8 | m[i + 2] << 16{signed}\ni += 3"


def _string(column: MapColumn) -> str:
    if column.type is ColumnType.STRING and not is_text(column):
        return ""
    take = _counted(length_size(column))
    if not is_text(column) or charset(column.collation).name in ("utf8mb4", "utf8mb3"):
        return take
    return f"{take}\nif not v.isascii():\n    v = native(CONVERT(v))" if charset(column.collation).extends_ascii else ""


def _big(sizes: Sequence[int]) -> tuple[str, list[str]]:
    """Code that takes big-endian numbers of `sizes` bytes, up to five, and the expression of each."""
    letters, numbers, variables = "", [], 0
    for size in sizes:
        letters += _LETTERS[size]
        number = f"x{variables}"
        if len(_LETTERS[size]) == 2:
            number = f"({number} << {8 * (size - 1)} | x{variables + 1})"
        numbers.append(number)
        variables += len(_LETTERS[size])
    names = "".join(f"x{variable}, " for variable in range(variables))
    return f"{names}= NUMBER[>{letters}](m, i)\ni += {sum(sizes)}\n", numbers


def _decimal(column: MapColumn) -> str:
    """Groups of digits. All bits of a negative one are inverted, also the first, which others have set."""
    before, after = groups(column.size, column.scale)
    sizes = [size for size, _ in before + after]
    take, numbers = _big(sizes)
    top = 1 << 8 * sizes[0] - 1
    inverted = [f"({number} ^ {(1 << 8 * size) - 1})" for size, number in zip(sizes, numbers, strict=True)]
    positive, negative = f"({numbers[0]} ^ {top})", f"({numbers[0]} ^ {top - 1})"

    def text(sign: str, parts: Sequence[str]) -> str:
        whole = _joined(parts[: len(before)], before)
        fraction = _joined(parts[len(before) :], after)
        return f'b"{sign}%d.%0{column.scale}d" % ({whole}, {fraction})' if after else f'b"{sign}%d" % ({whole},)'

    return (
        f"{take}if {numbers[0]} & {top}:\n    v = {text('', [positive, *numbers[1:]])}\n"
        f"else:\n    v = {text('-', [negative, *inverted[1:]])}"
    )


def _joined(parts: Sequence[str], groups_: Sequence[tuple[int, int]]) -> str:
    """The expression of the number that groups of digits are together."""
    expression = ""
    for part, (_, digits) in zip(parts, groups_, strict=True):
        expression = f"({expression}) * {10**digits} + {part}" if expression else part
    return expression or "0"


def _datetime(column: MapColumn) -> str:
    take, add = _moment(column, 5)
    return f"{take}v = days[x >> 17] + clocks[x & 131071]{add}"


def _timestamp(column: MapColumn) -> str:
    take, add = _moment(column, 4)
    text = f'v = epoch_days[x // 86400] + epoch_clocks[x % 86400]{add}\nv += b"Z"'
    return f"{take}if x:\n    {_indented(text)}\nelse:\n    v = zero(f)"


def _moment(column: MapColumn, size: int) -> tuple[str, str]:
    """Code that takes the number ``x`` of `size` bytes and its fraction ``f``, and code that adds that to ``v``."""
    digits = FRACTION_BYTES[column.size]
    if not digits:
        take, (whole,) = _big([size])
        return f"{take}x, f = {whole}, 0\n", ""
    take, (whole, fraction) = _big([size, digits])
    factor = f" * {10 ** (6 - 2 * digits)}" if digits < 3 else ""
    return f"{take}x, f = {whole}, {fraction}{factor}\n", _FRACTION


def _indented(code: str) -> str:
    return code.replace("\n", "\n    ")


_CODES: Final[dict[ColumnType, Callable[[MapColumn], str]]] = {
    ColumnType.TINY: _fixed,
    ColumnType.SHORT: _fixed,
    ColumnType.LONG: _fixed,
    ColumnType.LONGLONG: _fixed,
    ColumnType.INT24: _medium,
    ColumnType.DOUBLE: _fixed,
    ColumnType.NEWDECIMAL: _decimal,
    ColumnType.DATE: lambda _: "v = dates[m[i : i + 3]]\ni += 3",
    ColumnType.DATETIME2: _datetime,
    ColumnType.TIMESTAMP2: _timestamp,
    ColumnType.VARCHAR: _string,
    ColumnType.VAR_STRING: _string,
    ColumnType.STRING: _string,
    ColumnType.BLOB: _string,
    ColumnType.GEOMETRY: _string,
}


def _native(value: Value) -> object:
    """The native form (:class:`cdc.formats.Fragment`) of a canonical value; numbers stay as they are."""
    return value.encode() if isinstance(value, str) else value


def _double(number: float) -> bytes:
    return double_text(number).encode()


def _zero_timestamp(microseconds: int) -> bytes:
    return timestamp_text(0, microseconds).encode()


_Key = TypeVar("_Key")


class _Texts(dict[_Key, bytes]):
    """Texts that have been made before, up to a number of them that no sound data reach."""

    _MOST: Final = 200_000

    def __init__(self, make: Callable[[_Key], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: _Key) -> bytes:
        text = self._make(key).encode()
        if len(self) >= self._MOST:
            self.clear()
        self[key] = text
        return text


def _date(packed: bytes) -> str:
    if len(packed) != 3:
        raise ValueError
    number = int.from_bytes(packed, "little")
    return date_text(number >> 9, number >> 5 & 15, number & 31)


def _day(packed: int) -> str:
    """With the sign's bit, which is always set."""
    if not packed >> 22:
        raise ValueError
    return f"{day_text(packed & 0x3FFFFF)}T"


_THOUSANDTHS: Final = [b".%03d" % number for number in range(1000)]
_STRIPPED: Final = [text.rstrip(b"0") for text in _THOUSANDTHS]
_DATES: Final = _Texts(_date)
_DAYS: Final = _Texts(_day)
_CLOCKS: Final = _Texts(clock_text)
_EPOCH_DAYS: Final = _Texts[int](lambda day: timestamp_text(day * 86400 or 1)[:11])
_EPOCH_CLOCKS: Final = _Texts[int](lambda second: f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}")
