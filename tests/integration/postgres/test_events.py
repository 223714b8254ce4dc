"""What changes become on the log: one event each, in order, whatever the replica identity."""

from __future__ import annotations

import contextlib
import json

import pytest

from cdc.record import KEY_CHANGE, TOMBSTONE
from tests.integration.postgres.conftest import MakeSource
from tests.integration.postgres.support import Logged, assert_dense
from tests.servers.postgres import Database

pytestmark = pytest.mark.xdist_group("postgres-events")


def keys(events: list[Logged]) -> list[tuple[str, object]]:
    """Operation and the key's values."""
    return [(e.operation, *json.loads(e.record.key).values()) for e in events]


def test_every_operation_is_one_event_in_order(database: Database, source: MakeSource) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, name text)")
    shop = source(["public.item"])
    shop.capture()
    database.execute("INSERT INTO item VALUES (1, 'a'), (2, NULL)")
    database.execute("UPDATE item SET name = 'b' WHERE id = 1")
    database.execute("DELETE FROM item WHERE id = 2")
    shop.capture()

    assert keys(shop.events()) == [("c", 1), ("c", 2), ("u", 1), ("d", 2)]
    update = shop.events()[2].envelope
    assert update["before"] is None
    assert update["after"] == {"id": 1, "name": "b"}
    assert update["op"] == "u"
    assert shop.events()[3].envelope["before"] == {"id": 2}
    tombstones = [r for r in shop.records() if r.header.flags & TOMBSTONE]
    assert [(r.record.value, r.version) for r in tombstones] == [(None, shop.events()[3].version)]
    assert_dense(shop.records())
    shop.assert_equal("public.item")


def test_truncate_is_a_marker_in_every_partition(database: Database, source: MakeSource) -> None:
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a)")
    shop = source(["public.*"])
    shop.capture()
    database.execute("INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (1)")
    database.execute("TRUNCATE a CASCADE")
    database.execute("INSERT INTO a VALUES (2), (3)")
    shop.capture()

    markers = [r for r in shop.records() if r.operation == "t"]
    assert sorted((r.topic, r.partition) for r in markers) == [(f"test.public.{t}", n) for t in "ab" for n in range(3)]
    assert {r.record.value for r in markers} == {b""}
    assert len({r.version for r in markers}) == 2, "one number for each table, repeated in its partitions"
    assert_dense(shop.records())
    shop.assert_equal("public.a", "public.b")


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL", "USING INDEX item_code"])
def test_key_changes_under_each_replica_identity(database: Database, source: MakeSource, identity: str) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, code text NOT NULL, name text)")
    database.execute("CREATE UNIQUE INDEX item_code ON item (code)")
    database.execute(f"ALTER TABLE item REPLICA IDENTITY {identity}")
    shop = source(["public.item"])
    shop.capture()
    with database.connect() as connection:
        connection.execute("INSERT INTO item SELECT n, 'code ' || n, 'name ' || n FROM generate_series(1, 5) n")
        for number in range(5, 0, -1):
            connection.execute("UPDATE item SET id = id + 1, code = code || '+' WHERE id = %s", [number])
        # Two rows swap their keys through a third value.
        for old, new in ((2, 99), (3, 2), (99, 3)):
            connection.execute("UPDATE item SET id = %s WHERE id = %s", [new, old])
        connection.execute("UPDATE item SET code = 'c4' WHERE id = 4")
        connection.execute("UPDATE item SET name = 'x' WHERE id = 5")
        connection.execute("DELETE FROM item WHERE id = 6")
    shop.capture()

    shop.assert_equal("public.item")
    halves = [r for r in shop.events() if r.header.flags & KEY_CHANGE]
    assert halves
    assert [r.operation for r in halves] == ["d", "c"] * (len(halves) // 2), "the delete comes first"
    assert [r.version for r in halves[1::2]] == [r.version + 1 for r in halves[::2]], "each half has its own version"
    assert_dense(shop.records())
    befores = [r.envelope["before"] for r in shop.events() if r.operation == "u"]
    if identity == "FULL":
        assert befores[-1] == {"id": 5, "code": "code 4+", "name": "name 4"}


def test_shifting_all_keys_in_one_statement(database: Database, source: MakeSource) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, name text)")
    shop = source(["public.item"])
    # Stored in descending order, so that `id + 1` never meets a key that is still there.
    database.execute("INSERT INTO item SELECT n, 'row ' || n FROM generate_series(500, 1, -1) n")
    shop.capture()
    database.execute("UPDATE item SET id = id + 1")
    database.execute("UPDATE item SET name = name || '!' WHERE id % 7 = 0")
    shop.capture()
    shop.assert_equal("public.item")
    assert len(shop.rows("public.item")) == 500
    assert_dense(shop.records())


