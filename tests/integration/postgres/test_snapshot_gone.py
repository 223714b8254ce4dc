"""A table goes while its rows are read: dropped, renamed, or another takes its name. The others are captured on."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tests.integration.postgres.conftest import MakeSource
from tests.integration.postgres.support import Source
from tests.integration.postgres.test_snapshot import held
from tests.servers import wait_until
from tests.servers.postgres import Database

pytestmark = pytest.mark.xdist_group("postgres-snapshot")

DROPPED = "DROP TABLE other"
MADE_ANEW = "DROP TABLE other; CREATE TABLE other (id int PRIMARY KEY, w text); INSERT INTO other VALUES (2, 'new')"
RENAMED = "ALTER TABLE other RENAME TO renamed"
SWAPPED = f"{RENAMED}; CREATE TABLE other (LIKE renamed INCLUDING ALL); INSERT INTO other VALUES (2, 'new')"
CASES = [
    ("low", DROPPED),  # between two chunks
    ("low", MADE_ANEW),
    ("low", RENAMED),
    ("low", SWAPPED),
    ("lock", DROPPED),  # while a chunk waits behind it
    ("lock", MADE_ANEW),
    ("copy", DROPPED),  # which waits for the chunk, and comes before its high mark
    ("copy", MADE_ANEW),
    ("high", DROPPED),
]
DOWN = [DROPPED, MADE_ANEW]
if "CDC_TORTURE_BIG" not in os.environ:
    CASES, DOWN = [CASES[0], CASES[3], CASES[5], CASES[8]], DOWN[1:]


def make(database: Database, source: MakeSource) -> Source:
    database.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)")
    database.execute("CREATE TABLE other (id int PRIMARY KEY, v text)")
    database.execute("INSERT INTO other SELECT n, repeat('x', 50) FROM generate_series(1, 600) n")
    return source(["public.*"], snapshot={"chunk_bytes": "4KiB", "readers": 1})


def check(database: Database, shop: Source) -> None:
    tables = [
        name for (name,) in database.execute("SELECT relname FROM pg_class WHERE relname ~ '^(item|other|renamed)$'")
    ]
    shop.assert_equal(*(f"public.{name}" for name in tables))
    assert not shop.position.snapshots


@pytest.mark.parametrize(("where", "change"), CASES)
def test_a_table_that_goes_while_it_is_read(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch, where: str, change: str
) -> None:
    shop = make(database18, source18)
    reached, go_on = held(monkeypatch, "low" if where == "lock" else where, 3)  # the second chunk of the second table
    with database18.connect() as other, shop.running() as running:
        other.autocommit = where != "lock"
        running.wait(reached.is_set, "the chunk")
        changing = threading.Thread(target=other.execute, args=(change,))
        changing.start()
        if where == "copy":
            wait_until(lambda: waiting(database18, "AccessExclusiveLock"), what="the change to wait for the chunk")
        else:
            changing.join(20)
        go_on.set()
        if where == "lock":
            wait_until(lambda: waiting(database18, "AccessShareLock"), what="the chunk to wait for the change")
            other.commit()
        changing.join(20)
        database18.execute("INSERT INTO item VALUES (2)")
        running.catch_up()
        assert any("table public.other was dropped or renamed" in str(error) for error in running.errors)
    check(database18, shop)


def waiting(database: Database, mode: str) -> object:
    return database.execute(f"SELECT 1 FROM pg_locks WHERE NOT granted AND mode = '{mode}'")


@pytest.mark.parametrize("change", DOWN)
def test_a_table_that_goes_while_capture_is_down(database18: Database, source18: MakeSource, change: str) -> None:
    shop = make(database18, source18)
    assert shop.process("snapshot.in_chunk:kill:3").wait() == -signal.SIGKILL
    assert shop.position.snapshots["public.other"].begun
    database18.execute(change)
    shop.capture()
    check(database18, shop)
