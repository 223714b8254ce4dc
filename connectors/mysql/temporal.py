"""Dates and times: the servers' packed forms to canonical text. Zero and partial dates are kept as they are.

Fractions lose their trailing zeros, as everywhere on the log. Everything raises ValueError for what is no time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

FRACTION_BYTES: Final = (0, 1, 1, 2, 2, 3, 3)
"""How many bytes the fraction has, by the number of its digits."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def date_text(year: int, month: int, day: int) -> str:
    """``2026-01-31``, ``0000-00-00``."""
    if year > 9999 or month > 12 or day > 31:
        raise ValueError
    return f"{year:04}-{month:02}-{day:02}"


def clock_text(packed: int) -> str:
    """A time of day, packed into 17 bits."""
    hour, minute, second = packed >> 12, packed >> 6 & 63, packed & 63
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError
    return f"{hour:02}:{minute:02}:{second:02}"


def day_text(packed: int) -> str:
    """The date of a DATETIME, packed into 22 bits."""
    return date_text((packed >> 5) // 13, (packed >> 5) % 13, packed & 31)


def fraction_text(units: int, size: int) -> str:
    """``.5``, or nothing: `units` of a hundredth, or smaller by as much as there are more bytes than one."""
    microseconds = units * 10 ** (6 - 2 * size)
    if microseconds >= 1_000_000:
        raise ValueError
    return f".{microseconds:06}".rstrip("0") if microseconds else ""


def datetime_text(packed: int, fraction: int = 0, size: int = 3) -> str:
    """``2026-01-31T12:00:00.5``; `packed` are the 39 bits without sign."""
    return f"{day_text(packed >> 17)}T{clock_text(packed & 0x1FFFF)}{fraction_text(fraction, size)}"


def timestamp_text(seconds: int, fraction: int = 0, size: int = 3) -> str:
    """``2026-01-31T12:00:00.5Z``; the zero of a TIMESTAMP is a zero date."""
    if not seconds and not fraction:
        return "0000-00-00T00:00:00Z"
    moment = _EPOCH + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction_text(fraction, size)}Z"


def time_text(packed: int, fraction: int = 0, size: int = 3, *, negative: bool = False) -> str:
    """``-838:59:59.5``; `packed` are the hours (10 bits), minutes and seconds without sign."""
    hour, minute, second = packed >> 12 & 1023, packed >> 6 & 63, packed & 63
    if minute > 59 or second > 59:
        raise ValueError
    return f"{'-' * negative}{hour:02}:{minute:02}:{second:02}{fraction_text(fraction, size)}"