def test_copy_savepoints_and_rollbacks(database: Database, source: MakeSource) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, name text)")
    shop = source(["public.item"])
    shop.capture()
    with database.connect() as connection:
        with connection.cursor().copy("COPY item FROM STDIN") as copy:
            for number in range(3000):
                copy.write_row((number, f"copied\t{number}\\"))
        with connection.transaction():
            connection.execute("UPDATE item SET name = 'kept' WHERE id < 10")
            with contextlib.suppress(ZeroDivisionError), connection.transaction():
                connection.execute("INSERT INTO item VALUES (-1, 'undone')")
                connection.execute("DELETE FROM item WHERE id < 5")
                raise ZeroDivisionError
            with connection.transaction():
                connection.execute("INSERT INTO item VALUES (-2, 'in a savepoint')")
            connection.execute("DELETE FROM item WHERE id BETWEEN 5 AND 6")
        with contextlib.suppress(ZeroDivisionError), connection.transaction():
            connection.execute("TRUNCATE item")
            raise ZeroDivisionError
    shop.capture()
    shop.assert_equal("public.item")
    assert ("c", -1) not in keys(shop.events())
    assert not [r for r in shop.records() if r.operation == "t"]
    assert len([r for r in shop.events() if r.operation == "c"]) == 3001
    assert_dense(shop.records())


ODD_NAMES = [
    ("public", "Upper Case"),
    ("public", 'quo"ted'),
    ("Schéma", "naïve ☃"),
    ("Schéma", "x" * 63),
    ("public", "semi;colon'--"),
]


def test_odd_names_in_two_schemas(database: Database, source: MakeSource) -> None:
    database.execute('CREATE SCHEMA "Schéma"')
    for schema, table in ODD_NAMES:
        quoted = table.replace('"', '""')
        database.execute(f'CREATE TABLE "{schema}"."{quoted}" ("the ""key""" int PRIMARY KEY, "Ärger %s {{x}}" text)')
        database.execute(f'INSERT INTO "{schema}"."{quoted}" SELECT n, \'old %b\' FROM generate_series(1, 10) n')
    shop = source([f"{schema}.{table}" for schema, table in ODD_NAMES])
    shop.capture()
    for schema, table in ODD_NAMES:
        quoted = table.replace('"', '""')
        database.execute(f'UPDATE "{schema}"."{quoted}" SET "Ärger %s {{x}}" = \'new\' WHERE "the ""key""" < 3')
        database.execute(f'DELETE FROM "{schema}"."{quoted}" WHERE "the ""key""" > 8')
        database.execute(f'INSERT INTO "{schema}"."{quoted}" VALUES (11, \'x\')')
    shop.capture()
    shop.assert_equal(*(f"{schema}.{table}" for schema, table in ODD_NAMES))
    assert_dense(shop.records())


def test_messages_of_others_are_ignored(database: Database, source: MakeSource) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY)")
    shop = source(["public.item"])
    shop.capture()
    for content in ("x", '{"id":"1"}', '{"chunk":"1.1","mark":"high"}', '{"chunk":1}', "[]", "\\x00ff"):
        for prefix in ("cdc", "cdc2", "app"):
            for transactional in ("true", "false"):
                database.execute(f"SELECT pg_logical_emit_message({transactional}, '{prefix}', $x${content}$x$)")
    database.execute("SELECT pg_logical_emit_message(true, 'cdc', '\\xff00'::bytea)")
    database.execute("INSERT INTO item VALUES (1)")
    shop.capture()
    assert keys(shop.events()) == [("c", 1)]


def test_tables_not_captured_stay_out(database: Database, source: MakeSource) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE secret (id int PRIMARY KEY)")
    shop = source(["public.*", "!public.secret"])
    database.execute("INSERT INTO secret VALUES (1)")
    shop.capture()
    with database.connect() as connection, connection.transaction():
        connection.execute("INSERT INTO secret VALUES (2)")
        connection.execute("INSERT INTO item VALUES (2)")
    shop.capture()
    assert list(shop.log.topics()) == ["test.public.item"]
    assert keys(shop.events()) == [("c", 2)]
