"""Events of the binlog: bytes to the classes of :mod:`connectors.mysql.events`.

https://dev.mysql.com/doc/dev/mysql-server/latest/namespacemysql_1_1binlog_1_1event.html and, for MariaDB's own,
https://mariadb.com/kb/en/replication-protocol/. An event that is not known is an error, unless the server says that
it may be passed over.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final
from uuid import UUID

from cdc.errors import DecodeError
from cdc.event import Operation
from connectors.mysql.charsets import charset
from connectors.mysql.cursor import Cursor
from connectors.mysql.events import (
    BinlogEvent,
    EventType,
    FormatDescription,
    GtidEvent,
    Header,
    Heartbeat,
    Incident,
    MariadbGtidEvent,
    MariadbGtidList,
    Passed,
    Payload,
    PreviousGtids,
    Query,
    Rotate,
    Rows,
    XaId,
    XaPrepare,
    Xid,
)
from connectors.mysql.gtid import Gtid, GtidSet, MariadbGtid, MariadbPosition, Source
from connectors.mysql.serialization import decode_tagged_gtid
from connectors.mysql.tablemap import decode_table_map

HEADER_SIZE: Final = 19
CHECKSUM_SIZE: Final = 4
MAXIMUM_EVENT_SIZE: Final = 1 << 30
"""The servers' greatest ``max_allowed_packet``."""
_IGNORABLE: Final = 0x80
_IN_USE: Final = 0x01

_HEADER: Final = struct.Struct("<IBIIIH")


def decode_header(event: bytes) -> Header:
    """Decode the header of an event. Raises DecodeError when there is none, or the size cannot be."""
    if len(event) < HEADER_SIZE:
        raise DecodeError(f"a binlog event of {len(event)} bytes")
    header = Header._make(_HEADER.unpack_from(event))
    if not HEADER_SIZE <= header.size <= MAXIMUM_EVENT_SIZE + (1 << 20):
        raise DecodeError(f"a binlog event of type {header.type} that claims to have {header.size} bytes")
    return header


def decode_event(event: bytes, *, checksum: bool, mariadb: bool) -> tuple[Header, BinlogEvent]:
    """Decode one event, of which nothing is missing and which nothing follows.

    `checksum` tells whether it ends with one, `mariadb` whose it is: as the last format description has it. Raises
    DecodeError, whatever the bytes: also where the checksum is wrong.
    """
    header = decode_header(event)
    if header.size != len(event):
        raise DecodeError(f"a binlog event of type {header.type} has {len(event)} bytes instead of {header.size}")
    if header.type == EventType.FORMAT_DESCRIPTION:
        return header, _format_description(event)
    end = _checked(event, header) if checksum else len(event)
    name, reader = _READERS.get(header.type, ("", None))
    if reader is None:
        if header.flags & _IGNORABLE or header.type in _PASSED:
            return header, Passed(header.type)
        raise DecodeError(f"unknown binlog event of type {header.type} that may not be ignored")
    cursor = _EventCursor(event, end, name, header, mariadb)
    decoded = reader(cursor)
    cursor.finish()
    return header, decoded


class _EventCursor(Cursor):
    """The body of an event, and what is not in it."""

    __slots__ = ("header", "mariadb")

    def __init__(self, event: bytes, end: int, what: str, header: Header, mariadb: bool) -> None:
        super().__init__(event, what, HEADER_SIZE, end)
        self.header = header
        self.mariadb = mariadb


def _checked(event: bytes, header: Header) -> int:
    """Where the body of an event ends whose checksum is right."""
    end = len(event) - CHECKSUM_SIZE
    if end < HEADER_SIZE:
        raise DecodeError(f"a binlog event of type {header.type} has no room for its checksum")
    if zlib.crc32(memoryview(event)[:end]) != int.from_bytes(event[end:], "little"):
        raise DecodeError(f"the checksum of a binlog event of type {header.type} is wrong: it was damaged on its way")
    return end


def _format_description(event: bytes) -> FormatDescription:
    """Its checksum, of which it alone tells whether there is one, is made before the flag "in use" is set."""
    cursor = Cursor(event, "FORMAT_DESCRIPTION event", HEADER_SIZE, len(event) - CHECKSUM_SIZE)
    version = cursor.integer(2)
    server = cursor.take(50).rstrip(b"\0").decode("ascii", "replace")
    created = cursor.integer(4)
    if version != 4 or cursor.integer(1) != HEADER_SIZE:
        raise cursor.error(f"binlog version {version} of server {server}")
    types = cursor.rest()
    algorithm = types[-1] if types else 255
    if algorithm not in (0, 1):
        raise cursor.error(f"unknown checksum algorithm {algorithm}")
    if algorithm == 1:
        flags = event[17] & ~_IN_USE
        expected = zlib.crc32(b"".join((event[:17], bytes([flags]), event[18 : cursor.end])))
        if expected != int.from_bytes(event[cursor.end :], "little"):
            raise cursor.error("the checksum is wrong")
    return FormatDescription(version, server, created, algorithm == 1)


