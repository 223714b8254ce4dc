"""Row images that lack columns (``binlog_row_image`` MINIMAL, NOBLOB, FULL_NODUP): filled before the append."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

import cdc.capture
from cdc.errors import GapError
from cdc.record import PARTIAL
from cdc.source import incomplete
from cdc.source.incomplete import Incomplete
from connectors.mysql import chunk, reselect, stream
from connectors.mysql.reselect import Reselect
from tests.integration.mysql.conftest import Database, MakeSource, needs_image
from tests.integration.mysql.semisync import unanswered
from tests.integration.mysql.support import Source, assert_dense
from tests.integration.mysql.test_chunk import CHARACTERS, NUMBERS, OTHERS, examples
from tests.servers import wait_until

pytestmark = pytest.mark.xdist_group("mysql")

ITEM = """CREATE TABLE item (
  id int, part varchar(20) CHARACTER SET latin1, a int NOT NULL DEFAULT 7, body text, note text,
  expression varchar(40) DEFAULT (CONCAT('x', UUID())), d decimal(5, 2) DEFAULT 1.5,
  at datetime NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  kept int GENERATED ALWAYS AS (a + 1) STORED, made int GENERATED ALWAYS AS (a + 2) VIRTUAL,
  PRIMARY KEY (part, id))"""


def write(database: Database, image: str, *statements: str) -> None:
    """Run statements in a session with that image. Skips the test where there is none."""
    needs_image(database.server, image)
    database.execute(f"SET SESSION binlog_row_image = {image}, sql_mode = ''", *statements)


def unfilled(source: Source) -> list[tuple[str, bytes]]:
    return [(r.operation, r.record.key) for r in source.events() if r.header.flags & PARTIAL]


IMAGES = pytest.mark.parametrize("image", ["MINIMAL", "NOBLOB", "FULL_NODUP"])


@IMAGES
def test_every_change_is_whole_on_the_log(database: Database, source: MakeSource, image: str) -> None:
    database.execute(ITEM, "INSERT INTO item (id, part, body) VALUES (1, 'ö', 'old'), (2, 'ö', 'old'), (3, 'c', 'old')")
    shop = source("item")
    shop.capture()
    write(
        database,
        image,
        "INSERT INTO item (id, part) VALUES (4, 'd'), (5, 'e')",
        "INSERT INTO item (id, part, body, a) SELECT 6, 'f', 'x', DEFAULT(a) FROM item LIMIT 1",
        "UPDATE item SET a = 9 WHERE id = 1",
        "UPDATE item SET body = 'new' WHERE id = 2",
        "UPDATE item SET id = id + 100 WHERE part = 'ö' ORDER BY id DESC",
        "UPDATE item SET part = 'cc' WHERE id = 3",
        "REPLACE INTO item (id, part) VALUES (101, 'ö')",
        "INSERT INTO item (id, part) VALUES (102, 'ö') ON DUPLICATE KEY UPDATE d = 3",
        "DELETE FROM item WHERE id = 5",
        "REPLACE INTO item (id, part) VALUES (5, 'e')",
        "FLUSH LOGS",
    )
    shop.capture()
    shop.assert_equal(database.table("item"))
    assert_dense(shop.records())
    deleted = [r.envelope["before"] for r in shop.events() if r.operation == "d"]
    assert [{name: row[name] for name in ("id", "part")} for row in deleted] == [
        {"id": 2, "part": "ö"},
        {"id": 1, "part": "ö"},
        {"id": 3, "part": "c"},
        {"id": 5, "part": "e"},
    ]
    if image == "MINIMAL":
        assert {tuple(row) for row in deleted} == {("id", "part")}


@pytest.mark.parametrize("missing", ["reselect", "absent"])
@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_full_nodup_has_all_that_is_not_generated(
    database: Database, source: MakeSource, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(Reselect, "_read", None)
    types = "a int DEFAULT 7, v varchar(20), d decimal(12, 4), body text, b bit(3), e enum('x', 'y'), at timestamp(3)"
    database.execute(f"CREATE TABLE item (id int PRIMARY KEY, {types} NULL)")
    database.execute("INSERT INTO item (id, e) VALUES (1, 'x'), (2, NULL)")
    shop = source("item", missing=missing)
    shop.capture()
    statements = [
        "INSERT INTO item (id) VALUES (3)",
        "UPDATE item SET v = '', d = 0, body = '', b = 0, e = '', at = '2024-02-29 12:00:00.5' WHERE id < 3",
        "UPDATE item SET v = NULL, d = NULL, b = NULL, at = NULL",
        "UPDATE item SET id = id + 10, a = id ORDER BY id DESC",
        "REPLACE INTO item (id, v) VALUES (11, 'ö')",
        "INSERT INTO item (id) VALUES (12) ON DUPLICATE KEY UPDATE body = REPEAT('x', 70000)",
        "DELETE FROM item WHERE id = 13",
    ]
    write(database, "FULL_NODUP", *(part for statement in statements for part in ("FLUSH LOGS", statement)))
    shop.capture()
    shop.assert_equal(database.table("item"))
    images = [image for r in shop.events() for image in (r.envelope["before"], r.envelope["after"]) if image]
    assert {len(image) for image in images} == {8}


def test_a_row_that_is_gone_is_mended_by_what_follows(database: Database, source: MakeSource) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, a int, b int, c int)")
    shop = source("item")
    database.execute("INSERT INTO item VALUES (1, 1, 1, 1), (2, 2, 2, 2)")
    shop.capture()
    write(
        database,
        "MINIMAL",
        "UPDATE item SET a = 10",
        "UPDATE item SET b = 10",
        "DELETE FROM item WHERE id = 1",
        "UPDATE item SET id = 3 WHERE id = 2",
    )
    shop.capture()
    gone = [r for r in shop.events() if r.header.flags & PARTIAL]
    assert [(r.operation, r.record.key) for r in gone] == [("u", b'{"id":1}')] * 2, "a moved row is found"
    assert gone[0].envelope["source"]["unchanged"] == ["b", "c"]
    assert shop.rows(database.table("item")) == {("3",): {"id": "3", "a": "10", "b": "10", "c": "2"}}
    shop.assert_equal(database.table("item"))


def test_an_earlier_row_of_the_batch_tells_what_did_not_change(database: Database, source: MakeSource) -> None:
    """On MySQL. MariaDB leaves out what did change: of a REPLACE that is an update, and of generated columns."""
    database.execute("CREATE TABLE item (id int PRIMARY KEY, a int, b int DEFAULT 5)")
    shop = source("item")
    shop.capture()
    database.execute("INSERT INTO item VALUES (1, 1, 1)")
    write(
        database,
        "MINIMAL",
        "UPDATE item SET a = 10",
        "DELETE FROM item",
        "INSERT INTO item (id) VALUES (1)",
        "UPDATE item SET a = 3",
        "DELETE FROM item",
    )
    shop.capture()
    known = ["a", "b"] if database.server.name == "MySQL" else ["a"]
    assert [sorted(r.after.keys() - {"id"}) for r in shop.events() if r.operation in "cu"] == [
        ["a", "b"],
        known,
        [],
        ["a"],
    ]


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
def test_differences_of_a_document_that_was_not_sent(database: Database, source: MakeSource) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, v json, n int)")
    shop = source("item")
    shop.capture()
    database.execute("INSERT INTO item VALUES (1, JSON_OBJECT('a', 1, 'b', REPEAT('x', 200)), 1)")
    write(
        database,
        "MINIMAL",
        "SET SESSION binlog_row_value_options = PARTIAL_JSON",
        "UPDATE item SET v = JSON_SET(v, '$.a', 2)",
        "UPDATE item SET n = 2",
    )
    shop.capture()
    assert not unfilled(shop)
    assert [json.loads(r.after["v"])["a"] for r in shop.events()] == [1, 2, 2]
    shop.assert_equal(database.table("item"))


@pytest.mark.parametrize("end", ["XA COMMIT 'x'", "XA ROLLBACK 'x'"])
def test_prepared_rows(database: Database, source: MakeSource, end: str) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, a int DEFAULT 7, b int)")
    database.execute("INSERT INTO item VALUES (1, 1, 1)")
    shop = source("item")
    shop.capture()
    statements = ["INSERT INTO item (id) VALUES (2)", "UPDATE item SET a = 2 WHERE id = 1"]
    write(database, "MINIMAL", "XA START 'x'", *statements, "XA END 'x'", "XA PREPARE 'x'")
    shop.capture()
    database.execute(end)
    shop.capture()
    shop.assert_equal(database.table("item"))
    assert not unfilled(shop)


@pytest.mark.parametrize("naive", [False, True])
def test_a_writer_that_is_not_visible_yet(
    database: Database, source: MakeSource, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    """A streamed row that readers do not see would be taken for one that is gone."""
    monkeypatch.setattr(cdc.capture, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(reselect, "VISIBLE_SECONDS", 0.2)
    if naive:
        monkeypatch.setattr(Reselect, "_begin", lambda *_: True)
    database.execute("CREATE TABLE item (id int PRIMARY KEY, a int DEFAULT 7)")
    shop = source("item")
    shop.capture()
    use = f"USE {database.schema}"
    statements = ["SET SESSION binlog_row_image = MINIMAL", "INSERT INTO item (id) VALUES (1)"]
    with shop.running() as running:
        with unanswered(database.server, use, *statements):
            if naive:
                running.wait(lambda: unfilled(shop), "the row on the log")
            else:
                wait_until(lambda: running.errors, what="patience to run out")
                assert shop.events() == []
        running.catch_up()
    assert shop.differs(database.table("item")) == naive


def test_a_table_that_is_locked_is_waited_for(
    database: Database, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cdc.capture, "PATIENCE_SECONDS", 0.5)
    database.execute("CREATE TABLE item (id int PRIMARY KEY, a int DEFAULT 7)")
    shop = source("item")
    shop.capture()
    with closing(database.server.connect(database.schema)) as connection, shop.running() as running:
        running.catch_up()
        cursor: Any = connection.cursor()
        for statement in (
            "SET SESSION binlog_row_image = MINIMAL",
            "LOCK TABLES item WRITE",
            "INSERT INTO item (id) VALUES (1)",
        ):
            cursor.execute(statement)
        running.wait(lambda: running.errors, "capture to let go of the source")
        cursor.execute("UNLOCK TABLES")
        running.catch_up()
    shop.assert_equal(database.table("item"))
    assert not unfilled(shop)


CHANGES = [
    "ALTER TABLE item DROP b",
    "ALTER TABLE item RENAME COLUMN b TO bb",
    "ALTER TABLE item MODIFY b varchar(20)",
    "ALTER TABLE item MODIFY b bigint NULL FIRST",
    "RENAME TABLE item TO old",
    "DROP TABLE item",
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_table_that_changes_before_it_is_read(
    database: Database, source: MakeSource, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, a int NOT NULL, b int NOT NULL)")
    database.execute("INSERT INTO item VALUES (1, 1, 1), (2, 2, 2)")
    shop = source("item")
    shop.capture()
    write(database, "MINIMAL", "UPDATE item SET a = a + 10")
    begin = Reselect._begin

    def begin_later(self: Reselect, connection: Any) -> bool:
        monkeypatch.setattr(Reselect, "_begin", begin)
        more = [] if "item TO" in change or "DROP TABLE" in change else ["UPDATE item SET a = a + 10 WHERE id = 1"]
        write(database, "MINIMAL", change, *more)
        return begin(self, connection)

    monkeypatch.setattr(Reselect, "_begin", begin_later)
    shop.capture()
    assert Reselect._begin is begin
    if "item TO" in change or "DROP TABLE" in change:
        assert shop.rows(database.table("item")) == {}
    else:
        shop.assert_equal(database.table("item"))


def test_an_insert_whose_key_is_not_sent_is_a_gap(database: Database, source: MakeSource) -> None:
    database.execute("CREATE TABLE item (part int DEFAULT 5, id int, a int, PRIMARY KEY (part, id))")
    shop = source("item")
    shop.capture()
    write(database, "MINIMAL", "INSERT INTO item (id) VALUES (1)")
    with pytest.raises(GapError, match="without a value for part of the key"):
        shop.capture()
    shop.request_snapshot()
    shop.capture()
    shop.assert_equal(database.table("item"))


def test_absent_leaves_out_what_did_not_change(database: Database, source: MakeSource) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, a int DEFAULT 7, b int)")
    shop = source("item", missing="absent")
    shop.capture()
    write(database, "MINIMAL", "INSERT INTO item (id) VALUES (1)")
    shop.capture()
    write(database, "MINIMAL", "UPDATE item SET b = 2")
    shop.capture()
    assert unfilled(shop) == ([("u", b'{"id":1}')] if database.server.name == "MySQL" else [])
    shop.assert_equal(database.table("item"))  # a reader that merges has the value from the earlier record


@pytest.mark.parametrize("missing", ["reselect", "absent"])
def test_a_row_that_a_chunk_has_read_before_is_not_put_after_it(
    database: Database, source: MakeSource, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Under `absent` the row that was read has the value, the update that would replace it has not."""
    database.execute("CREATE TABLE item (id int PRIMARY KEY, a int, b int)", "INSERT INTO item VALUES (1, 1, 1)")
    shop = source("item", missing=missing)
    reached, go_on = threading.Event(), threading.Event()

    def reach(name: str) -> None:
        if name == "snapshot.in_chunk" and not reached.is_set():
            reached.set()
            assert go_on.wait(30)

    monkeypatch.setattr(chunk.faults, "reach", reach)
    with shop.running() as running:
        running.wait(reached.is_set, "the chunk to be read")
        write(database, "MINIMAL", "UPDATE item SET a = 2")
        running.wait(shop.events, "the update on the log")
        go_on.set()
        running.wait(lambda: not shop.position.snapshots, "the end of the snapshot")
        running.catch_up()
    shop.assert_equal(database.table("item"))


