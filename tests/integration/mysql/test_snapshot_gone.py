"""A table goes while its rows are read: dropped, renamed, or another takes its name. The others are captured on."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from contextlib import closing
from typing import Any

import pytest

from connectors.mysql.chunk import ChunkReader, MysqlChunk
from tests.integration.mysql.conftest import Database, MakeSource
from tests.integration.mysql.support import Source
from tests.servers import wait_until

pytestmark = pytest.mark.xdist_group("mysql")

DROPPED = ("DROP TABLE other",)
MADE_ANEW = (*DROPPED, "CREATE TABLE other (id int PRIMARY KEY, w text)", "INSERT INTO other VALUES (2, 'new')")
RENAMED = ("RENAME TABLE other TO renamed",)
CASES = [
    ("begin", DROPPED),  # between two chunks
    ("begin", MADE_ANEW),
    ("begin", RENAMED),
    ("lock", DROPPED),  # while a chunk waits behind it
    ("lock", MADE_ANEW),
    ("read", MADE_ANEW),  # which waits for the chunk, and comes before its high mark
    ("end", DROPPED),
]
DOWN = [DROPPED, MADE_ANEW]
if "CDC_TORTURE_BIG" not in os.environ:
    CASES, DOWN = [CASES[1], CASES[3]], DOWN[1:]


def make(database: Database, source: MakeSource) -> Source:
    database.execute(
        "CREATE TABLE item (id int PRIMARY KEY)",
        "CREATE TABLE other (id int PRIMARY KEY, v text)",
        "INSERT INTO item VALUES (1)",
        "INSERT INTO other SELECT seq.n, REPEAT('x', 50) FROM (WITH RECURSIVE c (n) AS "
        "(SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 600) SELECT n FROM c) seq",
    )
    return source("*", snapshot={"chunk_bytes": "4KiB", "readers": 1})


def held(monkeypatch: pytest.MonkeyPatch, where: str) -> tuple[threading.Event, threading.Event]:
    """Stop the reader of the third chunk, the second of the second table; (reached, go on)."""
    reached, go_on, numbers = threading.Event(), threading.Event(), itertools.count(1)

    def hold() -> None:
        if next(numbers) == 3:
            reached.set()
            assert go_on.wait(30)

    name = {"begin": "_read", "lock": "_read", "read": "_read_rows", "end": "_read"}[where]
    original = getattr(ChunkReader, name)

    def holding(self: ChunkReader, connection: Any, chunk: MysqlChunk) -> None:
        if where != "end":
            hold()
        original(self, connection, chunk)
        if where == "end":
            hold()

    monkeypatch.setattr(ChunkReader, name, holding)
    return reached, go_on


@pytest.mark.parametrize(("where", "change"), CASES)
def test_a_table_that_goes_while_it_is_read(
    database: Database, source: MakeSource, monkeypatch: pytest.MonkeyPatch, where: str, change: tuple[str, ...]
) -> None:
    shop = make(database, source)
    reached, go_on = held(monkeypatch, where)
    with closing(database.server.connect(database.schema)) as other, shop.running() as running:
        cursor = other.cursor()
        running.wait(reached.is_set, "the chunk")

        def alter() -> None:
            for statement in change:
                cursor.execute(statement)

        changing = threading.Thread(target=alter)
        if where == "lock":
            cursor.execute("LOCK TABLES other WRITE")
        else:
            changing.start()
        if where == "read":
            wait_until(lambda: waiting(database, "DROP TABLE"), what="the change to wait for the chunk")
        elif where != "lock":
            changing.join(20)
        go_on.set()
        if where == "lock":
            wait_until(lambda: waiting(database, "SELECT 1 FROM"), what="the chunk to wait for the change")
            cursor.execute(change[0])
            cursor.execute("UNLOCK TABLES")
            for statement in change[1:]:
                cursor.execute(statement)
        else:
            changing.join(20)
        database.execute("INSERT INTO item VALUES (2)")
        running.catch_up()
        assert running.errors == []
    shop.assert_equal(database.table("item"), *([database.table("other")] if change is MADE_ANEW else []))
    if change is not MADE_ANEW:
        assert shop.rows(database.table("other")) == {}


def waiting(database: Database, statement: str) -> object:
    blocked = f"state LIKE 'Waiting for table%' AND info LIKE '{statement}%'"
    return database.execute(f"SELECT 1 FROM information_schema.processlist WHERE {blocked}")


@pytest.mark.parametrize("change", DOWN)
def test_a_table_that_goes_while_capture_is_down(
    database: Database, source: MakeSource, change: tuple[str, ...]
) -> None:
    shop = make(database, source)
    assert shop.process("snapshot.in_chunk:kill:3").wait() == -signal.SIGKILL
    assert shop.position.snapshots[database.table("other")].begun
    database.execute(*change)
    shop.capture()
    shop.assert_equal(database.table("item"), *([database.table("other")] if change is MADE_ANEW else []))
