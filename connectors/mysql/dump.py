"""The replication connection: it asks as a replica does, and cuts what comes into events.

PyMySQL connects and authenticates. The stream is read from the socket itself, without blocking: PyMySQL's own reading
loses its place when a time-out interrupts it.
"""

from __future__ import annotations

import re
import secrets
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, Final, Literal
from uuid import NAMESPACE_OID, uuid5

import pymysql
from pymysql.constants.COMMAND import COM_BINLOG_DUMP, COM_BINLOG_DUMP_GTID, COM_REGISTER_SLAVE

from cdc.errors import CdcError, GapError, PermanentError, UnreachableError
from connectors.mysql.client import Address, check_server, connect, current_account, identify, query, refused
from connectors.mysql.gtid import GtidSet, MariadbPosition

HEARTBEAT_SECONDS: Final = 1.0
"""A server notices by its second heartbeat that a reader is gone, and only then lets go of the reader's lock."""
READ_TIMEOUT: Final = 30.0
"""Seconds after which a server that has not even sent a heartbeat is taken for lost."""
READ_BYTES: Final = 256 << 10
LONGEST_PACKET: Final = (1 << 24) - 1
"""A packet of this length goes on in the next one."""
SERVER_IDS: Final = range(3_000_000_000, 1 << 32)
"""From these ``server_id: auto`` is chosen: high, where people do not number their replicas."""

_ERROR: Final = 0xFF
_FIRST_EVENT: Final = 4
_HAVE_GTIDS: Final = 4
"""COM_BINLOG_DUMP_GTID: BINLOG_THROUGH_GTID."""
_HAS_GTIDS_WITH_STATEMENTS: Final = 4
"""``@mariadb_slave_capability``: all that MariaDB 10.0 and later send."""


