"""Large values that an UPDATE did not touch, which the server does not send: filled before the append."""

from __future__ import annotations

import gc
import json
import signal
import threading
from collections.abc import Sequence

import psycopg
import pytest

import cdc.capture
from cdc.event import Value
from cdc.log import Produced
from cdc.log._embedded_writer import EmbeddedWriter
from cdc.record import PARTIAL
from cdc.source import incomplete
from cdc.source.incomplete import Incomplete
from connectors.postgres import reselect, stream
from connectors.postgres.visibility import DatabaseSnapshot
from schemas.types import LogicalType
from tests.integration.postgres.conftest import MakeSource
from tests.integration.postgres.support import Logged, Source, assert_dense, lost_standby
from tests.servers import wait_until
from tests.servers.postgres import Database

pytestmark = pytest.mark.xdist_group("postgres-toast")

BIG = "(SELECT string_agg(md5((n * {seed})::text), '') FROM generate_series(1, 300) n)"


def big(seed: int) -> str:
    """SQL of a text of 9,600 characters that does not compress, so that it is stored out of line."""
    return BIG.format(seed=seed)


def make(database: Database, identity: str = "DEFAULT") -> None:
    database.execute("CREATE TABLE doc (id int PRIMARY KEY, name text, body text)")
    database.execute("ALTER TABLE doc ALTER body SET STORAGE EXTERNAL")
    database.execute(f"ALTER TABLE doc REPLICA IDENTITY {identity}")


def unfilled(source: Source) -> list[object]:
    return [(r.operation, r.record.key) for r in source.events() if r.header.flags & PARTIAL]


def test_filled_by_reading_the_row_again(database: Database, source: MakeSource) -> None:
    make(database)
    shop = source(["public.doc"])
    shop.capture()
    database.execute(f"INSERT INTO doc SELECT n, 'old', {big(7)} FROM generate_series(1, 20) n")
    shop.capture()
    database.execute("UPDATE doc SET name = 'new' WHERE id <= 10")
    shop.capture()
    updates = [r for r in shop.events() if r.operation == "u"]
    assert len(updates) == 10
    assert all(len(r.after["body"]) == 9600 for r in updates)
    assert not unfilled(shop)
    shop.assert_equal("public.doc")


def test_filled_from_an_earlier_row_of_the_batch(database: Database, source: MakeSource) -> None:
    make(database)
    shop = source(["public.doc"])
    shop.capture()
    # The value that the update keeps is gone from the database by the time that it is captured.
    database.execute(f"INSERT INTO doc VALUES (1, 'a', {big(1)}), (2, 'a', {big(2)})")
    database.execute("UPDATE doc SET name = 'b' WHERE id = 1")
    database.execute("UPDATE doc SET id = 10, name = 'c' WHERE id = 1")
    database.execute("UPDATE doc SET name = 'd' WHERE id = 10")
    database.execute("DELETE FROM doc WHERE id = 10")
    shop.capture()
    assert not unfilled(shop)
    bodies = [r.after["body"] for r in shop.events() if r.operation in "cu" and r.after["id"] != 2]
    assert len(bodies) == 4
    assert len(set(bodies)) == 1
    shop.assert_equal("public.doc")


def test_filled_from_the_old_image_under_full(database: Database, source: MakeSource) -> None:
    make(database, "FULL")
    shop = source(["public.doc"])
    shop.capture()
    database.execute(f"INSERT INTO doc VALUES (1, 'a', {big(1)})")
    shop.capture()
    database.execute("UPDATE doc SET name = 'b' WHERE id = 1")
    database.execute("UPDATE doc SET id = 2 WHERE id = 1")
    database.execute(f"UPDATE doc SET body = {big(2)} WHERE id = 2")
    database.execute("DELETE FROM doc")
    shop.capture()
    assert not unfilled(shop)
    first = shop.events()[0].after["body"]
    assert [r.after["body"] == first for r in shop.events() if r.operation in "cu"] == [True, True, True, False]
    shop.assert_equal("public.doc")


def test_filled_on_a_key_change(database: Database, source: MakeSource) -> None:
    make(database)
    shop = source(["public.doc"])
    database.execute(f"INSERT INTO doc SELECT n, 'a', {big(3)} FROM generate_series(1, 5) n")
    shop.capture()
    database.execute("UPDATE doc SET id = id + 100")
    database.execute("UPDATE doc SET id = 201, name = 'z' WHERE id = 101")
    database.execute("UPDATE doc SET id = 301 WHERE id = 201")
    shop.capture()
    shop.assert_equal("public.doc")
    assert all(len(row["body"]) == 9600 for row in shop.rows("public.doc").values())
    assert_dense(shop.records())


