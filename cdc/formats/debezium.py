"""Values as Debezium's JSON has them (schemas disabled, its default modes), to and from canonical text.

Where Debezium cannot represent a value, or loses it, we choose:

- numeric ``NaN`` and infinities, which its precise mode refuses: the strings of its ``string`` mode (``NAN``,
  ``POSITIVE_INFINITY``, ``NEGATIVE_INFINITY``), none of which can be mistaken for base64;
- a column that could not be filled, of a type for which Debezium has no placeholder: the placeholder as a string.

Lossy, as Debezium is: ``numeric`` without precision loses trailing zeros, ``time with time zone`` its zone. Dates that
are none (MySQL's ``0000-00-00``) are null, also where Debezium would put the column's default; in the record key they
are their text (:func:`cdc.formats.json.render_key`), which the functions that load values take as well.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import a2b_base64, b2a_base64
from decimal import Decimal
from functools import lru_cache
from hashlib import md5
from typing import Any, Final
from uuid import UUID

from cdc.formats import geometries
from schemas.types import Kind, LogicalType

PLACEHOLDER: Final = "__debezium_unavailable_value"
"""Stands for a TOASTed value that was not sent and could not be read again."""

_SPECIAL_DECIMALS: Final = {
    b"NaN": b'"NAN"',
    b"Infinity": b'"POSITIVE_INFINITY"',
    b"-Infinity": b'"NEGATIVE_INFINITY"',
}
_DECIMAL_TEXTS: Final = {rendered[1:-1].decode(): text.decode() for text, rendered in _SPECIAL_DECIMALS.items()}
_SPECIAL_DATES: Final = {b"infinity": -2147472692, b"-infinity": -2147472691}
_SPECIAL_TIMESTAMPS: Final = {b"infinity": 9223372036825200000, b"-infinity": -9223372036832400000}
_DATE_TEXTS: Final = {number: text.decode() for text, number in _SPECIAL_DATES.items()}
_TIMESTAMP_TEXTS: Final = {number: text.decode() for text, number in _SPECIAL_TIMESTAMPS.items()}
_ZERO: Final = "0000-00-00"
"""MySQL's zero of a TIMESTAMP."""
_DAY: Final = 86_400_000_000
_MAX_SCALE: Final = 16_383
_MAX_DIGITS: Final = 4_000  # beyond about 4,300 Python's int() refuses text


def _unscaled(digits: bytes) -> bytes:
    number = int(digits) if len(digits) < _MAX_DIGITS else int(Decimal(digits.decode()))
    size = (number if number >= 0 else ~number).bit_length() // 8 + 1
    return b2a_base64(number.to_bytes(size, "big", signed=True), newline=False)


def _scaled(base64: str, scale: int) -> str:
    if abs(scale) > _MAX_SCALE:
        raise ValueError(f"a scale of {scale}")
    number = Decimal(int.from_bytes(b64decode(base64, validate=True), "big", signed=True))
    sign, digits, _ = number.as_tuple()
    return format(Decimal((sign, digits, -scale)), "f")


def decimal(v: bytes, scale: int) -> bytes:
    """A number of fixed scale: its unscaled integer, big-endian two's complement, in base64."""
    if v in _SPECIAL_DECIMALS:
        return _SPECIAL_DECIMALS[v]
    digits = v.replace(b".", b"") if scale >= 0 else v[:scale] or b"0"
    return b'"%b"' % _unscaled(digits)


def variable_decimal(v: bytes) -> bytes:
    """A number without a declared scale: ``{"scale":n,"value":"…"}``, trailing zeros of the fraction gone."""
    if v in _SPECIAL_DECIMALS:
        return _SPECIAL_DECIMALS[v]
    whole, _, fraction = v.partition(b".")
    fraction = fraction.rstrip(b"0")
    return b'{"scale":%d,"value":"%b"}' % (len(fraction), _unscaled(whole + fraction))


def load_decimal(rendered: Any, scale: int | None) -> str:
    """The text of a rendered number; `scale` None: one without a declared scale."""
    if isinstance(rendered, str):
        if rendered in _DECIMAL_TEXTS:
            return _DECIMAL_TEXTS[rendered]
        return _scaled(rendered, scale or 0)
    return _scaled(rendered["value"], rendered["scale"])


def _days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar, for any year (0 = 1 BC)."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + day_of_year - 719468


def _civil_from_days(days: int) -> tuple[int, int, int]:
    era, of_era = divmod(days + 719468, 146097)
    year_of_era = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    day_of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return year_of_era + era * 400 + (month <= 2), month, day


def _year_and_era(year: int) -> tuple[int, str]:
    return (year, "") if year > 0 else (1 - year, " BC")


