"""Killed anywhere, capture goes on exactly where the log ends."""

from __future__ import annotations

import signal
from contextlib import closing

import psycopg
import pytest

from cdc.errors import UnreachableError
from connectors import postgres
from connectors.postgres.client import LIMITS, ReplicationConnection, connect
from connectors.postgres.config import PostgresConfig
from connectors.postgres.pgoutput import Begin
from connectors.postgres.position import Position
from connectors.postgres.resume import WHOLE, Resumption
from tests.integration.postgres.conftest import MakeSource
from tests.integration.postgres.support import Source, assert_dense
from tests.integration.sources import count_fences
from tests.servers import wait_until
from tests.servers.postgres import Database, Postgres

pytestmark = pytest.mark.xdist_group("postgres-resume")

SPLIT = {"connectors.postgres.stream:BATCH_BYTES": 40_000, "cdc.capture:LOADED_COMMIT_SECONDS": 0.0}
"""A transaction of 10,000 rows takes some twenty appends."""


def make(database: Database, source: MakeSource) -> Source:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, name text); CREATE TABLE other (id int PRIMARY KEY)")
    shop = source(["public.item", "public.other"])
    shop.capture()
    return shop


def operations(shop: Source, table: str) -> list[tuple[str, bytes]]:
    return [(r.operation, r.record.key) for r in shop.events(table)]


@pytest.mark.parametrize(
    "point", ["capture.after_decode:kill:9", "capture.in_append:kill:5", "capture.before_acknowledge:kill:4"]
)
def test_a_huge_transaction_killed_in_the_middle(database18: Database, source18: MakeSource, point: str) -> None:
    shop = make(database18, source18)
    with database18.connect() as connection, connection.transaction():
        connection.execute("INSERT INTO other VALUES (1)")
        with connection.cursor().copy("COPY item FROM STDIN") as copy:
            for number in range(10_000):
                copy.write_row((number, "copied"))
        connection.execute("UPDATE item SET id = -1 WHERE id = 0")
        connection.execute("DELETE FROM item WHERE id > 9990")
    database18.execute("INSERT INTO other VALUES (2)")
    assert shop.process(point, SPLIT).wait() == -signal.SIGKILL
    half = shop.position.open
    assert half is not None
    assert 0 < half.rows < 10_000
    assert shop.process(point, SPLIT).wait() == -signal.SIGKILL
    assert shop.process(patches=SPLIT).wait() == 0

    events = operations(shop, "public.item")
    assert len([operation for operation, _ in events if operation == "c"]) == 10_001
    assert len([operation for operation, _ in events if operation == "d"]) == 10
    assert operations(shop, "public.other") == [("c", b'{"id":1}'), ("c", b'{"id":2}')]
    assert_dense(shop.records())
    shop.assert_equal("public.item", "public.other")


@pytest.mark.parametrize("naive", [False, True])
def test_a_half_stored_transaction_is_named_exactly(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    """Rows of one COPY share their LSN: a position that is an LSN would lose or repeat some."""
    shop = make(database18, source18)
    with database18.connect() as connection, connection.cursor().copy("COPY item FROM STDIN") as copy:
        for number in range(5_000):
            copy.write_row((number, "copied"))
    assert shop.process("capture.before_acknowledge:kill:2", SPLIT).wait() == -signal.SIGKILL
    assert shop.position.open is not None
    if naive:
        monkeypatch.setattr(Resumption, "begun", _skip_nothing)
        monkeypatch.setattr(Resumption, "skipped", lambda *_: None)
    shop.capture()
    created = [key for _, key in operations(shop, "public.item")]
    assert (len(created) == len(set(created)) == 5_000) != naive


def _skip_nothing(self: Resumption, begin: Begin) -> int:
    rows = _begun(self, begin)
    return rows if rows == WHOLE else 0


_begun = Resumption.begun


def test_small_transactions_killed_between_append_and_acknowledgement(database: Database, source: MakeSource) -> None:
    shop = make(database, source)
    for number in range(3):
        database.execute(f"INSERT INTO other VALUES ({number})")
        process = shop.process("capture.before_acknowledge:kill:1", until_caught_up=False)
        assert process.wait() == -signal.SIGKILL
    shop.capture()
    shop.capture()
    assert operations(shop, "public.other") == [("c", b'{"id":%d}' % number) for number in range(3)]
    assert_dense(shop.records())


def test_killed_between_intent_and_slot(database18: Database, source18: MakeSource) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)")
    shop = source18(["public.item"])
    with database18.connect() as blocker:
        # Making a slot waits until transactions that run now have ended.
        blocker.execute("BEGIN; SELECT pg_current_xact_id()")
        process = shop.process(until_caught_up=False)
        wait_until(lambda: shop.log.positions(), what="the intent")
        process.end()
        intent = shop.position
        assert intent.anchor is None
        blocker.execute("ROLLBACK")
    slots = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{shop.slot}' AND active"
    wait_until(lambda: not database18.execute(slots), what="the end of the killed capture's walsender")
    shop.capture()
    assert (shop.position.epoch, shop.position.nonce) == (intent.epoch, intent.nonce)
    database18.execute("INSERT INTO item VALUES (2)")
    shop.capture()
    shop.assert_equal("public.item")


