"""Rows of prepared XA transactions: they are in the binlog when it is prepared, and count when it is committed.

Until then they are kept on the log (design, "MySQL and MariaDB"), so that the position can pass them.
"""

from __future__ import annotations

import msgspec

from cdc.errors import DecodeError
from cdc.event import Operation
from connectors.mysql.events import Rows, XaId
from connectors.mysql.tablemap import TableMap


class _Part(msgspec.Struct, array_like=True):
    """A rows event with the map of its table. `before_lacks` and `after_lacks` are bitmaps of the columns that its
    images have not; empty: they have all."""

    table: TableMap
    operation: str
    columns: int
    partial: bool
    position: int
    body: bytes
    before_lacks: bytes = b""
    after_lacks: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Part)


def transaction_name(xa: XaId) -> str:
    """What a prepared transaction is called on the log: its identifier in hexadecimal digits."""
    return f"{xa.global_id.hex()}.{xa.branch.hex()}.{xa.format_id}"


def pack(table: TableMap, rows: Rows, position: int) -> bytes:
    """A rows event as it is kept. `position`: where it ends in its binlog file."""
    lacks = [_lacks(rows.columns, image) for image in (rows.before, rows.after)]
    return _encode(_Part(table, rows.operation.value, rows.columns, rows.partial, position, rows.body, *lacks))


def _lacks(columns: int, image: int | None) -> bytes:
    lacking = 0 if image is None else ((1 << columns) - 1) & ~image
    return lacking.to_bytes((lacking.bit_length() + 7) // 8, "little")


def unpack(part: bytes) -> tuple[TableMap, Rows, int]:
    """The reverse of :func:`pack`. Raises DecodeError."""
    try:
        kept = _decoder.decode(part)
        operation = Operation(kept.operation)
    except (msgspec.MsgspecError, ValueError) as error:
        raise DecodeError("the rows of a prepared transaction on the log cannot be read") from error
    everything = (1 << kept.columns) - 1
    before = None if operation is Operation.CREATE else everything & ~int.from_bytes(kept.before_lacks, "little")
    after = None if operation is Operation.DELETE else everything & ~int.from_bytes(kept.after_lacks, "little")
    rows = Rows(operation, kept.table.table_id, True, kept.columns, before, after, kept.partial, kept.body)
    return kept.table, rows, kept.position