def test_a_row_that_the_batch_moves_is_read_by_its_last_key(database: Database, source: MakeSource) -> None:
    """By its old key there is nothing, or another row: a history would keep a value that the row never had."""
    make(database)
    shop = source(["public.doc"])
    database.execute(f"INSERT INTO doc VALUES (1, 'a', {big(1)}), (2, 'a', {big(2)}), (3, 'a', {big(3)})")
    shop.capture()
    bodies = {r.after["id"]: r.after["body"] for r in shop.events()}
    database.execute("UPDATE doc SET name = 'b'")
    database.execute("UPDATE doc SET name = 'c'")
    database.execute("UPDATE doc SET id = id + 10 WHERE id < 3")
    database.execute("UPDATE doc SET id = id + 10 WHERE id = 11")
    database.execute("UPDATE doc SET name = 'd' WHERE id = 21")
    database.execute("DELETE FROM doc WHERE id = 3")
    database.execute(f"INSERT INTO doc VALUES (1, 'new', {big(4)}), (3, 'new', {big(5)})")
    shop.capture()
    updates = [r for r in shop.events() if r.operation == "u"]
    assert {r.after["body"] == bodies[r.after["id"] % 10] for r in updates if r.after["id"] != 3} == {True}
    assert unfilled(shop) == [("u", b'{"id":3}')] * 2, "which is not the row that is there now"
    shop.assert_equal("public.doc")


def test_a_row_deleted_since_stays_unfilled_and_its_delete_follows(database: Database, source: MakeSource) -> None:
    make(database)
    shop = source(["public.doc"])
    database.execute(f"INSERT INTO doc VALUES (1, 'a', {big(1)}), (2, 'a', {big(2)})")
    shop.capture()
    database.execute("UPDATE doc SET name = 'b'")
    database.execute("DELETE FROM doc WHERE id = 1")
    shop.capture()
    assert unfilled(shop) == [("u", b'{"id":1}')]
    [event] = [r for r in shop.events() if r.header.flags & PARTIAL]
    assert event.envelope["source"]["unchanged"] == ["body"]
    assert "body" not in event.after
    shop.assert_equal("public.doc")


@pytest.mark.parametrize("ddl", ["ALTER TABLE doc DROP body", "ALTER TABLE doc RENAME body TO text", "DROP TABLE doc"])
def test_a_column_gone_meanwhile_does_not_stop_capture(database: Database, source: MakeSource, ddl: str) -> None:
    make(database)
    database.execute("CREATE TABLE other (id int PRIMARY KEY)")
    shop = source(["public.*"])
    database.execute(f"INSERT INTO doc VALUES (1, 'a', {big(1)})")
    shop.capture()
    database.execute("UPDATE doc SET name = 'b'")
    database.execute(ddl)
    if "DROP TABLE" not in ddl:
        database.execute("UPDATE doc SET name = 'c'")
    database.execute("INSERT INTO other VALUES (1)")
    shop.capture()
    shop.assert_equal("public.other")
    if "DROP TABLE" not in ddl:
        shop.assert_equal("public.doc")


def test_absent_leaves_it_out_and_says_so(database: Database, source: MakeSource) -> None:
    make(database)
    shop = source(["public.doc"], toast="absent")
    database.execute(f"INSERT INTO doc VALUES (1, 'a', {big(1)})")
    shop.capture()
    database.execute("UPDATE doc SET name = 'b'")
    shop.capture()
    assert unfilled(shop) == [("u", b'{"id":1}')]
    shop.assert_equal("public.doc")  # a reader that merges has the value from the earlier record


def test_debezium_profile_has_a_placeholder_only_where_nothing_fills(database: Database, source: MakeSource) -> None:
    make(database)
    shop = source(["public.doc"], profile="debezium")
    database.execute(f"INSERT INTO doc VALUES (1, 'a', {big(1)}), (2, 'a', {big(2)})")
    shop.capture()
    database.execute("UPDATE doc SET name = 'b'")
    database.execute("DELETE FROM doc WHERE id = 1")
    shop.capture()
    updates = {json.loads(r.record.key)["id"]: r for r in shop.events() if r.operation == "u"}
    assert updates[1].after["body"] == "__debezium_unavailable_value"
    assert len(updates[2].after["body"]) == 9600