def _rotate(c: Cursor) -> Rotate:
    position = c.integer(8)
    return Rotate(position, c.text(c.left))


_GTID: Final = struct.Struct("<B16sQ")
_LOGICAL_CLOCK: Final = struct.Struct("<Bqq")
_source: Final = lru_cache(256)(lambda uuid: Source(UUID(bytes=uuid)))


def _gtid(c: Cursor) -> GtidEvent:
    flags, uuid, number = _GTID.unpack(c.take(_GTID.size))
    last_committed = sequence = immediate = original = 0
    if c.left >= _LOGICAL_CLOCK.size and c.content[c.place] == 2:
        _, last_committed, sequence = _LOGICAL_CLOCK.unpack(c.take(_LOGICAL_CLOCK.size))
        if c.left >= 7:
            immediate = original = c.integer(7)
            if immediate >> 55:
                immediate &= (1 << 55) - 1
                original = c.integer(7)
    c.rest()  # length, server versions and what later servers add
    return GtidEvent(Gtid(_source(uuid), number), flags, last_committed, sequence, immediate, original)


def _anonymous_gtid(c: Cursor) -> GtidEvent:
    return _gtid(c)._replace(gtid=None)


def _tagged_gtid(c: Cursor) -> GtidEvent:
    fields = decode_tagged_gtid(c)
    gtid = Gtid(Source(fields.uuid, fields.tag), fields.number)
    return GtidEvent(
        gtid,
        fields.flags,
        fields.last_committed,
        fields.sequence_number,
        fields.immediate_commit_time,
        fields.original_commit_time,
    )


def _previous_gtids(c: Cursor) -> PreviousGtids:
    return PreviousGtids(GtidSet.decode(c.rest()))


_STANDALONE: Final = 1
_GROUP_COMMIT_ID: Final = 2
_PREPARED_XA: Final = 64
_COMPLETED_XA: Final = 128
_EXTRA_ENGINES: Final = 1
_EXTRA_ALTER: Final = 4 | 8
_EXTRA_NOT_DONE: Final = 2 | 8
_EXTRA_THREAD: Final = 16


def _mariadb_gtid(c: _EventCursor) -> MariadbGtidEvent:
    sequence, domain, flags = c.integer(8), c.integer(4), c.integer(1)
    if flags & _GROUP_COMMIT_ID:
        c.take(8)
    xa = None
    if flags & (_PREPARED_XA | _COMPLETED_XA):
        format_id, global_size, branch_size = c.integer(4, signed=True), c.integer(1), c.integer(1)
        xa = XaId(format_id, c.take(global_size), c.take(branch_size))
    thread_id = extra = 0
    if c.left and (extra := c.integer(1)):
        if extra & _EXTRA_ENGINES and c.left:
            c.take(1)
        if extra & _EXTRA_ALTER and c.left:
            c.take(8)
        if extra & _EXTRA_THREAD and c.left >= 4:
            thread_id = c.integer(4)
    c.rest()  # padding, and what later servers add
    prepared, completed = bool(flags & _PREPARED_XA), bool(flags & _COMPLETED_XA)
    gtid = MariadbGtid(domain, c.header.server_id, sequence)
    return MariadbGtidEvent(
        gtid, bool(flags & _STANDALONE), prepared, completed, xa, thread_id, bool(extra & _EXTRA_NOT_DONE)
    )


def _mariadb_gtid_list(c: Cursor) -> MariadbGtidList:
    count = c.integer(4) & (1 << 28) - 1
    if count * 16 != c.left:
        if count or c.left > 2:  # an empty list is padded
            raise c.error(f"{count} GTIDs announced")
        c.rest()
    gtids = [MariadbGtid(c.integer(4), c.integer(4), c.integer(8)) for _ in range(count)]
    return MariadbGtidList(MariadbPosition.of(gtids))


_SQL_MODE: Final = 1
_CHARSET: Final = 4
_VARIABLES: Final = {0: 4, 1: 8, 3: 4, 4: 6}
"""Sizes of the status variables that may stand before what we want of them, as far as they have one."""


