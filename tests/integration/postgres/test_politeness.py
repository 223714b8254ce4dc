"""What the database must not suffer: a shutdown that hangs, WAL kept for nothing, waiting for a lost standby."""

from __future__ import annotations

import sqlite3
import threading
import time

import pytest

import cdc.capture
from connectors import postgres
from connectors.postgres import feedback, stream
from tests.integration.postgres.conftest import MakeSource
from tests.integration.postgres.support import Source, lost_standby
from tests.servers import wait_until
from tests.servers.postgres import Database, Postgres

pytestmark = pytest.mark.xdist_group("postgres-politeness")

POLITE_SECONDS = 15.0


def make(server: Postgres, source: MakeSource) -> tuple[Database, Source]:
    server.start()
    database = Database(server, "postgres")
    database.execute("CREATE TABLE item (id int PRIMARY KEY)")
    shop = source(["public.item"]).changed(dsn=database.dsn)
    shop.capture()
    return database, shop


def seconds_to_stop(server: Postgres) -> float:
    began = time.monotonic()
    server.stop()
    return time.monotonic() - began


@pytest.mark.parametrize("naive", [False, True])
def test_a_fast_shutdown_while_capture_is_idle(
    own_postgres: Postgres, source18: MakeSource, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    database, shop = make(own_postgres, source18)
    monkeypatch.setattr(postgres, "ASIDE_SECONDS", (1.0, 2.0))
    if naive:
        monkeypatch.setattr(feedback, "SHUTDOWN_PINGS", 1 << 60)
    with shop.running() as running:
        running.catch_up()
        if naive:
            stopping = threading.Thread(target=own_postgres.stop)
            stopping.start()
            stopping.join(6)
            assert stopping.is_alive(), "it waits for us"
            running.control.stop()
            stopping.join()
            return
        assert seconds_to_stop(own_postgres) < POLITE_SECONDS
        own_postgres.start()
        database.execute("INSERT INTO item VALUES (1)")
        running.catch_up(40)
    shop.assert_equal("public.item")


@pytest.mark.parametrize("when", ["streaming", "starting"])
def test_a_fast_shutdown_while_the_log_does_not_answer(
    own_postgres: Postgres, source18: MakeSource, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    database, shop = make(own_postgres, source18)
    monkeypatch.setattr(postgres, "ASIDE_SECONDS", (1.0, 2.0))
    monkeypatch.setattr(cdc.capture, "PATIENCE_SECONDS", 10.0)
    locked = sqlite3.connect(shop.folder / "log" / "test" / "source-shop.db", isolation_level=None)
    if when == "starting":
        locked.execute("BEGIN IMMEDIATE")
    with shop.running() as running:
        slots = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{shop.slot}' AND active"
        running.wait(lambda: database.execute(slots), "the slot to be taken")
        if when == "streaming":
            running.catch_up()
            locked.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO item SELECT generate_series(1, 1000)")
        took = seconds_to_stop(own_postgres)
        locked.execute("ROLLBACK")
        locked.close()
        assert took < POLITE_SECONDS
        own_postgres.start()
        running.catch_up(60)
    shop.assert_equal("public.item")


def test_an_idle_captured_database_keeps_no_wal(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables that are not captured are busy: the slot follows, and when all is quiet nothing writes by itself."""
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 1.0)
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE busy (content text)")
    shop = source18(["public.item"])
    lsn = "SELECT (pg_current_wal_lsn() - '0/0')::bigint"
    confirmed = (
        f"SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = '{shop.slot}'"
    )
    with shop.running() as running:
        running.catch_up()
        for _ in range(3):
            database18.execute("INSERT INTO busy SELECT repeat('x', 1000) FROM generate_series(1, 300)")
            [(written,)] = database18.execute(lsn)
            # Before version 15 the server sends these transactions too, empty, and the slot stands before the commit
            # record of the last.
            end = written if database18.server.version >= 15 else written - 1000
            running.wait(lambda end=end: database18.execute(confirmed)[0][0] >= end, "the slot to follow")
        before = shop.position
        deadline = time.monotonic() + 4
        running.wait(lambda: time.monotonic() > deadline, "four quiet heartbeats")
        assert shop.position.commit_lsn - before.commit_lsn < 1000, "heartbeats do not answer themselves"
        assert not running.errors


def test_a_lost_standby_does_not_hold_up_our_own_messages(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.5)
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)")
    database18.execute("CREATE TABLE busy (content text)")
    shop = source18(["public.item"])
    with lost_standby(database18.server):
        with shop.running() as running:
            running.catch_up()
            shop.assert_equal("public.item")
            before = shop.position.commit_lsn
            with database18.connect() as busy:
                busy.execute("SET synchronous_commit = local")
                busy.execute("INSERT INTO busy SELECT repeat('x', 1000) FROM generate_series(1, 300)")
            running.wait(lambda: shop.position.commit_lsn > before + 300_000, "a heartbeat")
        assert not running.errors


def test_a_standby_that_never_was_does_not_matter_to_slot_and_position(
    database18: Database, source18: MakeSource
) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY)")
    shop = source18(["public.item"])
    with lost_standby(database18.server):
        shop.capture()
    shop.connector.cleanup()
    wait_until(lambda: shop.connector.leftovers() == [], what="nothing left over")
