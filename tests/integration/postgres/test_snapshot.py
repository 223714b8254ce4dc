"""Rows that exist already: read in chunks while the stream runs, and ordered against it."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable
from random import Random
from typing import Any

import psycopg
import pytest

from cdc.source import snapshot as snapshots
from connectors.postgres import chunk as chunks
from connectors.postgres.chunk import ChunkReader
from connectors.postgres.snapshot import PostgresSnapshots
from connectors.postgres.tables import Tables
from connectors.postgres.visibility import DatabaseSnapshot
from tests.integration.postgres.conftest import MakeSource
from tests.integration.postgres.support import assert_dense, lost_standby
from tests.servers import wait_until
from tests.servers.postgres import Database

pytestmark = pytest.mark.xdist_group("postgres-snapshot")

SMALL = {"chunk_bytes": "4KiB"}

KEYS = {
    "composite": ("a int, b text, PRIMARY KEY (b, a)", "SELECT n % 7, 'k' || n FROM generate_series(1, 900) n"),
    "composite, equal first part": ("a int, b int, PRIMARY KEY (a, b)", "SELECT 1, n FROM generate_series(1, 900) n"),
    "text": (
        "a text PRIMARY KEY, b int",
        "SELECT repeat(chr(33 + n % 90), 1 + n % 5) || E'\\\\\\'\"\\t%s{}' || n, n FROM generate_series(1, 900) n",
    ),
    "uuid": ("a uuid PRIMARY KEY, b int", "SELECT md5(n::text)::uuid, n FROM generate_series(1, 900) n"),
    "numeric": ("a numeric PRIMARY KEY, b int", "SELECT n / 7.0, n FROM generate_series(-400, 500) n"),
    "timestamptz": (
        "a timestamptz PRIMARY KEY, b int",
        "SELECT now() + n * interval '1.000001 day', n FROM generate_series(-400, 500) n",
    ),
    "bytea": ("a bytea PRIMARY KEY, b int", "SELECT decode(md5(n::text), 'hex'), n FROM generate_series(1, 900) n"),
    "boolean first": ("a boolean, b int, PRIMARY KEY (a, b)", "SELECT n % 2 = 0, n FROM generate_series(1, 900) n"),
    "empty": ("a int PRIMARY KEY, b int", "SELECT 1, 2 WHERE false"),
    "one row": ("a int PRIMARY KEY, b int", "SELECT 1, 2"),
}


@pytest.mark.parametrize("key", KEYS)
def test_every_row_once_whatever_the_key(database: Database, source: MakeSource, key: str) -> None:
    columns, rows = KEYS[key]
    database.execute(f"CREATE TABLE item ({columns}); INSERT INTO item {rows}")
    shop = source(["public.item"], snapshot=SMALL)
    shop.capture()
    shop.assert_equal("public.item")
    [(count,)] = database.execute("SELECT count(*) FROM item")
    assert [r.operation for r in shop.records()] == ["r"] * count
    assert_dense(shop.records())
    assert not shop.position.snapshots


@pytest.mark.parametrize(("readers", "size"), [(1, "20KiB"), (4, "8KiB")])
def test_rows_that_change_while_they_are_read(database: Database, source: MakeSource, readers: int, size: str) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, name text, note text)")
    database.execute("INSERT INTO item SELECT n, 'row ' || n, repeat('x', 50) FROM generate_series(1, 6000) n")
    shop = source(["public.item"], snapshot={"readers": readers, "chunk_bytes": size})
    stop = threading.Event()
    writers = [threading.Thread(target=_write, args=(database.dsn, seed, stop)) for seed in range(2)]
    for writer in writers:
        writer.start()
    try:
        with shop.running() as running:
            running.wait(
                lambda: shop.log.positions() and shop.position.anchor and not shop.position.snapshots, seconds=60
            )
            stop.set()
            for writer in writers:
                writer.join()
            running.catch_up()
    finally:
        stop.set()
    shop.assert_equal("public.item")
    assert_dense(shop.records())
    kinds = {r.operation for r in shop.events()}
    assert kinds == set("rcud"), "the writers and the snapshot met"


def _write(dsn: str, seed: int, stop: threading.Event) -> None:
    """Inserts, updates, deletes and key changes all over the table."""
    random = Random(seed)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for number in itertools.count(100_000 * (seed + 1)):
            update, delete, old, new = (random.randint(1, 6000) for _ in range(4))
            connection.execute("UPDATE item SET name = 'changed' WHERE id = %s", [update])
            connection.execute("DELETE FROM item WHERE id = %s", [delete])
            connection.execute("UPDATE item SET id = %s WHERE id = %s", [number, old])
            connection.execute("INSERT INTO item VALUES (%s, 'new') ON CONFLICT DO NOTHING", [new])
            if stop.wait(0.005):
                return


@pytest.mark.parametrize("point", ["snapshot.in_chunk:kill:3", "capture.in_append:kill:2"])
def test_killed_in_a_chunk_it_goes_on_there(database: Database, source: MakeSource, point: str) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, name text); CREATE TABLE other (id int PRIMARY KEY)")
    database.execute("INSERT INTO item SELECT n, 'row ' || n FROM generate_series(1, 3000) n")
    database.execute("INSERT INTO other VALUES (1)")
    shop = source(["public.item", "public.other"], snapshot={"chunk_bytes": "8KiB"})
    for _ in range(2):
        assert shop.process(point, {"cdc.capture:LOADED_COMMIT_SECONDS": 0.0}).wait() == -signal.SIGKILL
    done = shop.position.snapshots["public.item"].rows
    assert done > 0
    database.execute("UPDATE item SET name = 'x' WHERE id % 10 = 0; DELETE FROM item WHERE id % 100 = 1")
    shop.capture()
    reads = [r for r in shop.records("public.item") if r.operation == "r"]
    assert len({r.record.key for r in reads}) == len(reads), "no chunk is read twice"
    shop.assert_equal("public.item", "public.other")
    assert_dense(shop.records())


def test_tables_added_and_removed_at_restart(database: Database, source: MakeSource) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)")
    database.execute("INSERT INTO item VALUES (1), (2); INSERT INTO other VALUES (1), (2)")
    shop = source(["public.item"])
    shop.capture()
    both = shop.changed(tables={"public.item": None, "public.other": {"snapshot": "initial"}})
    both.capture()
    both.assert_equal("public.item", "public.other")
    database.execute("DELETE FROM item WHERE id = 1; DELETE FROM other WHERE id = 1")
    both.capture()
    shop.capture()
    assert set(shop.position.tables) == {"public.item"}
    # Unseen while it was out; a ghost on the log when it comes back.
    database.execute("DELETE FROM other; INSERT INTO other VALUES (7)")
    both.capture()
    both.assert_equal("public.item", "public.other")
    assert [r.operation for r in both.records("public.other")].count("s") == both.partitions


def test_never_means_never(database18: Database, source18: MakeSource) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)")
    shop = source18(["public.item"], snapshot={"mode": "never"})
    shop.capture()
    database18.execute("INSERT INTO item VALUES (2)")
    shop.capture()
    assert [r.record.key for r in shop.records()] == [b'{"id":2}']


def held(monkeypatch: pytest.MonkeyPatch, where: str, chunk: int = 1) -> tuple[threading.Event, threading.Event]:
    """Stop the reader of the chunk of that number at its low or high mark, or before its copy; (reached, go on)."""
    reached, go_on = threading.Event(), threading.Event()
    numbers = itertools.count(1)

    def hold() -> None:
        if next(numbers) == chunk:
            reached.set()
            assert go_on.wait(30)

    emit, copy = ChunkReader._emit, ChunkReader._copy

    def emitting(self: ChunkReader, connection: Any, content: str) -> None:
        if f'"{where}"' in content:
            hold()
        emit(self, connection, content)

    def copying(self: ChunkReader, *arguments: Any) -> None:
        if where == "copy":
            hold()
        copy(self, *arguments)

    monkeypatch.setattr(ChunkReader, "_emit", emitting)
    monkeypatch.setattr(ChunkReader, "_copy", copying)
    return reached, go_on


def ignore(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(PostgresSnapshots, method, lambda *_: None)


def _truncate(database: Database) -> None:
    database.execute("TRUNCATE item")


def _delete(database: Database) -> None:
    database.execute("DELETE FROM item WHERE id < 5")


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize(("change", "guard"), [(_truncate, "broken"), (_delete, "touched")])
def test_changes_between_read_and_high_mark(
    database18: Database,
    source18: MakeSource,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Database], None],
    guard: str,
    naive: bool,
) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item SELECT generate_series(1, 10)")
    shop = source18(["public.item"])
    reached, go_on = held(monkeypatch, "high")
    if naive:
        ignore(monkeypatch, guard)
    with shop.running() as running:
        running.wait(reached.is_set, "the chunk to be read")
        change(database18)
        go_on.set()
        running.wait(lambda: not shop.position.snapshots, "the end of the snapshot")
        running.catch_up()
    assert shop.differs("public.item") == naive


def test_asked_for_again_while_it_is_read_a_table_is_read_from_its_beginning(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item SELECT generate_series(1, 900)")
    shop = source18(["public.item"], snapshot={"chunk_bytes": "1KiB"})
    reached, go_on = held(monkeypatch, "high", chunk=3)
    with shop.running() as running:
        running.wait(reached.is_set, "a chunk to be read")
        running.wait(lambda: shop.position.snapshots["public.item"].rows, "chunks before it on the log")
        shop.request_snapshot("public.item")
        running.wait(lambda: shop.log.states("snapshot_request") == {}, "the request to be taken up")
        go_on.set()
        running.wait(lambda: not shop.position.snapshots, "the end of the snapshot")
        running.catch_up()
    shop.assert_equal("public.item")
    assert [r.operation for r in shop.records()].count("s") == shop.partitions


def test_a_value_left_out_is_not_lost_with_the_row_that_was_read(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `toast: absent` the row that was read has the value, the update that would replace it has not."""
    database18.execute("CREATE TABLE item (id int PRIMARY KEY, name text, body text)")
    database18.execute("ALTER TABLE item ALTER body SET STORAGE EXTERNAL")
    database18.execute("INSERT INTO item VALUES (1, 'a', repeat('x', 9000))")
    shop = source18(["public.item"], toast="absent")
    reached, go_on = held(monkeypatch, "high")
    with shop.running() as running:
        running.wait(reached.is_set, "the chunk to be read")
        database18.execute("UPDATE item SET name = 'b'")
        go_on.set()
        running.wait(lambda: not shop.position.snapshots, "the end of the snapshot")
        running.catch_up()
    shop.assert_equal("public.item")


