"""Messages of the logical streaming replication protocol, version 1, as pgoutput sends them: bytes to frozen classes.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html and, for the frames around them,
https://www.postgresql.org/docs/current/protocol-replication.html. Fields stand in the manual's order.

This is the plain decoder: it checks every bound and raises nothing but DecodeError. Rows usually take the generated
path (:mod:`cdc.compile`) and never come here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Union

from cdc.errors import DecodeError
from cdc.event import UNCHANGED, Unchanged

EPOCH_OFFSET_MICROSECONDS: Final = 946_684_800_000_000
"""From 1970-01-01, our clock, to 2000-01-01, the server's."""

WireTuple = list[Union[bytes, Unchanged, None]]  # noqa: UP007 - evaluated at run time
"""One row as sent: per column SQL NULL, the value's text, or UNCHANGED (a TOASTed value that was not sent)."""


@dataclass(frozen=True, slots=True)
class XLogData:
    """A frame with WAL in it: `start` is the LSN of `body`, `clock` the server's time in µs since 1970."""

    start: int
    end: int
    clock: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Primary keepalive: the server's WAL end, its clock (µs since 1970), and whether it wants an answer at once."""

    end: int
    clock: int
    reply_requested: bool


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction starts. `final_lsn` is the LSN of its commit record, `commit_time` µs since 1970."""

    final_lsn: int
    commit_time: int
    xid: int


@dataclass(frozen=True, slots=True)
class Message:
    """A logical decoding message (``pg_logical_emit_message``)."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction ends. `end_lsn` is the place after its commit record, `commit_time` µs since 1970."""

    flags: int
    commit_lsn: int
    end_lsn: int
    commit_time: int


@dataclass(frozen=True, slots=True)
class Origin:
    """The transaction came from another server by replication."""

    commit_lsn: int
    name: str


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A column of a relation. Bit 0 of `flags`: part of the replica identity."""

    flags: int
    name: str
    type_oid: int
    type_modifier: int

    @property
    def in_identity(self) -> bool:
        """Whether the old image of an update or delete has this column."""
        return bool(self.flags & 1)


@dataclass(frozen=True, slots=True)
class Relation:
    """What the following rows of a table look like. `replica_identity` is one of ``d n f i``."""

    oid: int
    namespace: str
    name: str
    replica_identity: str
    columns: tuple[RelationColumn, ...]


@dataclass(frozen=True, slots=True)
class Type:
    """A type that is not built in."""

    oid: int
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Insert:
    """A new row."""

    relation_oid: int
    new: WireTuple


@dataclass(frozen=True, slots=True)
class Update:
    """A changed row. `old_kind` ``b"K"``: `old` has the replica identity's columns, the rest null; ``b"O"``: all."""

    relation_oid: int
    old_kind: bytes | None
    old: WireTuple | None
    new: WireTuple


@dataclass(frozen=True, slots=True)
class Delete:
    """A deleted row; `old_kind` as in :class:`Update`."""

    relation_oid: int
    old_kind: bytes
    old: WireTuple


@dataclass(frozen=True, slots=True)
class Truncate:
    """Tables emptied by one statement. Bit 0 of `options`: CASCADE, bit 1: RESTART IDENTITY."""

    relation_oids: tuple[int, ...]
    options: int


PgoutputMessage = Union[Begin, Message, Commit, Origin, Relation, Type, Insert, Update, Delete, Truncate]  # noqa: UP007


class _Cursor:
    """Reads fields from the front; whatever does not fit is a DecodeError that names message and place."""

    def __init__(self, content: bytes, what: str) -> None:
        self.content = content
        self.what = what
        self.place = 0

    def error(self, problem: str) -> DecodeError:
        return DecodeError(f"{self.what} of {len(self.content)} bytes, byte {self.place}: {problem}")

    def take(self, count: int) -> bytes:
        end = self.place + count
        if count < 0 or end > len(self.content):
            raise self.error(f"{count} bytes expected, {len(self.content) - self.place} left")
        taken = self.content[self.place : end]
        self.place = end
        return taken

    def integer(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "big", signed=signed)

    def time(self) -> int:
        return self.integer(8, signed=True) + EPOCH_OFFSET_MICROSECONDS

    def string(self) -> str:
        end = self.content.find(b"\0", self.place)
        if end < 0:
            raise self.error("a string does not end")
        text = self.take(end - self.place)
        self.place += 1
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise self.error("a name is not UTF-8") from error

    def row(self) -> WireTuple:
        return [self._value() for _ in range(self.integer(2))]

    def _value(self) -> bytes | Unchanged | None:
        kind = self.take(1)
        if kind == b"t":
            return self.take(self.integer(4))
        if kind == b"n":
            return None
        if kind == b"u":
            return UNCHANGED
        self.place -= 1
        raise self.error(f"unknown kind of value {kind!r}")

    def kind(self, *allowed: bytes) -> bytes:
        kind = self.take(1)
        if kind not in allowed:
            self.place -= 1
            raise self.error(f"unknown kind of row {kind!r}")
        return kind

    def end(self) -> None:
        if self.place != len(self.content):
            raise self.error("bytes left over")


