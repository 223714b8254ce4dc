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
    """A rows event with the map of its table; its images have all columns."""

    table: TableMap
    operation: str
    columns: int
    partial: bool
    position: int
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Part)


def transaction_name(xa: XaId) -> str:
    """What a prepared transaction is called on the log: its identifier in hexadecimal digits."""
    return f"{xa.global_id.hex()}.{xa.branch.hex()}.{xa.format_id}"


def pack(table: TableMap, rows: Rows, position: int) -> bytes:
    """A rows event as it is kept. `position`: where it ends in its binlog file."""
    return _encode(_Part(table, rows.operation.value, rows.columns, rows.partial, position, rows.body))


def unpack(part: bytes) -> tuple[TableMap, Rows, int]:
    """The reverse of :func:`pack`. Raises DecodeError."""
    try:
        kept = _decoder.decode(part)
        operation = Operation(kept.operation)
    except (msgspec.MsgspecError, ValueError) as error:
        raise DecodeError("the rows of a prepared transaction on the log cannot be read") from error
    everything = (1 << kept.columns) - 1
    before = None if operation is Operation.CREATE else everything
    after = None if operation is Operation.DELETE else everything
    table_id = kept.table.table_id
    return (
        kept.table,
        Rows(operation, table_id, True, kept.columns, before, after, kept.partial, kept.body),
        kept.position,
    )