def test_a_strangers_slot_beside_an_intent_begins_with_the_nonce(database18: Database, source18: MakeSource) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)")
    shop = source18(["public.item"])
    database18.execute(f"CREATE PUBLICATION {shop.slot} FOR TABLE item")
    database18.execute(f"SELECT pg_create_logical_replication_slot('{shop.slot}', 'pgoutput')")
    database18.execute("INSERT INTO item VALUES (2); DELETE FROM item WHERE id = 1")
    shop.capture()
    assert operations(shop, "public.item") == [("r", b'{"id":2}')], "what lies before our nonce is not ours"
    shop.assert_equal("public.item")


def test_the_second_capture_waits_and_fences_nobody(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = make(database18, source18)
    with shop.running() as first:
        first.catch_up()
        fences = count_fences(monkeypatch, shop.log)
        with shop.running() as second:
            wait_until(lambda: len(second.errors) > 3, what="the second to be turned away")
            assert {"another process captures this source; this one waits"} == {e.hint for e in second.errors}
            database18.execute("INSERT INTO other VALUES (1)")
            first.catch_up()
            assert not first.errors
            assert not fences
            first.control.stop()
            first.thread.join()
            database18.execute("INSERT INTO other VALUES (2)")
            second.catch_up()
    assert operations(shop, "public.other") == [("c", b'{"id":1}'), ("c", b'{"id":2}')]


@pytest.mark.parametrize("how", ["stop", "immediate", "kill"])
def test_the_server_is_restarted_under_us(
    own_postgres: Postgres, source18: MakeSource, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(postgres, "ASIDE_SECONDS", (1.0, 2.0))
    own_postgres.settings["fsync"] = "on"
    own_postgres.start()
    database = Database(own_postgres, "postgres")
    shop = make(database, lambda tables: source18(tables).changed(dsn=database.dsn))
    with shop.running() as running:
        running.catch_up()
        for number in range(2):
            database.execute(f"INSERT INTO other VALUES ({number})")
            running.catch_up()
            getattr(own_postgres, how)()
            own_postgres.start()
        database.execute("INSERT INTO other VALUES (5)")
        running.catch_up(40)
    shop.assert_equal("public.other")
    assert_dense(shop.records())


def test_the_walsender_is_terminated(database18: Database, source18: MakeSource) -> None:
    shop = make(database18, source18)
    with shop.running() as running:
        for number in range(3):
            running.catch_up()
            database18.execute(
                f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{shop.slot}'"
            )
            database18.execute(f"INSERT INTO other VALUES ({number})")
        wait_until(lambda: running.errors, what="the loss of the connection")
        running.catch_up()
        # And every connection of ours at once.
        database18.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdc'")
        database18.execute("INSERT INTO other VALUES (9)")
        running.catch_up()
    assert len(operations(shop, "public.other")) == 4
    assert_dense(shop.records())


def test_limits_on_sessions_do_not_end_ours(database: Database) -> None:
    """With one on transactions a large one ended the source: each time that it was sent, it took too long. One on
    statements ended the reading of each large chunk."""
    names = [name for name in LIMITS if name != "transaction_timeout" or database.server.version >= 17]
    for name in names:
        database.execute(f"ALTER DATABASE {database.name} SET {name} = '1min'")
    config = PostgresConfig(type="postgres", url=database.dsn, tables=["public.item"])
    with closing(ReplicationConnection(config)) as replication, connect(config) as connection:
        for name in names:
            assert replication.query(f"SHOW {name}") == [("0",)]
            assert connection.execute(f"SHOW {name}").fetchall() == [("0",)]


def test_a_position_is_never_less_than_what_is_on_the_log(database18: Database, source18: MakeSource) -> None:
    """A table added while a transaction is on the log in part: the position is stored anew before it is passed."""
    shop = make(database18, source18)
    database18.execute("CREATE TABLE extra (id int PRIMARY KEY); INSERT INTO item SELECT generate_series(1, 10000)")
    assert shop.process("capture.before_acknowledge:kill:5", SPLIT).wait() == -signal.SIGKILL
    half = shop.position.open
    assert half is not None
    more = shop.changed(tables=["public.item", "public.other", "public.extra"])
    patches = {**SPLIT, "connectors.postgres.stream:BATCH_BYTES": 1000}
    assert more.process("capture.before_acknowledge:kill:1", patches).wait() == -signal.SIGKILL
    stored: Position = more.position
    assert stored.open is not None
    assert stored.open.rows >= half.rows
    more.capture()
    assert len(operations(more, "public.item")) == 10_000
    more.assert_equal("public.item")


def test_a_stream_that_makes_no_sense_any_more_is_connected_anew(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What libpq says then comes out of the very call that is made for each row."""
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)")
    shop = source18(["public.item"])
    start = ReplicationConnection.start
    broken: list[ReplicationConnection] = []

    def starting(connection: ReplicationConnection, slot: str, publication: str, lsn: int) -> None:
        start(connection, slot, publication, lsn)
        if not broken:
            broken.append(connection)
            monkeypatch.setattr(connection, "receive", _lost_synchronisation)

    monkeypatch.setattr(ReplicationConnection, "start", starting)
    with shop.running() as running:
        running.wait(lambda: broken and running.errors, "the error")
        running.catch_up()
    assert isinstance(running.errors[0], UnreachableError)
    shop.assert_equal("public.item")


def _lost_synchronisation(_: int) -> tuple[int, memoryview]:
    raise psycopg.OperationalError("lost synchronization with server")
