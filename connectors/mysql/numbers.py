"""Numbers: MySQL's binary decimals, and floating point as the server prints it."""

from __future__ import annotations

import struct
from typing import Final

_BYTES: Final = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
"""How many bytes so many decimal digits need, up to nine, which are a group."""


def groups(precision: int, scale: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Bytes and digits of each group before and after the point."""
    whole, fraction = precision - scale, scale
    before = [(_BYTES[whole % 9], whole % 9)] * (whole % 9 > 0) + [(4, 9)] * (whole // 9)
    after = [(4, 9)] * (fraction // 9) + [(_BYTES[fraction % 9], fraction % 9)] * (fraction % 9 > 0)
    return before, after


def decimal_size(precision: int, scale: int) -> int:
    """How many bytes a decimal has."""
    before, after = groups(precision, scale)
    return sum(size for size, _ in before + after)


def decimal_text(content: bytes, precision: int, scale: int) -> str:
    """A decimal's digits. Raises ValueError where `content` is none of `precision` and `scale`."""
    before, after = groups(precision, scale)
    if len(content) != sum(size for size, _ in before + after):
        raise ValueError
    negative = not content[0] & 0x80
    number = bytes([content[0] ^ 0x80]) + content[1:]
    if negative:
        number = bytes(byte ^ 0xFF for byte in number)
    digits = ""
    place = 0
    for size, count in before + after:
        group = int.from_bytes(number[place : place + size], "big")
        if group >= 10**count:
            raise ValueError
        digits += f"{group:0{count}}"
        place += size
    whole = digits[: precision - scale].lstrip("0") or "0"
    fraction = f".{digits[precision - scale :]}" if scale else ""
    return f"{'-' * negative}{whole}{fraction}"


_FIXED_DIGITS: Final = 15


def double_text(number: float) -> str:
    """The shortest digits that are this number and no other, in the server's notation."""
    text = repr(number)
    if "e" not in text and -1e15 < number < 1e15:
        return text.removesuffix(".0")
    return _notation(text)


def float_text(number: float) -> str:
    """The same for a number of single precision, of which the server itself prints six digits only."""
    for digits in (6, 7, 8):
        text = f"{number:.{digits}g}"
        if _single(float(text)) == number:
            break
    else:
        text = f"{number:.9g}"
    return _notation(repr(float(text)))


def _single(number: float) -> float:
    try:
        return struct.unpack("<f", struct.pack("<f", number))[0]  # type: ignore[no-any-return]
    except OverflowError:
        return float("inf")


def _notation(text: str) -> str:
    """Python's ``repr`` as the servers' my_gcvt has it: other limits of the fixed notation, no ``+``, no zeros."""
    sign, text = ("-", text[1:]) if text.startswith("-") else ("", text)
    if text in ("nan", "inf"):  # no server stores these
        return "NaN" if text == "nan" else f"{sign}Infinity"
    mantissa, _, exponent = text.partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    if not digits:
        return f"{sign}0"
    if point <= -_FIXED_DIGITS or (point > _FIXED_DIGITS and len(digits) <= point):
        rest = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{rest}e{point - 1}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if len(digits) <= point:
        return f"{sign}{digits}{'0' * (point - len(digits))}"
    return f"{sign}{digits[:point]}.{digits[point:]}"