@lru_cache(4096)
def _days(v: bytes) -> int | None:
    if v in _SPECIAL_DATES:
        return _SPECIAL_DATES[v]
    text, _, era = v.partition(b" ")
    year, month, day = map(int, text.split(b"-"))
    civil = (1 - year if era else year, month, day)
    days = _days_from_civil(*civil)
    return days if _civil_from_days(days) == civil else None


def date(v: bytes) -> bytes:
    """Days since 1970-01-01; null for a date that is none (``0000-00-00``, ``2023-02-30``)."""
    days = _days(v)
    return b"null" if days is None else b"%d" % days


def load_date(days: int | str) -> str:
    """The date of a number of days since 1970-01-01."""
    if isinstance(days, str):
        return days
    if days in _DATE_TEXTS:
        return _DATE_TEXTS[days]
    year, month, day = _civil_from_days(days)
    year, era = _year_and_era(year)
    return f"{year:04}-{month:02}-{day:02}{era}"


def _time(v: bytes) -> int:
    """Microseconds of ``HH:MM:SS[.ffffff]``; MySQL's may be negative, and have more than a day."""
    if v[:1] == b"-":
        return -_time(v[1:])
    if v[2:3] != b":":
        hours, _, rest = v.partition(b":")
        return int(hours) * 3_600_000_000 + _time(b"00:" + rest)
    fraction = int(v[9:].ljust(6, b"0")) if len(v) > 8 else 0
    return (int(v[:2]) * 3600 + int(v[3:5]) * 60 + int(v[6:8])) * 1_000_000 + fraction


def _time_text(microseconds: int) -> str:
    if microseconds < 0:
        return f"-{_time_text(-microseconds)}"
    seconds, fraction = divmod(microseconds, 1_000_000)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{fraction:06}".rstrip("0") if fraction else text