def test_the_re_read_behind_a_lock_lets_go_of_the_source_in_time(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(database18)
    monkeypatch.setattr(cdc.capture, "PATIENCE_SECONDS", 2.0)
    shop = source18(["public.doc"])
    database18.execute(f"INSERT INTO doc VALUES (1, 'a', {big(1)})")
    shop.capture()
    with database18.connect() as writer, database18.connect() as blocker, shop.running() as running:
        running.catch_up()
        pid = blocker.info.backend_pid
        blocker.execute("BEGIN")
        waiting = threading.Thread(target=blocker.execute, args=("LOCK TABLE doc",))
        with writer.transaction():
            writer.execute("UPDATE doc SET name = 'b'")
            waiting.start()
            locks = f"SELECT 1 FROM pg_locks WHERE pid = {pid} AND NOT granted"
            wait_until(lambda: database18.execute(locks), what="the lock to queue behind the writer")
        waiting.join()
        wait_until(lambda: running.errors, seconds=20, what="capture to let go of the source")
        blocker.execute("ROLLBACK")
        running.catch_up()
        shop.assert_equal("public.doc")
        assert not unfilled(shop)


@pytest.mark.parametrize("naive", [False, True])
def test_a_writer_that_is_not_visible_yet(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    """A streamed row that readers do not see: reading it would return the value before the one that is meant."""
    make(database18)
    shop = source18(["public.doc"])
    database18.execute(f"INSERT INTO doc VALUES (1, 'a', {big(1)})")
    shop.capture()
    monkeypatch.setattr(stream, "BATCH_BYTES", 1000)  # each row is a batch of its own
    monkeypatch.setattr(cdc.capture, "PATIENCE_SECONDS", 2.0)
    if naive:
        monkeypatch.setattr(DatabaseSnapshot, "sees", lambda *_: True)
    with lost_standby(database18.server) as come_back, shop.running() as running:
        statements = [f"UPDATE doc SET body = {big(2)}", "UPDATE doc SET name = 'b'"]
        writer = threading.Thread(target=_write, args=(database18.dsn, statements))
        writer.start()
        if naive:
            running.wait(lambda: len(updates(shop)) == 2, "both updates on the log")
        else:
            wait_until(lambda: running.errors, what="patience to run out")
            assert len(updates(shop)) == 1
        come_back()
        writer.join(30)
        running.catch_up()
    if naive:
        assert shop.differs("public.doc"), "the older value was read"
    else:
        shop.assert_equal("public.doc")


def updates(source: Source) -> list[Logged]:
    return [r for r in source.events() if r.operation == "u"]


def _write(dsn: str, statements: list[str]) -> None:
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@pytest.mark.parametrize("failpoint", ["", "capture.in_append:kill:4", "capture.before_acknowledge:kill:4"])
def test_what_a_batch_lacks_is_read_and_appended_in_portions(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch, failpoint: str
) -> None:
    """Of two tables in one transaction, with whole rows between; killed, capture goes on after a portion."""
    make(database18)
    database18.execute("CREATE TABLE other (LIKE doc INCLUDING ALL)")
    for table in ("doc", "other"):
        database18.execute(f"INSERT INTO {table} SELECT n, '', {big(7)} FROM generate_series(1, 30) n")
    shop = source18(["public.*"], snapshot={"mode": "never"})
    shop.capture()
    changes = []
    for first in (1, 11, 21):
        changes += [f"UPDATE doc SET name = id WHERE id BETWEEN {first} AND {first + 9}"]
        changes += [f"UPDATE other SET name = {first} WHERE id <= 10"]
        changes += [f"INSERT INTO doc VALUES ({100 + first}, 'new', 'whole')"]
        changes += [f"UPDATE doc SET id = id + 500 WHERE id = {first + 9}"]
    database18.execute("; ".join(changes))
    portion = 40_000
    if failpoint:
        patches = {"cdc.source.incomplete:PORTION_BYTES": portion}
        assert shop.process(failpoint, patches).wait() == -signal.SIGKILL
        stored = shop.position.open
        assert stored is not None
        assert stored.rows == len([r for r in shop.events() if r.operation != "d"])
    monkeypatch.setattr(incomplete, "PORTION_BYTES", portion)
    appended, held, read = [], [], [0]
    append, load = EmbeddedWriter.append, reselect.load

    def counting(self: EmbeddedWriter, records: Sequence[Produced], seconds: float) -> int:
        appended.append(sum(len(record.value or b"") for record in records))
        held.append(sum(row.size for row in gc.get_objects() if isinstance(row, Incomplete)))
        read.append(0)
        return append(self, records, seconds)

    def loading(type_: LogicalType, text: bytes) -> Value:
        read[-1] += len(text)
        return load(type_, text)

    monkeypatch.setattr(EmbeddedWriter, "append", counting)
    monkeypatch.setattr(reselect, "load", loading)
    shop.capture()
    for sizes in (appended, held, read):
        assert max(sizes) < portion + 12_000
    assert len(appended) > 5
    assert not unfilled(shop)
    assert len(shop.events()) == 3 * (10 + 10 + 1 + 2), "each once, a key change as two"
    assert_dense(shop.records())
    shop.assert_equal("public.doc")
