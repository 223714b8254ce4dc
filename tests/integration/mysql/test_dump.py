"""The binlog as the servers send it: what comes, in which order, and how it ends."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from pydantic import SecretStr

from cdc.errors import CdcError, GapError, PermanentError, UnreachableError
from connectors.mysql import dump
from connectors.mysql.client import Address, address
from connectors.mysql.decoding import decode_event
from connectors.mysql.dump import DumpConnection
from connectors.mysql.events import (
    BinlogEvent,
    FormatDescription,
    GtidEvent,
    Heartbeat,
    MariadbGtidEvent,
    Rotate,
    Rows,
    Xid,
)
from connectors.mysql.gtid import GtidSet, MariadbPosition
from connectors.mysql.rows import decode_rows
from connectors.mysql.tablemap import TableMap
from tests.integration.mysql.conftest import Binlog
from tests.servers import wait_until

pytestmark = pytest.mark.xdist_group("mysql")


class Reader:
    """A dump that is decoded."""

    def __init__(self, connection: DumpConnection, position: GtidSet | MariadbPosition) -> None:
        self.connection = connection
        self.position = position
        """After the last transaction that was read."""
        connection.start(position)
        self._checksum = connection.checksum
        self._tables: dict[int, TableMap] = {}

    def event(self) -> BinlogEvent:
        """The next one, which must come soon."""
        deadline = time.monotonic() + 30
        while (content := self.connection.receive()) is None:
            assert self.connection.wait(1) or time.monotonic() < deadline
        _, event = decode_event(content, checksum=self._checksum, mariadb=self.connection.server.mariadb)
        if isinstance(event, FormatDescription):
            self._checksum = event.checksum
        return event

    def until(self, kind: type[BinlogEvent]) -> list[BinlogEvent]:
        """The events up to the first of this kind."""
        events = [self.event()]
        while not isinstance(events[-1], kind):
            events.append(self.event())
        return events

    def transaction(self) -> list[object]:
        """The first columns of the rows of the next one."""
        found: list[object] = []
        for event in self.until(Xid):
            if isinstance(event, GtidEvent):
                assert isinstance(self.position, GtidSet)
                assert event.gtid is not None
                assert event.gtid not in self.position, "it was asked to begin after it"
                self.position = self.position.add(event.gtid)
            elif isinstance(event, MariadbGtidEvent):
                assert isinstance(self.position, MariadbPosition)
                assert event.gtid not in self.position
                self.position = self.position.add(event.gtid)
            elif isinstance(event, TableMap):
                self._tables[event.table_id] = event
            elif isinstance(event, Rows):
                rows = decode_rows(self._tables[event.table_id], event, {})
                found += [after[0] for _, _, after in rows if after]
        return found

    def failure(self, kind: type[CdcError]) -> CdcError:
        """The error that it ends with, soon."""
        with pytest.raises(kind) as caught:
            list(iter(self.event, None))
        assert type(caught.value) is kind
        assert caught.value.hint
        return caught.value


def position(binlog: Binlog) -> GtidSet | MariadbPosition:
    """What the server has executed."""
    if binlog.mysql:
        return GtidSet.parse(binlog.execute("SELECT @@GLOBAL.gtid_executed")[0][0])
    return MariadbPosition.parse(binlog.execute("SELECT @@GLOBAL.gtid_binlog_pos")[0][0])


def where(binlog: Binlog) -> Address:
    return address(binlog.server.url, None, None)


Read = Callable[..., Reader]


@pytest.fixture
def read(binlog: Binlog, monkeypatch: pytest.MonkeyPatch) -> Iterator[Read]:
    """Begins to read at a position, by default at the end."""
    monkeypatch.setattr(dump, "HEARTBEAT_SECONDS", 0.2)  # an ended connection is noticed with the next one
    binlog.execute("CREATE TABLE item (id int PRIMARY KEY, body longblob)")
    with ExitStack() as opened:

        def begin(start: GtidSet | MariadbPosition | None = None, server_id: int | str = "auto") -> Reader:
            connection = opened.enter_context(closing(DumpConnection(where(binlog), server_id)))  # type: ignore[arg-type]
            return Reader(connection, position(binlog) if start is None else start)

        yield begin


def test_the_transactions_after_a_position_in_order(binlog: Binlog, read: Read) -> None:
    binlog.execute("INSERT INTO item (id) VALUES (1)", "INSERT INTO item (id) VALUES (2)")
    start = position(binlog)
    for number in range(3, 30):
        binlog.execute(f"INSERT INTO item (id) VALUES ({number}), ({-number})")
        if number % 10 == 0:
            binlog.rotate()
    reader = read(start)
    assert [reader.transaction() for _ in range(3, 30)] == [[number, -number] for number in range(3, 30)]
    assert reader.position == position(binlog)
    binlog.rotate()
    assert isinstance(reader.until(Rotate)[-1], Rotate)
    for number in range(30, 33):  # while it waits
        binlog.execute(f"INSERT INTO item (id) VALUES ({number})")
        assert reader.transaction() == [number]
    again = read(reader.position)
    binlog.execute("INSERT INTO item (id) VALUES (33)")
    assert again.transaction() == [33]


def test_the_checksum_is_switched(binlog: Binlog, read: Read) -> None:
    start = position(binlog)
    before = binlog.execute("SELECT @@GLOBAL.binlog_checksum")[0][0]
    try:
        reader = read(start)
        for number, algorithm in enumerate(["NONE", "CRC32", "NONE"]):
            binlog.execute(f"SET GLOBAL binlog_checksum = {algorithm}", f"INSERT INTO item (id) VALUES ({number})")
            assert reader.transaction() == [number]
        assert [read(start).transaction()] == [[0]]
    finally:
        binlog.execute(f"SET GLOBAL binlog_checksum = {before}")


def test_heartbeats_while_there_is_nothing(binlog: Binlog, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump, "READ_TIMEOUT", 0.6)
    reader = read()
    began = time.monotonic()
    while time.monotonic() < began + 1.3:  # it would be taken for lost twice
        assert isinstance(reader.until(Heartbeat)[-1], Heartbeat)
    connection = reader.connection
    while connection.receive() is not None or connection.wait(0):
        pass
    assert connection.receive() is None
    binlog.execute("INSERT INTO item (id) VALUES (1)")
    assert connection.wait(10)
    assert reader.transaction() == [1]


def test_a_connection_that_went_silent(binlog: Binlog, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump, "READ_TIMEOUT", 0.6)
    reader = read()
    reader.until(Heartbeat)
    binlog.server.pause()
    try:
        assert "not even a heartbeat" in str(reader.failure(UnreachableError))
    finally:
        binlog.server.resume()


def test_the_server_ends_it(binlog: Binlog, read: Read) -> None:
    reader = read()
    reader.until(Heartbeat)
    ((thread,),) = binlog.execute(f"SELECT {reader.connection._connection.thread_id()}")
    binlog.execute(f"KILL {thread}")
    reader.failure(UnreachableError)
    reader.connection.close()
    reader.connection.close()


def test_the_server_stops(binlog: Binlog, read: Read) -> None:
    reader = read()
    reader.until(Heartbeat)
    stop = binlog.server.kill if binlog.mysql else binlog.server.stop  # MySQL's stop gives its replicas 8 s
    stop()
    try:
        reader.failure(UnreachableError)
        with pytest.raises(UnreachableError):
            read(reader.position)
    finally:
        binlog.server.start()
    binlog.connection = binlog.server.connect("shop")
    reader = read(reader.position)
    binlog.execute("INSERT INTO item (id) VALUES (1)")
    assert reader.transaction() == [1]


def test_rows_that_do_not_fit_into_a_packet(binlog: Binlog, read: Read) -> None:
    reader = read()
    before = binlog.execute("SELECT @@GLOBAL.max_allowed_packet")[0][0]
    binlog.execute(f"SET GLOBAL max_allowed_packet = {64 << 20}")
    with binlog.server.connect("shop") as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO item VALUES (1, NULL)")
        cursor.execute(f"INSERT INTO item VALUES (2, REPEAT('x', {20 << 20}))")
        cursor.execute("INSERT INTO item VALUES (3, NULL)")
    binlog.execute(f"SET GLOBAL max_allowed_packet = {before}")
    assert reader.transaction() == [1]
    (rows,) = [event for event in reader.until(Xid) if isinstance(event, Rows)]
    assert rows.body.endswith(b"x" * (20 << 20))
    assert reader.transaction() == [3]


# What the server does not have.


def test_what_was_purged(binlog: Binlog, read: Read) -> None:
    start = position(binlog)
    binlog.execute("INSERT INTO item (id) VALUES (1)")
    binlog.rotate()

    def purged() -> bool:  # files that are being read are kept, without an error
        binlog.execute(f"PURGE BINARY LOGS TO '{binlog.server.binlog().name}'")
        return len(binlog.execute("SHOW BINARY LOGS")) == 1

    wait_until(purged)
    for lost in (start, type(start).parse("")):
        assert "cdc snapshot" in read(lost).failure(GapError).hint
    reader = read()
    binlog.execute("INSERT INTO item (id) VALUES (2)")
    assert reader.transaction() == [2]


def test_a_server_that_has_another_history(binlog: Binlog, read: Read) -> None:
    """It is behind, as one that was restored from a backup; or something else came in the place of what we have."""
    here = position(binlog)
    if isinstance(here, GtidSet):
        uuid = binlog.execute("SELECT @@server_uuid")[0][0]
        others: list[GtidSet | MariadbPosition] = [GtidSet.parse(f"{uuid}:1-999999")]
    else:
        behind, other = "0-1-999999", f"0-7-{here.last[0].sequence}"
        others = [MariadbPosition.parse(text) for text in (behind, other)]
    for ours in others:
        assert "cdc snapshot" in read(ours).failure(GapError).hint


def test_the_privilege_is_missing(binlog: Binlog) -> None:
    """All that is needed besides it is to log in."""
    binlog.execute("DROP USER IF EXISTS probe@localhost", "CREATE USER probe@localhost IDENTIFIED BY 'canary'")
    probe = address(f"mysql://probe@127.0.0.1:{binlog.server.port}", SecretStr("canary"), None)
    with closing(DumpConnection(probe, "auto")) as connection:
        with pytest.raises(PermanentError) as caught:
            connection.start(position(binlog))
        assert caught.value.hint == "GRANT REPLICATION SLAVE ON *.* TO 'probe'@'localhost';"
    binlog.execute("GRANT REPLICATION SLAVE ON *.* TO probe@localhost")
    with closing(DumpConnection(probe, 4711)) as connection:
        reader = Reader(connection, position(binlog))
        binlog.execute("CREATE TABLE item (id int PRIMARY KEY)", "INSERT INTO item VALUES (1)")
        assert reader.transaction() == [1]
    binlog.execute("DROP USER probe@localhost")


# The replica that we are.


def test_we_are_shown_among_the_replicas(binlog: Binlog, read: Read) -> None:
    reader = read()
    shown = binlog.execute("SHOW REPLICAS" if binlog.mysql else "SHOW SLAVE HOSTS")
    assert (reader.connection.server_id, f"cdc-service@{socket.gethostname()}"[:60]) in [row[:2] for row in shown]
    assert reader.connection.server_id in dump.SERVER_IDS


def test_auto_finds_one_that_is_free(binlog: Binlog, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = random.sample(range(100, 200), 3)
    monkeypatch.setattr(dump, "SERVER_IDS", [1, *taken])
    found = {read().connection.server_id for _ in taken}
    assert found == set(taken), "1 is the source's"


def test_a_server_id_that_another_has(binlog: Binlog, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for politely; and who is thrown out does not come back."""
    first = read(server_id=4711)
    first.until(Heartbeat)
    second = read(server_id=4711)  # of the same name: what is left of a lost connection looks alike
    error = first.failure(PermanentError)
    assert "server_id 4711" in str(error)
    assert "auto" in error.hint
    second.until(Heartbeat)
    monkeypatch.setattr(socket, "gethostname", lambda: "other.example")
    for wanted in (4711, 1):
        with pytest.raises(UnreachableError, match=f"server_id {wanted} is in use by") as caught:
            read(server_id=wanted)
        assert "auto" in caught.value.hint
    binlog.execute("INSERT INTO item (id) VALUES (1)")
    assert second.transaction() == [1], "it was left alone"
