"""Killed anywhere, capture goes on exactly where the log ends."""

from __future__ import annotations

import contextlib
import signal
from contextlib import closing
from typing import Final

import pymysql
import pytest

from connectors.mysql.events import XaId
from connectors.mysql.prepared import transaction_name
from connectors.mysql.resume import WHOLE, Resumption
from tests.integration.mysql.conftest import Database, MakeSource
from tests.integration.mysql.semisync import unanswered
from tests.integration.mysql.support import Source, assert_dense
from tests.integration.sources import count_fences
from tests.servers import wait_until

pytestmark = pytest.mark.xdist_group("mysql")

QUICK: Final = {"connectors.mysql.dump:HEARTBEAT_SECONDS": 0.1}
"""The server soon notices that a reader was killed, and gives its lock away."""
SPLIT: Final = {**QUICK, "connectors.mysql.stream:BATCH_BYTES": 1000, "cdc.capture:LOADED_COMMIT_SECONDS": 0.0}
"""A transaction of 10,000 rows takes some thirty appends."""
ITEM: Final = "CREATE TABLE item (id int PRIMARY KEY, name varchar(40))"
ROWS: Final = 10_000
MANY: Final = "INSERT INTO item VALUES " + ", ".join(f"({n}, 'row {n}')" for n in range(1, ROWS + 1))
HUGE: Final = (
    "INSERT INTO other VALUES (1)",
    MANY,
    "UPDATE item SET id = -1 WHERE id = 1",
    "DELETE FROM item WHERE id > 9990",
    "INSERT INTO other VALUES (2)",
)
XA: Final = transaction_name(XaId(1, b"x", b""))


@pytest.fixture
def shop(database: Database, source: MakeSource) -> Source:
    """A source of two tables without rows."""
    database.execute(ITEM, "CREATE TABLE other (id int PRIMARY KEY)")
    shop = source("item", "other")
    shop.capture()
    return shop


def mysql(database: Database) -> bool:
    return database.server.name == "MySQL"


def operations(shop: Source, table: str) -> list[tuple[str, bytes]]:
    schema = shop.options["tables"][0].partition(".")[0]
    return [(r.operation, r.record.key) for r in shop.events(f"{schema}.{table}")]


def killed(shop: Source, *points: str) -> None:
    """Capture is killed at each of the points, one life after the other, in a transaction that takes many appends."""
    for point in points:
        process = shop.process(f"{point}", SPLIT)
        assert process.wait() == -signal.SIGKILL, process.output()[-3000:]


def check(database: Database, shop: Source) -> None:
    """What `HUGE` did stands on the log once."""
    created = [key for operation, key in operations(shop, "item") if operation == "c"]
    assert len(created) == len(set(created)) == ROWS + 1
    assert len([operation for operation, _ in operations(shop, "item") if operation == "d"]) == 11
    assert_dense(shop.records())
    shop.assert_equal(database.table("item"), database.table("other"))


POINTS: Final = ("capture.after_decode:kill:6", "capture.in_append:kill:3", "capture.before_acknowledge:kill:3")


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_a_huge_transaction_killed_in_the_middle(database: Database, shop: Source, compressed: bool) -> None:
    write(database, *HUGE, compressed=compressed)
    database.execute("INSERT INTO other VALUES (9)")
    for point in POINTS:
        killed(shop, point)
        half = shop.position.open
        assert half is not None, point
        assert half.events > 0
    shop.capture()
    assert shop.position.open is None
    check(database, shop)
    assert operations(shop, "other") == [("c", b'{"id":%d}' % number) for number in (1, 2, 9)]


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("end", ["ROLLBACK", "ROLLBACK TO a"])
def test_rows_that_are_rolled_back_are_on_the_log_from_an_earlier_life(
    database: Database, shop: Source, end: str
) -> None:
    """MariaDB writes them for a table without transactions. After the restart no more rows of the item come."""
    database.execute("CREATE TABLE plain (id int PRIMARY KEY) ENGINE = MyISAM")
    temporary = ("CREATE TEMPORARY TABLE t (id int)", "DROP TEMPORARY TABLE t")
    database.execute("BEGIN", "SAVEPOINT a", MANY, "INSERT INTO plain VALUES (1)", *temporary, end, "COMMIT")
    killed(shop, "capture.before_acknowledge:kill:4")
    half = shop.position.open
    assert half is not None
    assert half.events > 0
    shop.capture()
    assert operations(shop, "item") != []
    shop.assert_equal(database.table("item"))