def time_milliseconds(v: bytes) -> bytes:
    """Milliseconds of the day, for a precision up to 3."""
    return b"%d" % (_time(v) // 1000)


def time_microseconds(v: bytes) -> bytes:
    """Microseconds of the day."""
    return b"%d" % _time(v)


def load_time(number: int, precision: int | None) -> str:
    """The time of a number of milliseconds (precision up to 3) or microseconds."""
    return _time_text(number * 1000 if _in_milliseconds(precision) else number)


_ZONED: Final = re.compile(rb"(.*)([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?")


def timetz(v: bytes) -> bytes:
    """The same moment of the day in UTC, with as few digits as it needs."""
    matched = _ZONED.fullmatch(v)
    if matched is None:
        raise ValueError("no time with time zone")
    text, sign, hours, minutes, seconds = matched.groups(b"0")
    offset = (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * 1_000_000
    moment = _time(text)
    if offset:
        moment = (moment + (offset if sign == b"-" else -offset)) % _DAY
    return b'"%bZ"' % _time_text(moment).encode()


def load_timetz(rendered: str) -> str:
    """A time in UTC as PostgreSQL prints it."""
    return rendered.replace("Z", "+00")


def _timestamp(v: bytes, unit: int) -> bytes:
    """Units of so many microseconds since 1970 of ``YYYY-MM-DDTHH:MM:SS[.f][ BC]``."""
    if v in _SPECIAL_TIMESTAMPS:
        return b"%d" % _SPECIAL_TIMESTAMPS[v]
    day, _, moment = v.partition(b"T")
    if moment[-2:] == b"BC":
        day, moment = day + b" BC", moment[:-3]
    days = _days(day)
    return b"null" if days is None else b"%d" % ((days * _DAY + _time(moment)) // unit)


def timestamp_milliseconds(v: bytes) -> bytes:
    """Milliseconds since 1970, for a precision up to 3; null as :func:`date`."""
    return _timestamp(v, 1000)


def timestamp_microseconds(v: bytes) -> bytes:
    """Microseconds since 1970; null as :func:`date`."""
    return _timestamp(v, 1)


def load_timestamp(number: int | str, precision: int | None) -> str:
    """The timestamp of a number of milliseconds (precision up to 3) or microseconds since 1970."""
    if isinstance(number, str):
        return number
    if number in _TIMESTAMP_TEXTS:
        return _TIMESTAMP_TEXTS[number]
    days, moment = divmod(number * 1000 if _in_milliseconds(precision) else number, _DAY)
    year, month, day = _civil_from_days(days)
    year, era = _year_and_era(year)
    return f"{year:04}-{month:02}-{day:02}T{_time_text(moment)}{era}"


def timestamptz(v: bytes, precision: int) -> bytes:
    """ISO 8601 in UTC, the fraction padded to `precision` digits, years as Java prints them."""
    if v in _SPECIAL_TIMESTAMPS:
        return b'"%b"' % v
    if v.startswith(_ZERO.encode()):
        return b"null"
    day, _, moment = v.partition(b"T")
    moment, _, era = moment.partition(b"Z")
    if era:
        year, _, rest = day.partition(b"-")
        number = 1 - int(year)
        day = b"%b%04d-%b" % (b"-" if number < 0 else b"", -number, rest)
    elif day[4:5] != b"-":
        day = b"+" + day
    if precision:
        moment = moment[:8] + b"." + moment[9:].ljust(precision, b"0")
    return b'"%bT%bZ"' % (day, moment)


def load_timestamptz(rendered: str) -> str:
    """The canonical text of a rendered timestamp with time zone."""
    day, found, moment = rendered.partition("T")
    if not found or day == _ZERO:
        return rendered
    moment = moment[:-1]
    if "." in moment:
        moment = moment.rstrip("0").rstrip(".")
    year, month, day_of_month = day.rsplit("-", 2)
    number, era = _year_and_era(int(year))
    return f"{number:04}-{month}-{day_of_month}T{moment}Z{era}"


_WRAP: Final = 1 << 64


def unsigned(v: bytes) -> bytes:
    """An unsigned number of 64 bits as a signed one, which wraps."""
    number = int(v)
    return b"%d" % (number - _WRAP if number >= _WRAP // 2 else number)


def load_unsigned(number: int) -> int:
    """The reverse of :func:`unsigned`."""
    return number + _WRAP if number < 0 else number


def little_endian(v: bytes) -> bytes:
    """A big-endian number's bytes the other way round, in base64."""
    return b'"%b"' % b2a_base64(v[::-1], newline=False)


def load_little_endian(rendered: str) -> bytes:
    """The reverse of :func:`little_endian`."""
    return a2b_base64(rendered)[::-1]


def bit(v: bytes) -> bytes:
    """Of a single one, whether it is set."""
    return b"true" if v == b"1" else b"false"


def bits(v: bytes) -> bytes:
    """Zeros and ones as the number that they are: its bytes, little-endian, as few as it has, in base64."""
    number = int(v or b"0", 2)
    return little_endian(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def load_bits(rendered: Any, precision: int | None) -> str:
    """The zeros and ones of a rendered bit string of `precision` bits."""
    number = rendered if isinstance(rendered, bool) else int.from_bytes(load_little_endian(rendered), "big")
    return f"{number:0{precision or 1}b}"


def _in_milliseconds(precision: int | None) -> bool:
    return precision is not None and precision <= 3


def placeholder(type_: LogicalType) -> bytes:
    """The JSON that stands for a value of `type_` that was not sent and could not be read again."""
    text = PLACEHOLDER.encode()
    if type_.kind is Kind.BYTES:
        return b'"%b"' % b2a_base64(text, newline=False)
    if type_.kind is not Kind.ARRAY:
        return b'"%b"' % text
    assert type_.element is not None
    match type_.element.kind:
        case Kind.INT16 | Kind.INT32 | Kind.INT64 | Kind.DATE:
            return b"[" + b",".join(b"%d" % byte for byte in text) + b"]"
        case Kind.UUID:
            # Java's UUID.nameUUIDFromBytes
            name = UUID(bytes=md5(text, usedforsecurity=False).digest(), version=3)
            return b'["%b"]' % str(name).encode()
    return b"[" + placeholder(type_.element) + b"]"


def fabricated(type_: LogicalType) -> bytes:
    """The JSON of the zero that stands for a NOT NULL column which an old image does not have."""
    match type_.kind:
        case Kind.BOOLEAN:
            return b"false"
        case Kind.BITS if type_.precision == 1:
            return b"false"
        case Kind.INT16 | Kind.INT32 | Kind.INT64 | Kind.UINT64 | Kind.FLOAT32 | Kind.FLOAT64:
            return b"0"
        case Kind.DATE | Kind.TIME | Kind.TIMESTAMP:
            return b"0"
        case Kind.DECIMAL:
            return variable_decimal(b"0") if type_.scale is None else decimal(b"0", 0)
        case Kind.TIMETZ:
            return timetz(b"00:00:00+00")
        case Kind.TIMESTAMPTZ:
            return timestamptz(b"1970-01-01T00:00:00Z", 6 if type_.precision is None else type_.precision)
        case Kind.JSON:
            return b'"{}"'
        case Kind.GEOMETRY | Kind.EWKB:
            return geometries.EMPTY
        case Kind.POINT | Kind.COORDINATES:
            return geometries.coordinates(b"(0,0)")
        case Kind.ARRAY:
            return b"[]"
    return b'""'