@lru_cache(256)
def _status(variables: bytes) -> tuple[int, int]:
    """SQL mode, and the collation of the statement's text: nearly always the same."""
    c = Cursor(variables, "status variables of a QUERY event")
    sql_mode, collation = 0, 0
    while c.left:
        kind = c.integer(1)
        if kind == _SQL_MODE:
            sql_mode = c.integer(8)
        elif kind == _CHARSET:
            collation = c.integer(2)
            c.take(4)
        elif kind in _VARIABLES:
            c.take(_VARIABLES[kind])
        elif kind in (2, 6):  # the catalogue: its length, itself, and in the older form a zero
            c.take(c.integer(1) + (kind == 2))
        else:
            break
    return sql_mode, collation


_QUERY: Final = struct.Struct("<IIBHH")


def _query_head(c: Cursor, more: int = 0) -> tuple[int, int, int, str, int, int]:
    """`more`: how many bytes else the event's fixed part has."""
    thread_id, seconds, schema_size, error_code, status_size = _QUERY.unpack(c.take(_QUERY.size))
    c.take(more)
    sql_mode, collation = _status(c.take(status_size))
    schema = c.text(schema_size)
    if c.take(1) != b"\0":
        raise c.error("the name of the schema does not end")
    return thread_id, seconds, error_code, schema, sql_mode, collation


def _sql(text: bytes, collation: int) -> str:
    """The statement; one that is not in its character set is shown as far as it can be, rows never depend on it."""
    if collation:
        try:
            return charset(collation).decode(text)
        except UnicodeDecodeError:
            pass
    return text.decode("utf-8", "replace")


def _query(c: Cursor, more: int = 0) -> Query:
    thread_id, seconds, error_code, schema, sql_mode, collation = _query_head(c, more)
    return Query(thread_id, seconds, error_code, schema, _sql(c.rest(), collation), sql_mode)


def _query_compressed(c: Cursor) -> Query:
    thread_id, seconds, error_code, schema, sql_mode, collation = _query_head(c)
    return Query(thread_id, seconds, error_code, schema, _sql(_inflated(c), collation), sql_mode)


def _inflated(c: Cursor) -> bytes:
    """MariaDB: all that is left, uncompressed: a byte with the size of the length, the length, zlib's data."""
    first = c.integer(1)
    if first & 0xF0 != 0x80:
        raise c.error(f"unknown compression {first:#x}")
    length = c.big(first & 0x07)
    return inflate(c, length, zlib.MAX_WBITS)


def inflate(c: Cursor, length: int, window_bits: int) -> bytes:
    """What is left of zlib's data, which must be `length` bytes."""
    if length > MAXIMUM_EVENT_SIZE:
        raise c.error(f"compressed data that claim to be {length} bytes")
    stream = zlib.decompressobj(window_bits)
    try:
        content = stream.decompress(c.rest(), length + 1)
    except zlib.error as error:
        raise c.error("compressed data are damaged") from error
    if len(content) != length or not stream.eof or stream.unused_data:
        raise c.error(f"compressed data are not the {length} bytes that they claim to be")
    return content


def _xid(c: Cursor) -> Xid:
    return Xid(c.integer(8))


def _xa_prepare(c: Cursor) -> XaPrepare:
    one_phase, format_id = bool(c.integer(1)), c.integer(4, signed=True)
    global_size, branch_size = c.integer(4), c.integer(4)
    return XaPrepare(one_phase, XaId(format_id, c.take(global_size), c.take(branch_size)))


def _heartbeat(c: _EventCursor) -> Heartbeat:
    return Heartbeat(c.text(c.left), c.header.position)


def _heartbeat_v2(c: Cursor) -> Heartbeat:
    name, position = "", 0
    while c.left and (kind := c.length()):
        field = Cursor(c.take(c.length()), c.what)
        if kind == 1:
            name = field.text(field.left)
        elif kind == 2:
            position = field.length()
    return Heartbeat(name, position)


def _incident(c: Cursor) -> Incident:
    number = c.integer(2)
    message = c.take(c.integer(1)).decode("utf-8", "replace") if c.left else ""
    return Incident(number, message)


def _payload(c: Cursor) -> Payload:
    fields = {}
    while kind := c.length():
        field = Cursor(c.take(c.length()), c.what)
        fields[kind] = field.length()
    algorithm, size = fields.get(2), fields.get(1)
    if algorithm not in (0, 255):
        raise c.error(f"unknown compression {algorithm}")
    if size != c.left or 3 not in fields:
        raise c.error(f"{size} bytes of content announced, {c.left} left")
    return Payload(algorithm == 0, fields[3], c.view())


