"""The record on the log: its ``cdc`` header, its key, its markers.

Every record that a sink acts on carries one binary header named ``cdc``. Big-endian, 32 bytes:

======  ====  ==============================================================================
offset  size  meaning
======  ====  ==============================================================================
0       1     layout of this header, 1
1       1     operation: ``c u d r m``, or a marker ``t`` (truncate) or ``s`` (sweep)
2       1     flags, see below
3       1     zero
4       4     ordinal of the event in its transaction, from 0
8       8     version: ``epoch << 48 | sequence``
16      8     schema id (zero in a marker of a table that has no rows yet)
24      4     where the bytes of ``after`` begin in the value
28      4     how many bytes they are; 0 = no after
======  ====  ==============================================================================

So a reader compares versions and takes the row's JSON out of the value without parsing the envelope.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import msgspec

from cdc.errors import DecodeError

HEADER: Final = "cdc"
"""Name of the header."""

LAYOUT: Final = 1
TOMBSTONE: Final = 1
"""Flag: this record is the tombstone (null value) that follows a delete, with the delete's version."""
PARTIAL: Final = 2
"""Flag: ``after`` lacks columns that the source did not send; they keep what the store holds."""
KEY_CHANGE: Final = 4
"""Flag: one half of a change of the primary key (delete of the old key, then create of the new one)."""

_LAYOUT = struct.Struct(">BcBxIQ8sII")
pack_header = _LAYOUT.pack
"""``pack_header(LAYOUT, operation, flags, ordinal, version, schema_id, after_start, after_length)``"""

TRUNCATE_KEY: Final = b'{"__cdc":"truncate"}'
SWEEP_KEY: Final = b'{"__cdc":"sweep"}'
"""Reserved record keys of the markers, one kind of key each: a sweep may not hide a truncate from compaction."""

NO_SCHEMA: Final = bytes(8)


class Header(NamedTuple):
    """The ``cdc`` header, decoded. `operation` is one byte, see :class:`cdc.event.Operation`."""

    layout: int
    operation: bytes
    flags: int
    ordinal: int
    version: int
    schema_id: bytes
    after_start: int
    after_length: int


def unpack_header(header: bytes) -> Header:
    """Decode a ``cdc`` header. Raises DecodeError when the bytes are no header of a layout we know."""
    try:
        decoded = Header._make(_LAYOUT.unpack(header))
    except struct.error as error:
        raise DecodeError(f"a cdc header has {len(header)} bytes instead of {_LAYOUT.size}") from error
    if decoded.layout != LAYOUT:
        raise DecodeError(f"cdc header of layout {decoded.layout}; this release reads layout {LAYOUT}")
    return decoded


def marker_header(operation: bytes, version: int) -> bytes:
    """The header of a truncate (``b"t"``) or sweep (``b"s"``) marker: nothing older than `version` remains."""
    return pack_header(LAYOUT, operation, 0, 0, version, NO_SCHEMA, 0, 0)


_decode_key = msgspec.json.Decoder(dict[str, object]).decode


def key_columns(key: bytes) -> dict[str, object]:
    """The columns of a record key by name, in key order. Raises DecodeError when `key` is no JSON object."""
    try:
        return _decode_key(key)
    except msgspec.MsgspecError as error:
        raise DecodeError("a record key is not a JSON object") from error