def write(database: Database, *statements: str, compressed: bool) -> None:
    """One transaction."""
    switch = "SET SESSION binlog_transaction_compression" if mysql(database) else "SET GLOBAL log_bin_compress"
    with closing(database.server.connect(database.schema)) as connection, closing(connection.cursor()) as cursor:
        try:
            for statement in (f"{switch} = {'ON' if compressed else 'OFF'}", "BEGIN", *statements, "COMMIT"):
                cursor.execute(statement)
        finally:
            cursor.execute(f"{switch} = OFF")


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("database", ["mysql"], indirect=True)
def test_a_half_stored_transaction_is_named_exactly(
    database: Database, shop: Source, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    write(database, *HUGE, compressed=False)
    killed(shop, "capture.before_acknowledge:kill:4")
    if naive:
        begun = Resumption.begun

        def skip_nothing(self: Resumption, *transaction: object) -> int:
            events = begun(self, *transaction)  # type: ignore[arg-type]
            return events if events == WHOLE else 0

        monkeypatch.setattr(Resumption, "begun", skip_nothing)
    shop.capture()
    created = [key for operation, key in operations(shop, "item") if operation == "c"]
    assert (len(created) == len(set(created))) != naive


def test_a_prepared_transaction_killed_before_during_and_after(database: Database, shop: Source) -> None:
    """While its rows are kept, when others are committed in between, and while its rows are published."""
    database.execute("XA START 'x'", *HUGE, "XA END 'x'", "XA PREPARE 'x'")
    database.execute("INSERT INTO other VALUES (8)")
    killed(shop, "capture.after_decode:kill:6", "capture.before_acknowledge:kill:3")
    assert shop.position.open is not None
    assert shop.log.prepared("shop")[XA] > 1
    killed(shop, "capture.in_append:kill:1")  # of the transaction that follows
    shop.capture()
    assert operations(shop, "item") == []
    database.execute("INSERT INTO other VALUES (9)", "XA COMMIT 'x'")
    killed(shop, *POINTS)
    assert shop.position.open is not None
    assert operations(shop, "item") != []
    shop.capture()
    check(database, shop)
    assert operations(shop, "other") == [("c", b'{"id":%d}' % number) for number in (8, 9, 1, 2)]
    assert shop.log.prepared("shop") == {}


def test_a_transaction_of_one_phase_killed_in_the_middle(database: Database, shop: Source) -> None:
    """MySQL tells only at its end that its rows count."""
    database.execute("XA START 'x'", *HUGE, "XA END 'x'", "XA COMMIT 'x' ONE PHASE")
    killed(shop, "capture.after_decode:kill:5", "capture.before_acknowledge:kill:9")
    if mysql(database):
        assert shop.log.prepared("shop")[XA] > 1
        killed(shop, "capture.in_append:kill:9")
        assert shop.position.open is not None
    shop.capture()
    check(database, shop)
    assert shop.log.prepared("shop") == {}


def test_small_transactions_killed_between_append_and_acknowledgement(database: Database, shop: Source) -> None:
    for number in range(2):
        database.execute(f"INSERT INTO other VALUES ({number})")
        process = shop.process("capture.before_acknowledge:kill:1", QUICK, until_caught_up=False)
        assert process.wait() == -signal.SIGKILL
    for _ in range(2):
        shop.capture()
    assert operations(shop, "other") == [("c", b'{"id":%d}' % number) for number in range(2)]
    assert_dense(shop.records())


def test_killed_in_a_chunk(database: Database, source: MakeSource) -> None:
    database.execute(ITEM)
    rows = ", ".join(f"({n}, 'x{n}')" for n in range(3000))
    database.execute(f"INSERT INTO item VALUES {rows}")
    shop = source("item", snapshot={"chunk_bytes": "16KiB"})
    for point in ("snapshot.in_chunk:kill:2", "capture.in_append:kill:2", "capture.before_acknowledge:kill:2"):
        process = shop.process(point, QUICK)
        assert process.wait() == -signal.SIGKILL, process.output()
        database.execute("UPDATE item SET name = 'y' WHERE id % 7 = 0", "DELETE FROM item WHERE id % 1000 = 5")
        database.execute("UPDATE item SET id = -id WHERE id % 31 = 1")
    shop.capture()
    assert_dense(shop.records())
    shop.assert_equal(database.table("item"))


def test_the_second_capture_waits_and_fences_nobody(
    database: Database, shop: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.mysql.stream.LOCK_SECONDS", 0)
    with shop.running() as first:
        first.catch_up()
        fences = count_fences(monkeypatch, shop.log)
        with shop.running() as second:
            wait_until(lambda: len(second.errors) > 2, what="the second to be turned away")
            assert all("another process captures source shop" in str(error) for error in second.errors)
            database.execute("INSERT INTO other VALUES (1)")
            first.catch_up()
            assert not first.errors
            assert not fences
            first.control.stop()
            first.thread.join()
            database.execute("INSERT INTO other VALUES (2)")
            second.catch_up()
    assert operations(shop, "other") == [("c", b'{"id":1}'), ("c", b'{"id":2}')]


def test_the_dump_thread_is_killed(database: Database, shop: Source) -> None:
    dumps = "command LIKE 'Binlog Dump%'"
    with shop.running() as running:
        for number in range(2):
            running.wait(lambda: kill(database, dumps), "a dump thread")
            database.execute(f"INSERT INTO other VALUES ({number})")
            running.wait(lambda: len(running.errors) > number, "the loss of the connection")  # noqa: B023
            running.catch_up()
        kill(database, "id <> connection_id()")
        database.execute("INSERT INTO other VALUES (9)")
        running.catch_up()
    assert len(operations(shop, "other")) == 3
    assert_dense(shop.records())


def kill(database: Database, which: str) -> int:
    """End connections to the server; how many they were."""
    threads = database.execute(f"SELECT id FROM information_schema.processlist WHERE {which} AND user = 'cdc'")
    for (thread,) in threads:
        with contextlib.suppress(pymysql.err.OperationalError):  # it has ended by itself
            database.execute(f"KILL {thread}")
    return len(threads)


def test_the_binlog_changes_its_form_under_us(database: Database, shop: Source) -> None:
    """Another file, with a checksum or without; also where several of them are to be caught up with."""
    before = database.execute("SELECT @@GLOBAL.binlog_checksum")[0][0]
    statements = []
    for number, checksum in enumerate(["NONE", "CRC32", "NONE", "CRC32"]):
        statements += [f"SET GLOBAL binlog_checksum = {checksum}", f"INSERT INTO other VALUES ({number})"]
        statements += ["FLUSH BINARY LOGS", f"INSERT INTO item VALUES ({number}, 'x')"]
    try:
        with shop.running() as running:
            for statement in statements:
                running.catch_up()
                database.execute(statement)
            running.catch_up()
        database.execute("DELETE FROM other", "DELETE FROM item", *statements)
        shop.capture()
    finally:
        database.execute(f"SET GLOBAL binlog_checksum = {before}")
    assert len(operations(shop, "other")) == 4 + 4 + 4
    shop.assert_equal(database.table("item"), database.table("other"))
    assert_dense(shop.records())


def test_a_transaction_that_is_captured_before_it_is_committed(
    database: Database, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as a replica does not answer; a source that is started meanwhile does not take it for lost."""
    monkeypatch.setattr("connectors.mysql.history.COMMIT_SECONDS", 0.2)
    database.execute("CREATE TABLE late (id int PRIMARY KEY, n int)", "INSERT INTO late VALUES (1, 1)")
    shop = source("late")
    shop.capture()
    with unanswered(database.server, f"USE {database.schema}", "UPDATE late SET n = 2"):
        for _ in range(2):
            shop.capture()
            assert [event.operation for event in shop.events()] == ["r", "u"]
        assert database.execute("SELECT n FROM late") == [(1,)]
    shop.capture()
    shop.assert_equal(database.table("late"))