@pytest.mark.parametrize("naive", [False, True])
def test_a_chunk_behind_an_uncommitted_rewrite(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    """A COPY whose snapshot is older than the rewrite it waited for returns no rows, without an error."""
    database18.execute(
        "CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item SELECT generate_series(1, 9)"
    )
    shop = source18(["public.item"])
    if naive:
        monkeypatch.setattr(ChunkReader, "_read", _read_without_lock)
    with database18.connect() as writer, shop.changed(tables=["public.item"]).running() as running:
        running.catch_up()
        reached, go_on = held(monkeypatch, "low")  # a transaction that began before the snapshot would be waited for
        shop.request_snapshot("public.item")
        running.wait(reached.is_set, "the chunk to be begun")
        writer.execute("BEGIN; ALTER TABLE item ALTER name TYPE varchar(40) USING name || '!'")
        writer.execute("ALTER TABLE item ALTER name TYPE text USING name || '!'")
        go_on.set()
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'item'::regclass"
        running.wait(lambda: database18.execute(waiting), "the reader to wait for the table")
        if not naive:
            running.wait(lambda: not database18.execute(waiting), "the reader to step back", 10)
        writer.execute("COMMIT")
        running.wait(lambda: not shop.position.snapshots and shop.log.states("snapshot_request") == {})
        running.catch_up()
    assert shop.differs("public.item") == naive


def _read_without_lock(self: ChunkReader, connection: Any, chunk: chunks.PostgresChunk) -> None:
    self._emit(connection, chunk.mark("low"))
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    row = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
    chunk.snapshot = DatabaseSnapshot.parse(row[0])
    self._copy(connection, chunk)
    connection.execute("ROLLBACK")
    self._emit(connection, chunk.mark("high"))


@pytest.mark.parametrize("naive", [False, True])
def test_a_transaction_in_flight_when_a_table_is_added(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    """What it wrote before the table was published is not in the stream, and not visible yet either."""
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)")
    shop = source18(["public.item"])
    shop.capture()
    if naive:
        monkeypatch.setattr(PostgresSnapshots, "_may_read", lambda *_: "")
    both = shop.changed(tables=["public.item", "public.other"])
    with database18.connect() as writer:
        writer.execute("BEGIN; INSERT INTO other VALUES (1)")
        with both.running() as running:
            running.wait(lambda: "public.other" in both.position.tables, "the table to be taken up")
            if naive:
                running.wait(lambda: not both.position.snapshots, "the end of the snapshot")
            else:
                state = lambda: both.log.states("worker")["source/shop"]  # noqa: E731
                running.wait(lambda: "transactions" in state().get("waiting_for", ""), "the snapshot to wait")
                assert both.position.snapshots
            writer.execute("INSERT INTO other VALUES (2)")
            writer.execute("COMMIT")
            running.wait(lambda: not both.position.snapshots, "the end of the snapshot")
            running.catch_up()
    assert both.differs("public.other") == naive


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("naive", ["", "no fence", "young transactions forgotten"])
def test_a_lost_standby_keeps_a_streamed_transaction_invisible(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch, restarted: bool, naive: str
) -> None:
    """It is on the log, but the chunk that is read later does not see it, and would bring the older row back."""
    database18.execute(
        "CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item VALUES (1, 'old'), (2, 'old')"
    )
    shop = source18(["public.item"])
    shop.capture()
    if naive == "no fence":
        monkeypatch.setattr(PostgresSnapshots, "_may_read", lambda *_: "")
    if naive == "young transactions forgotten":
        monkeypatch.setattr(Tables, "begun_snapshot", Tables.current_snapshot)
    if naive == "no fence":
        monkeypatch.setattr(DatabaseSnapshot, "sees", lambda *_: True)
    with lost_standby(database18.server) as come_back:
        writer = threading.Thread(target=_update, args=(database18.dsn,))
        writer.start()
        streamed = lambda: "u" in [r.operation for r in shop.events()]  # noqa: E731
        if restarted:
            process = shop.process(until_caught_up=False)
            wait_until(streamed, what="the update on the log")
            process.end()
        with shop.running() as running:
            running.wait(streamed, "the update on the log")
            shop.request_snapshot("public.item")
            if naive:
                running.wait(lambda: [r for r in shop.records() if r.operation == "s"], "the end of the snapshot")
            else:
                state = lambda: shop.log.states("worker")["source/shop"]  # noqa: E731
                running.wait(lambda: "transactions" in state().get("waiting_for", ""), "the snapshot to wait")
            come_back()
            writer.join(30)
            running.wait(lambda: [r for r in shop.records() if r.operation == "s"], "the end of the snapshot")
            running.catch_up()
    assert shop.differs("public.item") == bool(naive)


def _update(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE item SET name = 'new' WHERE id = 1; DELETE FROM item WHERE id = 2")


def test_too_many_keys_touched_means_a_smaller_chunk(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item SELECT generate_series(1, 2000)")
    shop = source18(["public.item"], snapshot={"chunk_bytes": "1KiB"})
    reached, go_on = held(monkeypatch, "high")
    limits: list[int] = []
    begin = ChunkReader.begin
    monkeypatch.setattr(ChunkReader, "begin", lambda self, chunk: (limits.append(chunk.limit), begin(self, chunk))[1])
    with shop.running() as running:
        running.wait(reached.is_set, "the chunk to be read")
        database18.execute("UPDATE item SET id = -id")
        go_on.set()
        running.wait(lambda: not shop.position.snapshots, "the end of the snapshot")
        running.catch_up()
    shop.assert_equal("public.item")
    assert limits[1] == limits[0] // 2
    assert snapshots.CHUNK_ROWS[0] <= min(limits)


def test_a_table_that_is_dropped_while_it_waits_for_its_snapshot(database18: Database, source18: MakeSource) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)")
    database18.execute("CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)")
    shop = source18(["public.*"])
    with database18.connect() as blocker:
        blocker.execute("BEGIN; SELECT pg_current_xact_id()")
        process = shop.process(until_caught_up=False)
        wait_until(lambda: shop.log.positions(), what="the intent")
        process.end()
        blocker.execute("ROLLBACK")
    database18.execute("DROP TABLE other")
    shop.capture()
    shop.assert_equal("public.item")
