"""MySQL's newer message format (libs/mysql/serialization), of which the binlog has one message: a tagged GTID.

Integers have a variable length: as many ones at the low end of the first byte as bytes follow it. A message is a list
of fields, each with its number before it, in order; those that have their usual value are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from connectors.mysql.cursor import Cursor


@dataclass(frozen=True, slots=True)
class TaggedGtid:
    """The fields of the message that we read."""

    flags: int
    uuid: UUID
    number: int
    tag: str
    last_committed: int
    sequence_number: int
    immediate_commit_time: int
    original_commit_time: int


def _unsigned(c: Cursor) -> int:
    first = c.integer(1)
    more = (~first & first + 1).bit_length() - 1  # the ones at the low end
    rest = c.integer(more)
    return rest if more == 8 else first >> more + 1 | rest << 7 - more


def _signed(c: Cursor) -> int:
    number = _unsigned(c)
    return ~(number >> 1) if number & 1 else number >> 1


_KNOWN: Final = 10


def decode_tagged_gtid(c: Cursor) -> TaggedGtid:
    """Decode the message that `c` has, nothing else. Raises DecodeError, whatever the bytes."""
    whole = c.left
    version, size, needed = _unsigned(c), _unsigned(c), _unsigned(c)
    if version != 1 or size != whole or needed > _KNOWN:
        raise c.error(f"a message of {size} bytes in version {version}, field {needed} of which may not be ignored")
    numbers: dict[int, int] = {}
    uuid, tag = UUID(int=0), ""
    while c.left:
        field = _unsigned(c)
        if field > _KNOWN:
            c.rest()
        elif field == 1:
            digits = [_unsigned(c) for _ in range(16)]
            if max(digits) > 255:
                raise c.error("a UUID of numbers beyond a byte")
            uuid = UUID(bytes=bytes(digits))
        elif field == 3:
            tag = c.text(_unsigned(c))
        else:
            numbers[field] = _signed(c) if field in (2, 4, 5) else _unsigned(c)
    immediate = numbers.get(6, 0)
    return TaggedGtid(
        numbers.get(0, 0),
        uuid,
        numbers.get(2, 0),
        tag,
        numbers.get(4, 0),
        numbers.get(5, 0),
        immediate,
        numbers.get(7, immediate),
    )