_END_OF_STATEMENT: Final = 1
_MOST_COLUMNS: Final = 4096
"""The servers' limit."""
_ROWS: Final = struct.Struct("<IHH")


def _rows(operation: Operation, *, version: int, compressed: bool = False, partial: bool = False) -> Reader:
    """The reader of rows events."""

    def read(c: Cursor) -> Rows:
        low, high, flags = _ROWS.unpack(c.take(_ROWS.size))
        table_id = low | high << 32
        if version == 2:
            c.take(c.integer(2) - 2)  # partitions
        count = c.length()
        if count > _MOST_COLUMNS:
            raise c.error(f"{count} columns")
        everything = (1 << count) - 1
        before = None if operation is Operation.CREATE else c.bits(count) & everything
        after = None if operation is Operation.DELETE else c.bits(count) & everything
        body = _inflated(c) if compressed else c.rest()
        return Rows(operation, table_id, bool(flags & _END_OF_STATEMENT), count, before, after, partial, body)

    return read


Reader = Callable[[_EventCursor], BinlogEvent]

_CREATE, _UPDATE, _DELETE = Operation.CREATE, Operation.UPDATE, Operation.DELETE
_BY_TYPE: Final[dict[int, Reader]] = {
    EventType.QUERY: _query,
    EventType.EXECUTE_LOAD_QUERY: lambda c: _query(c, 13),  # LOAD DATA, and where in it the file is named
    EventType.ROTATE: _rotate,
    EventType.XID: _xid,
    EventType.TABLE_MAP: lambda c: decode_table_map(c.rest(), mariadb=c.mariadb),
    EventType.WRITE_ROWS_V1: _rows(_CREATE, version=1),
    EventType.UPDATE_ROWS_V1: _rows(_UPDATE, version=1),
    EventType.DELETE_ROWS_V1: _rows(_DELETE, version=1),
    EventType.INCIDENT: _incident,
    EventType.HEARTBEAT: _heartbeat,
    EventType.WRITE_ROWS: _rows(_CREATE, version=2),
    EventType.UPDATE_ROWS: _rows(_UPDATE, version=2),
    EventType.DELETE_ROWS: _rows(_DELETE, version=2),
    EventType.GTID: _gtid,
    EventType.ANONYMOUS_GTID: _anonymous_gtid,
    EventType.PREVIOUS_GTIDS: _previous_gtids,
    EventType.XA_PREPARE: _xa_prepare,
    EventType.PARTIAL_UPDATE_ROWS: _rows(_UPDATE, version=2, partial=True),
    EventType.TRANSACTION_PAYLOAD: _payload,
    EventType.HEARTBEAT_V2: _heartbeat_v2,
    EventType.GTID_TAGGED: _tagged_gtid,
    EventType.MARIADB_GTID: _mariadb_gtid,
    EventType.MARIADB_GTID_LIST: _mariadb_gtid_list,
    EventType.QUERY_COMPRESSED: _query_compressed,
    EventType.WRITE_ROWS_COMPRESSED_V1: _rows(_CREATE, version=1, compressed=True),
    EventType.UPDATE_ROWS_COMPRESSED_V1: _rows(_UPDATE, version=1, compressed=True),
    EventType.DELETE_ROWS_COMPRESSED_V1: _rows(_DELETE, version=1, compressed=True),
    EventType.WRITE_ROWS_COMPRESSED: _rows(_CREATE, version=2, compressed=True),
    EventType.UPDATE_ROWS_COMPRESSED: _rows(_UPDATE, version=2, compressed=True),
    EventType.DELETE_ROWS_COMPRESSED: _rows(_DELETE, version=2, compressed=True),
}
_READERS: Final = {type_: (f"{EventType(type_).name} event", reader) for type_, reader in _BY_TYPE.items()}
_PASSED: Final = frozenset(
    {
        EventType.STOP,
        EventType.INTVAR,  # these three say what a statement means that follows, and which is looked at by itself
        EventType.RAND,
        EventType.USER_VAR,
        EventType.APPEND_BLOCK,  # and these the content of a file, of LOAD DATA
        EventType.DELETE_FILE,
        EventType.BEGIN_LOAD_QUERY,
        EventType.IGNORABLE,
        EventType.ROWS_QUERY,
        EventType.TRANSACTION_CONTEXT,
        EventType.VIEW_CHANGE,
        EventType.ANNOTATE_ROWS,
        EventType.BINLOG_CHECKPOINT,
    }
)