def _begin(c: _Cursor) -> Begin:
    return Begin(c.integer(8), c.time(), c.integer(4))


def _message(c: _Cursor) -> Message:
    return Message(bool(c.integer(1) & 1), c.integer(8), c.string(), c.take(c.integer(4)))


def _commit(c: _Cursor) -> Commit:
    return Commit(c.integer(1), c.integer(8), c.integer(8), c.time())


def _origin(c: _Cursor) -> Origin:
    return Origin(c.integer(8), c.string())


def _relation(c: _Cursor) -> Relation:
    oid, namespace, name = c.integer(4), c.string(), c.string()
    identity = c.take(1)
    if identity not in (b"d", b"n", b"f", b"i"):
        raise c.error(f"unknown replica identity {identity!r}")
    columns = tuple(
        RelationColumn(c.integer(1), c.string(), c.integer(4), c.integer(4, signed=True)) for _ in range(c.integer(2))
    )
    return Relation(oid, namespace, name, identity.decode(), columns)


def _type(c: _Cursor) -> Type:
    return Type(c.integer(4), c.string(), c.string())


def _insert(c: _Cursor) -> Insert:
    oid = c.integer(4)
    c.kind(b"N")
    return Insert(oid, c.row())


def _update(c: _Cursor) -> Update:
    oid = c.integer(4)
    kind = c.kind(b"K", b"O", b"N")
    if kind == b"N":
        return Update(oid, None, None, c.row())
    old = c.row()
    c.kind(b"N")
    return Update(oid, kind, old, c.row())


def _delete(c: _Cursor) -> Delete:
    return Delete(c.integer(4), c.kind(b"K", b"O"), c.row())


def _truncate(c: _Cursor) -> Truncate:
    count, options = c.integer(4), c.integer(1)
    if count * 4 != len(c.content) - c.place:
        raise c.error(f"{count} relations announced")
    return Truncate(tuple(c.integer(4) for _ in range(count)), options)


_READERS: Final[dict[bytes, tuple[str, Callable[[_Cursor], PgoutputMessage]]]] = {
    b"B": ("Begin", _begin),
    b"M": ("Message", _message),
    b"C": ("Commit", _commit),
    b"O": ("Origin", _origin),
    b"R": ("Relation", _relation),
    b"Y": ("Type", _type),
    b"I": ("Insert", _insert),
    b"U": ("Update", _update),
    b"D": ("Delete", _delete),
    b"T": ("Truncate", _truncate),
}


def decode(message: bytes) -> PgoutputMessage:
    """Decode one pgoutput message (the body of an :class:`XLogData`). Raises DecodeError, whatever the bytes."""
    name, read = _READERS.get(message[:1], ("", None))
    if read is None:
        raise DecodeError(f"unknown pgoutput message {message[:1]!r} of {len(message)} bytes")
    cursor = _Cursor(message, f"pgoutput message {name}")
    cursor.place = 1
    decoded = read(cursor)
    cursor.end()
    return decoded


_BEGIN: Final = struct.Struct(">QqI")
_COMMIT: Final = struct.Struct(">BQQq")


def decode_begin(frame: bytes, start: int) -> Begin:
    """:func:`decode` for a Begin message whose fields begin at `start`: one comes with every transaction."""
    if len(frame) != start + _BEGIN.size:
        raise DecodeError(f"pgoutput message Begin of {len(frame) - start + 1} bytes")
    final_lsn, commit_time, xid = _BEGIN.unpack_from(frame, start)
    return Begin(final_lsn, commit_time + EPOCH_OFFSET_MICROSECONDS, xid)


def decode_commit(frame: bytes, start: int) -> Commit:
    """:func:`decode` for a Commit message whose fields begin at `start`."""
    if len(frame) != start + _COMMIT.size:
        raise DecodeError(f"pgoutput message Commit of {len(frame) - start + 1} bytes")
    flags, commit_lsn, end_lsn, commit_time = _COMMIT.unpack_from(frame, start)
    return Commit(flags, commit_lsn, end_lsn, commit_time + EPOCH_OFFSET_MICROSECONDS)


def decode_frame(frame: bytes) -> XLogData | Keepalive:
    """Decode what one CopyData of the stream holds. Raises DecodeError, whatever the bytes."""
    cursor = _Cursor(frame, "replication frame")
    kind = cursor.take(1)
    if kind == b"w":
        return XLogData(cursor.integer(8), cursor.integer(8), cursor.time(), frame[cursor.place :])
    if kind == b"k":
        keepalive = Keepalive(cursor.integer(8), cursor.time(), bool(cursor.integer(1)))
        cursor.end()
        return keepalive
    raise DecodeError(f"unknown replication frame {kind!r} of {len(frame)} bytes")


_STATUS = struct.Struct(">cQQQqB")


def standby_status(written: int, flushed: int, clock: int, reply: bool = False) -> bytes:
    """A standby status update: WAL up to `written` was received, up to `flushed` it may be discarded.

    `clock` is µs since 1970. With `reply` the server is asked to answer at once.
    """
    return _STATUS.pack(b"r", written, flushed, flushed, clock - EPOCH_OFFSET_MICROSECONDS, reply)
