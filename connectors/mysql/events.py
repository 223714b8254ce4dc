"""Events of the binlog of MySQL 8 and MariaDB 10.6 and later, as frozen classes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Union

from cdc.event import Operation
from connectors.mysql.gtid import Gtid, GtidSet, MariadbGtid, MariadbPosition
from connectors.mysql.tablemap import TableMap


class EventType(IntEnum):
    """The events that are known; from 160 on MariaDB's."""

    QUERY = 2
    STOP = 3
    ROTATE = 4
    INTVAR = 5
    APPEND_BLOCK = 9
    DELETE_FILE = 11
    RAND = 13
    USER_VAR = 14
    FORMAT_DESCRIPTION = 15
    XID = 16
    BEGIN_LOAD_QUERY = 17
    EXECUTE_LOAD_QUERY = 18
    TABLE_MAP = 19
    WRITE_ROWS_V1 = 23
    UPDATE_ROWS_V1 = 24
    DELETE_ROWS_V1 = 25
    INCIDENT = 26
    HEARTBEAT = 27
    IGNORABLE = 28
    ROWS_QUERY = 29
    WRITE_ROWS = 30
    UPDATE_ROWS = 31
    DELETE_ROWS = 32
    GTID = 33
    ANONYMOUS_GTID = 34
    PREVIOUS_GTIDS = 35
    TRANSACTION_CONTEXT = 36
    VIEW_CHANGE = 37
    XA_PREPARE = 38
    PARTIAL_UPDATE_ROWS = 39
    TRANSACTION_PAYLOAD = 40
    HEARTBEAT_V2 = 41
    GTID_TAGGED = 42
    ANNOTATE_ROWS = 160
    BINLOG_CHECKPOINT = 161
    MARIADB_GTID = 162
    MARIADB_GTID_LIST = 163
    QUERY_COMPRESSED = 165
    WRITE_ROWS_COMPRESSED_V1 = 166
    UPDATE_ROWS_COMPRESSED_V1 = 167
    DELETE_ROWS_COMPRESSED_V1 = 168
    WRITE_ROWS_COMPRESSED = 169
    UPDATE_ROWS_COMPRESSED = 170
    DELETE_ROWS_COMPRESSED = 171


class Header(NamedTuple):
    """What stands before each event. `timestamp` is in seconds since 1970, `position` the place after the event in its
    file, modulo 2³² (0 where the event is in none, e.g. within a compressed transaction)."""

    timestamp: int
    type: int
    server_id: int
    size: int
    position: int
    flags: int


@dataclass(frozen=True, slots=True)
class FormatDescription:
    """Begins a file: the server's version, and whether events have a checksum."""

    binlog_version: int
    server_version: str
    created: int
    checksum: bool

    @property
    def mariadb(self) -> bool:
        """Whether the server is MariaDB."""
        return "MariaDB" in self.server_version


@dataclass(frozen=True, slots=True)
class Rotate:
    """The binlog goes on in another file."""

    position: int
    name: str


class GtidEvent(NamedTuple):
    """MySQL: a transaction begins. `gtid` is None where GTIDs are off; commit times are µs since 1970."""

    gtid: Gtid | None
    flags: int
    last_committed: int
    sequence_number: int
    immediate_commit_time: int
    original_commit_time: int


@dataclass(frozen=True, slots=True)
class PreviousGtids:
    """MySQL: what the files before this one contain."""

    gtids: GtidSet


@dataclass(frozen=True, slots=True)
class XaId:
    """The identifier of an XA transaction, in its three parts."""

    format_id: int
    global_id: bytes
    branch: bytes


class MariadbGtidEvent(NamedTuple):
    """MariaDB: a transaction begins, or where it is `standalone` one statement that is no transaction (DDL).

    `prepared` and `completed` tell what the transaction is for the XA transaction `xa`. `thread_id` is 0 where the
    server does not say. `without_effect`: the statement is an ALTER that is begun, and comes again when it is done, or
    one that has failed (``binlog_alter_two_phase``).
    """

    gtid: MariadbGtid
    standalone: bool
    prepared: bool
    completed: bool
    xa: XaId | None
    thread_id: int
    without_effect: bool = False


@dataclass(frozen=True, slots=True)
class MariadbGtidList:
    """MariaDB: the last GTIDs of the files before this one."""

    position: MariadbPosition


class Query(NamedTuple):
    """A statement: BEGIN and COMMIT, SAVEPOINT, XA, DDL; others too where the format is not ROW. `sql` is in UTF-8
    whatever the client spoke."""

    thread_id: int
    execution_seconds: int
    error_code: int
    schema: str
    sql: str
    sql_mode: int


class Xid(NamedTuple):
    """A transaction of a transactional engine is committed."""

    xid: int


@dataclass(frozen=True, slots=True)
class XaPrepare:
    """An XA transaction is prepared; or committed, where it is `one_phase`."""

    one_phase: bool
    xa: XaId


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """There is nothing new; the stream stands at `position` of the file `name`."""

    name: str
    position: int


@dataclass(frozen=True, slots=True)
class Incident:
    """The server lost events: there is a gap."""

    number: int
    message: str


class Rows(NamedTuple):
    """Rows of the table that the last TABLE_MAP with this id described.

    `before` and `after` are bitmaps of the columns that the row images have, None where there are no such images. Rows
    follow one another in `body`, each the images that there are. `partial`: JSON columns may come as differences.
    `columns` is their number. `last`: the statement ends here, and with it what the table ids mean.
    """

    operation: Operation
    table_id: int
    last: bool
    columns: int
    before: int | None
    after: int | None
    partial: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class Payload:
    """A compressed transaction: what is in it, :func:`connectors.mysql.binlog.unpack` tells. `size` is its own, when it
    is unpacked; `content` is a part of the event, which may be large: it is not copied."""

    compressed: bool
    size: int
    content: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Passed:
    """An event that says nothing about rows or positions, or that the server marked as one that may be ignored."""

    type: int


BinlogEvent = Union[  # noqa: UP007 - evaluated at run time
    FormatDescription,
    Rotate,
    GtidEvent,
    PreviousGtids,
    MariadbGtidEvent,
    MariadbGtidList,
    Query,
    Xid,
    XaPrepare,
    Heartbeat,
    Incident,
    TableMap,
    Rows,
    Payload,
    Passed,
]