class DumpConnection:
    """A connection for SQL first, then for the binlog.

    `server` tells who answers, `server_id` as which replica we are known there. After an error there is nothing left
    to do but :meth:`close`.
    """

    thread_id: int
    """The connection's number at the server."""
    checksum: bool
    """After :meth:`start`: whether events end with a checksum, until the first format description tells."""
    receive: Callable[[], bytes | None]
    """After :meth:`start`: the next event, None when none is complete now.

    Raises GapError when the server does not have what comes next, UnreachableError when the connection was lost or
    ended by the server, PermanentError when it refuses.
    """

    def __init__(self, address: Address, server_id: int | Literal["auto"]) -> None:
        """Raises UnreachableError, also when another replica is connected with `server_id`; PermanentError when the
        server is too old.
        """
        self._chosen = server_id != "auto"
        self._name = f"cdc-service@{socket.gethostname()}"[:60]
        self._connection = connect(address)
        try:
            self.server = identify(self._connection)
            self.thread_id = self._connection.thread_id()
            check_server(self.server)
            self._account = current_account(self._connection)
            self.server_id = self._free(server_id)
        except BaseException:
            self.close()
            raise

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement, before :meth:`start`. Raises what :func:`connectors.mysql.client.refused` makes."""
        return query(self._connection, sql, *values)

    def start(self, executed: GtidSet | MariadbPosition) -> None:
        """Ask for all transactions that are not in `executed`.

        Raises as `query` does; what the server thinks of the position is known with the first ``receive()``.
        """
        nanoseconds = int(HEARTBEAT_SECONDS * 1_000_000_000)
        self.query(f"SET @master_heartbeat_period = {nanoseconds}, @source_heartbeat_period = {nanoseconds}")
        self.query("SET @master_binlog_checksum = @@GLOBAL.binlog_checksum")
        ((checksum,),) = self.query("SELECT @master_binlog_checksum")
        self.checksum = checksum != "NONE"
        if isinstance(executed, MariadbPosition):
            self.query(
                f"SET @mariadb_slave_capability = {_HAS_GTIDS_WITH_STATEMENTS}, @slave_connect_state = %s, "
                "@slave_gtid_strict_mode = 1, @slave_gtid_ignore_duplicates = 0",
                str(executed),
            )
            command, request = COM_BINLOG_DUMP, struct.pack("<IHI", _FIRST_EVENT, 0, self.server_id)
        else:
            # The server ends what is left of an earlier connection with the same one.
            uuid = str(uuid5(NAMESPACE_OID, f"cdc-service {self.server_id}"))
            self.query("SET @source_binlog_checksum = @master_binlog_checksum")
            self.query("SET @slave_uuid = %s, @replica_uuid = %s", uuid, uuid)
            gtids = executed.encode()
            head = struct.pack("<HIIQI", _HAVE_GTIDS, self.server_id, 0, _FIRST_EVENT, len(gtids))
            command, request = COM_BINLOG_DUMP_GTID, head + gtids
        try:
            self._connection._execute_command(COM_REGISTER_SLAVE, self._registration())
            self._connection._read_ok_packet()
            self._connection._execute_command(command, request)
        except pymysql.Error as error:
            raise self._failure(error) from None
        self._socket = self._connection._sock
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._heard = time.monotonic()
        self.receive = events(self._read, self._ended).__next__

    def wait(self, seconds: float) -> bool:
        """Wait, after ``receive()`` returned None, until the server has sent something; False when the time is over.

        Raises UnreachableError when it has not even sent a heartbeat for ``READ_TIMEOUT``.
        """
        left = self._heard + READ_TIMEOUT - time.monotonic()
        if self._poll.poll(max(0.0, min(seconds, left)) * 1000):
            return True
        if left <= seconds:
            raise UnreachableError(
                f"the source's server has sent nothing for {READ_TIMEOUT:g} s, not even a heartbeat",
                hint="is the network between here and the server alive?",
            )
        return False

    def close(self) -> None:
        """Close. Safe to call twice."""
        self._connection._force_close()

    def _free(self, wanted: int | Literal["auto"]) -> int:
        """`wanted`, or one that nobody has. Raises UnreachableError when somebody else has it."""
        old = not self.server.mariadb and self.server.version < (8, 0, 22)
        taken = {self.server.server_id: "the source itself"}
        try:
            shown = self.query("SHOW SLAVE HOSTS" if self.server.mariadb or old else "SHOW REPLICAS")
        except PermanentError:  # MariaDB wants a privilege for it that replicas do not need
            shown = []
        taken |= {int(row[0]): str(row[1] or "a replica without a name") for row in shown}
        if wanted == "auto":
            while (free := secrets.choice(SERVER_IDS)) in taken:
                pass
            return free
        if taken.get(wanted, self._name) != self._name:
            raise _collision(UnreachableError, wanted, f"is in use by {taken[wanted]}")
        return wanted

    def _registration(self) -> bytes:
        """What SHOW REPLICAS tells about us."""
        name = self._name.encode()
        return struct.pack(f"<IB{len(name)}sBBHII", self.server_id, len(name), name, 0, 0, 0, 0, 0)

    def _read(self, count: int) -> bytes | None:
        try:
            data: bytes = self._socket.recv(count)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            raise refused(error) from None
        if not data:
            raise UnreachableError(
                "the source's server closed the connection", hint="tried again; see the server's log if it stays"
            )
        self._heard = time.monotonic()
        return data

    def _ended(self, packet: bytes) -> CdcError:
        """The error for a packet that is not an event."""
        if packet[:1] == bytes([_ERROR]):
            try:
                pymysql.err.raise_mysql_exception(packet)
            except pymysql.Error as error:
                return self._failure(error)
        if packet:
            return UnreachableError(
                "the source's server ended the stream", hint="tried again; was it shut down, or the connection killed?"
            )
        return UnreachableError("packets of the source's server are missing", hint="tried again")

    def _failure(self, error: pymysql.Error) -> CdcError:
        code, text = error.args if len(error.args) == 2 else (0, "")
        if code == _SAME_ID or _THROWN_OUT.search(text):
            kind = PermanentError if self._chosen else UnreachableError
            return _collision(kind, self.server_id, "is in use by another replica too, which connected after us")
        if code == _FATAL and _GAP.search(text):
            return GapError(
                f"the source's server cannot go on from the stored position: {text}",
                hint="`cdc snapshot` reads all tables again and goes on from there",
            )
        if code == _FATAL and _ANONYMOUS.search(text):
            return GapError(
                "the source's server has transactions without GTIDs after the stored position",
                hint="`cdc snapshot` reads all tables again and goes on from there",
            )
        if code == _FATAL and _CHECKSUM.search(text):
            return UnreachableError("the source's server has changed binlog_checksum", hint="connected anew")
        if code == _FATAL and _TOO_LARGE.search(text):
            return PermanentError(
                f"the source's server: {text}", hint="SET GLOBAL max_allowed_packet = 1073741824; at the source"
            )
        if code in _DENIED:
            return PermanentError(
                f"the source's server: {text} ({code})", hint=f"GRANT REPLICATION SLAVE ON *.* TO {self._account};"
            )
        return refused(error)


def _collision(kind: type[CdcError], server_id: int, what: str) -> CdcError:
    return kind(
        f"server_id {server_id} {what}",
        hint="set server_id of the source to a number that no replica has, or to auto",
    )


_FATAL: Final = 1236
_SAME_ID: Final = 4052
_DENIED: Final = frozenset({1045, 1227})
_THROWN_OUT: Final = re.compile(r"same server_uuid/server_id", re.IGNORECASE)
_GAP: Final = re.compile(
    r"purged|Could not find (first log file|GTID state)|more GTIDs than|not in the master's binlog|is missing the GTID",
    re.IGNORECASE,
)
_ANONYMOUS: Final = re.compile(r"anonymous transaction", re.IGNORECASE)
_CHECKSUM: Final = re.compile(r"can ?not handle replication events with the checksum", re.IGNORECASE)
_TOO_LARGE: Final = re.compile(r"max_allowed_packet", re.IGNORECASE)


_BEFORE_EVENT: Final = 5
"""Length, number, and a zero: what follows is an event."""
_unpack_head: Final = struct.Struct("<I").unpack_from


def events(read: Callable[[int], bytes | None], ended: Callable[[bytes], CdcError]) -> Iterator[bytes | None]:
    """Cut what `read` gives into events; None whenever the rest of the next one is not there yet.

    `read` returns at most as many bytes as it is asked for, None when there are none now. Raises what `ended` makes of
    a packet that is no event (an error, an end), and of b"" when a packet is missing.
    """
    buffer, place, size, number = b"", 0, 0, 1
    while True:
        start = place + _BEFORE_EVENT
        if start > size:
            if (data := read(READ_BYTES)) is None:
                yield None
            else:
                buffer = buffer[place:] + data
                place, size = 0, len(buffer)
            continue
        (head,) = _unpack_head(buffer, place)
        length = head & LONGEST_PACKET
        place = start - 1 + length
        status = buffer[start - 1]
        if head >> 24 != number and status != _ERROR:  # a server that shuts down does not count
            raise ended(b"")
        number = number + 1 & 255
        if place <= size and not status:
            yield buffer[start:place]
            continue
        whole = BytesIO()  # it gives its bytes away without a copy
        whole.write(buffer[start:place])
        yield from _take(read, whole, place - size)
        buffer, place, size = b"", 0, 0
        while length == LONGEST_PACKET:
            continued = BytesIO()
            yield from _take(read, continued, 4)
            (head,) = _unpack_head(continued.getvalue())
            if head >> 24 != number:
                raise ended(b"")
            number = number + 1 & 255
            length = head & LONGEST_PACKET
            yield from _take(read, whole, length)
        if status:
            raise ended(bytes([status]) + whole.getvalue())
        yield whole.getvalue()


def _take(read: Callable[[int], bytes | None], whole: BytesIO, count: int) -> Iterator[None]:
    """Move `count` bytes, None whenever the next ones are not there yet."""
    while count > 0:
        if (data := read(min(count, READ_BYTES))) is None:
            yield None
        else:
            whole.write(data)
            count -= len(data)
