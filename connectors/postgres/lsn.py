"""Log sequence numbers in the server's notation."""

from __future__ import annotations

from cdc.errors import DecodeError


def parse_lsn(text: str) -> int:
    """``16/B374D848`` as a number. Raises DecodeError when `text` is no LSN."""
    high, separator, low = text.partition("/")
    try:
        if not separator:
            raise ValueError
        return int(high, 16) << 32 | int(low, 16)
    except ValueError as error:
        raise DecodeError(f"{text[:40]!r} is not an LSN") from error


def format_lsn(lsn: int) -> str:
    """The number as the server prints it: ``16/B374D848``."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