def test_a_row_is_found_by_a_key_of_any_type(database: Database, source: MakeSource) -> None:
    groups = [NUMBERS, OTHERS, CHARACTERS]
    if database.server.name != "MySQL":
        groups[1] = [*OTHERS, "uuid", "inet4", "inet6"]
    count = 0
    with closing(database.server.connect(database.schema)) as connection:
        cursor: Any = connection.cursor()
        cursor.execute("SET SESSION sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'")
        cursor.execute("SET SESSION binlog_row_image = MINIMAL")
        shop = prepared(database, source, cursor, groups)
        for number, types in enumerate(groups):
            values = [examples(type_) for type_ in types]
            usual = [some[len(some) // 2] for some in values]
            rows = [
                [*usual[:i], value, *usual[i + 1 :], f"{i} {value!r}"[:20]]
                for i, some in enumerate(values)
                for value in some
            ]
            names = ", ".join([*(f"v{i}" for i in range(len(types))), "note"])
            place = f"({', '.join(['%s'] * (len(types) + 1))})"
            for row in rows:
                count += cursor.execute(f"INSERT IGNORE INTO t{number} ({names}) VALUES {place}", row)
    shop.capture()
    assert len(shop.events()) == count
    assert [r.after for r in shop.events() if r.after.get("filled") != 7] == []


def prepared(database: Database, source: MakeSource, cursor: Any, groups: Sequence[Sequence[str]]) -> Source:
    """A source of a table for each group, whose key has a column of each type."""
    for number, types in enumerate(groups):
        described = ", ".join(f"v{i} {type_.removesuffix(' NULL')} NOT NULL" for i, type_ in enumerate(types))
        key = ", ".join(f"v{i}" for i in range(len(types)))
        cursor.execute(f"CREATE TABLE t{number} ({described}, note text, filled int DEFAULT 7, PRIMARY KEY ({key}))")
    shop = source("t*")
    shop.capture()
    return shop


def test_a_batch_ends_where_the_rows_to_be_read_fill_it(
    database: Database, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, a int, body longtext)")
    rows = ", ".join(f"({n}, 1, REPEAT('x', 100000))" for n in range(40))
    database.execute(f"INSERT INTO item VALUES {rows}", "ANALYZE TABLE item")
    shop = source("item")
    shop.capture()
    write(database, "MINIMAL", *(f"UPDATE item SET a = 2 WHERE id = {n}" for n in range(40)))
    sizes: list[int] = []
    fill = incomplete.Reselect.fill

    def counting(self: Reselect, items: Any) -> Any:
        sizes.append(sum(isinstance(row, Incomplete) for run in items if isinstance(run, list) for row in run))
        return fill(self, items)

    monkeypatch.setattr(incomplete.Reselect, "fill", counting)
    shop.capture()
    assert sum(sizes) == 40
    assert max(sizes) <= stream.BATCH_BYTES // 50_000
    shop.assert_equal(database.table("item"))
