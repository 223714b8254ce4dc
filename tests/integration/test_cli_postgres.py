"""The command line with a real database and real stores, from an empty folder to nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import psutil
import pytest

from sinks._tantivy_index import live_rows
from tests.integration.postgres.support import busy
from tests.servers import wait_until
from tests.servers.postgres import Database, Server, create_database, drop_database
from tests.servers.redis import RedisServer, redis_binary

FILE = """\
version: 1
sources: {db: {type: postgres, url: "${DATABASE_URL}", tables: [public.*]}}
sinks:
  warehouse: {type: duckdb, path: "warehouse.duckdb"}
  search: {type: tantivy, path: "search"}
"""


@pytest.fixture
def shop(postgres18: Server) -> Iterator[Database]:
    made = create_database(postgres18)
    made.execute("CREATE TABLE customers (id int PRIMARY KEY, name text)")
    made.execute("INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 100) n")
    yield made
    drop_database(made)


class Shop:
    """A user's folder."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = folder, database
        self.environment = {**os.environ, "DATABASE_URL": database.dsn}
        (folder / "cdc.yaml").write_text(FILE)

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cdc", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )

    def cdc(self, *arguments: str, code: int = 0) -> str:
        process = self.popen(*arguments)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == code, output + errors
        return output

    def rows(self) -> int:
        with duckdb.connect(str(self.folder / "warehouse.duckdb"), read_only=True) as warehouse:
            found = warehouse.execute("SELECT count(*) FROM customers").fetchone()
        assert found is not None
        return int(found[0])

    def rows_if_free(self) -> int | None:
        """None while the sink holds the file, which it does for one write at a time."""
        try:
            return self.rows()
        except duckdb.IOException:
            return None

    def slots(self) -> list[tuple[object, ...]]:
        return self.database.execute(
            "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() "
            "UNION ALL SELECT pubname FROM pg_publication ORDER BY 1"
        )


def test_from_validate_to_cleanup(shop: Database, tmp_path: Path) -> None:
    user = Shop(tmp_path, shop)
    assert "✓ postgres.server" in user.cdc("validate", "--connect")
    assert user.slots() == []  # looking changes nothing

    user.cdc("run", "--until-caught-up")
    assert user.rows() == 100
    status = json.loads(user.cdc("status", "--json"))["result"]
    assert status["sources"]["db"]["state"] == "stopped"
    assert status["sources"]["db"]["retained_bytes"] is not None
    assert [sink["lag_records"] for sink in status["sinks"].values()] == [0, 0]

    shop.execute("UPDATE customers SET name = 'renamed' WHERE id = 7")
    shop.execute("DELETE FROM customers WHERE id > 90")
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as warehouse:  # a stale row, and a ghost
        warehouse.execute("UPDATE customers SET name = 'stale' WHERE id = 8")
        ghost = """SELECT * REPLACE (999 AS id, '{"id":999}' AS _cdc_key) FROM customers WHERE id = 8"""
        warehouse.execute(f"INSERT INTO customers {ghost}")
    user.cdc("snapshot", "public.customers", "--key", '{"id":8}', "--key", '{"id":999}')
    user.cdc("run", "--until-caught-up")
    assert user.rows() == 90
    with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as warehouse:
        mended = warehouse.execute("SELECT id, name FROM customers WHERE id IN (8, 999)").fetchall()
    assert mended == [(8, "customer 8")]
    lines = user.cdc("tap", "--from", "beginning", "--op", "u,d", "--limit", "12").splitlines()
    assert sorted((json.loads(line)["op"], json.loads(line)["key"]["id"]) for line in lines) == [
        *(("d", number) for number in (*range(91, 101), 999)),
        ("u", 7),
    ]

    user.cdc("snapshot", "public.customers")
    user.cdc("run", "--until-caught-up")
    reads = user.cdc("tap", "--from", "beginning", "--op", "r", "--limit", "191").splitlines()
    assert len(reads) == 191

    assert user.slots() == [("cdc_cdc_db",), ("cdc_cdc_db",)]
    user.cdc("cleanup", "--yes")
    assert user.slots() == []
    assert user.rows() == 90


def test_emptied_stores_are_noticed_and_filled_anew_under_another_name(shop: Database, tmp_path: Path) -> None:
    user = Shop(tmp_path, shop)
    cache = RedisServer(redis_binary(), tmp_path).start()

    def name(suffix: str) -> None:
        named = {f"{name}{suffix}": sink for name, sink in sinks.items()}
        document = {"version": 1, "sources": sources, "sinks": named}
        (tmp_path / "cdc.yaml").write_text(json.dumps(document))

    def empty() -> None:
        cache.client().flushall()
        (tmp_path / "warehouse.duckdb").unlink()
        shutil.rmtree(tmp_path / "search")

    def filled() -> bool:
        found = len(list(live_rows(tmp_path / "search", "cdc.public.customers")))
        return user.rows() == found == len(cache.client().keys("customers:*")) == 100

    sources = {"db": {"type": "postgres", "url": "${DATABASE_URL}", "tables": ["public.*"]}}
    sinks = {
        "warehouse": {"type": "duckdb", "path": "warehouse.duckdb"},
        "search": {"type": "tantivy", "path": "search"},
        "cache": {"type": "redis", "url": cache.url},
    }
    try:
        name("")
        user.cdc("run", "--until-caught-up")
        empty()
        user.cdc("run", "--until-caught-up", code=6)
        workers = json.loads(user.cdc("status", "--json"))["result"]["sinks"].values()
        assert {worker["state"] for worker in workers} == {"needs_rebuild"}
        why = ("its offset is no longer in the store", "another name")
        assert all(part in worker["error"] for worker in workers for part in why)
        empty()
        name("2")
        user.cdc("run", "--until-caught-up")
        assert filled()
        user.cdc("cleanup", "--yes")
    finally:
        cache.stop()


AGAIN = "start the sink again: cdc run --only sink"


def test_a_refused_row_that_was_mended_no_longer_stops_its_sinks(shop: Database, tmp_path: Path) -> None:
    """Two stores refuse a row, each for a reason of its own. What was mended lies in a later batch."""
    user = Shop(tmp_path, shop)
    cache = RedisServer(redis_binary(), tmp_path, "--proto-max-bulk-len", "1mb").start()
    one_by_one = {"batch": {"rows": 1}}
    document = {
        "version": 1,
        "log": {"type": "embedded", "path": "log", "topics": {"partitions": 1}},
        "sources": {"db": {"type": "postgres", "url": "${DATABASE_URL}", "tables": ["public.price"]}},
        "sinks": {
            "warehouse": {"type": "duckdb", "path": "warehouse.duckdb", **one_by_one},
            "cache": {"type": "redis", "url": cache.url, **one_by_one},
        },
    }
    (tmp_path / "cdc.yaml").write_text(json.dumps(document))
    shop.execute("CREATE TABLE price (id int PRIMARY KEY, price numeric(10, 2), note text)")
    shop.execute("INSERT INTO price VALUES (1, 10, ''), (2, 'NaN', repeat('x', 1200000)), (3, 30, '')")
    try:
        run = user.popen("run", "--until-caught-up")
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 1, errors
        for name in ("warehouse", "cache"):
            assert f"mend or delete the row in the database, and once that is captured, {AGAIN}/{name}" in errors
        assert errors.count("'!public.price'") == 2
        shop.execute("UPDATE price SET price = 20, note = '' WHERE id = 2")
        user.cdc("run", "--until-caught-up", "--only", "source/db")  # else a sink may be there before what was mended
        user.cdc("run", "--until-caught-up")
        with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as warehouse:
            rows = warehouse.execute("SELECT id, price::int FROM price ORDER BY 1").fetchall()
        assert rows == [(1, 10), (2, 20), (3, 30)]
        cached = {key.decode(): json.loads(cache.client().get(key)) for key in cache.client().keys("price:*")}
        assert {key: row["price"] for key, row in cached.items()} == {
            "price:1": "10.00",
            "price:2": "20.00",
            "price:3": "30.00",
        }
    finally:
        cache.stop()


def test_a_lost_slot_is_a_gap_that_snapshot_mends_while_run_is_up(shop: Database, tmp_path: Path) -> None:
    user = Shop(tmp_path, shop)
    user.cdc("run", "--until-caught-up")
    shop.execute("SELECT pg_drop_replication_slot('cdc_cdc_db')")
    shop.execute("DELETE FROM customers WHERE id <= 50")  # nobody will ever stream this
    user.cdc("run", "--until-caught-up", code=6)
    source = json.loads(user.cdc("status", "--json"))["result"]["sources"]["db"]
    assert (source["state"], "cdc snapshot" in source["error"]) == ("needs_snapshot", True)

    run = user.popen("run")
    try:
        wait_until(lambda: len(psutil.Process(run.pid).children()) == 3)
        user.cdc("snapshot")
        shop.execute("INSERT INTO customers VALUES (1000, 'new')")
        wait_until(lambda: user.rows_if_free() == 51, what="51 rows in the warehouse")
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=30)
        assert run.returncode == 0, errors
        assert "replication slot cdc_cdc_db stays" in errors
    finally:
        run.kill()
        run.wait()


def test_one_event_at_each_place_while_run_is_up(shop: Database, tmp_path: Path) -> None:
    user = Shop(tmp_path, shop)
    user.cdc("run", "--until-caught-up")
    read = user.cdc("tap", "--at", "sink/warehouse", "--from", "beginning", "--limit", "100").splitlines()
    assert {json.loads(line)["op"] for line in read} == {"r"}
    places = ("source", "topic", "sink/warehouse")
    processes = [user.popen("run"), *(user.popen("tap", "--at", place, "--limit", "1") for place in places)]
    try:
        for tap in processes[1:]:
            assert tap.stderr is not None
            assert any("tapping cdc at" in line for line in iter(tap.stderr.readline, ""))
        shop.execute("INSERT INTO customers VALUES (1000, 'new')")
        events = []
        for tap in processes[1:]:
            output, errors = tap.communicate(timeout=60)
            assert tap.returncode == 0, errors
            events.append(json.loads(output))
        assert [(event["op"], event["key"], event["value"]["after"]) for event in events] == [
            ("c", {"id": 1000}, {"id": 1000, "name": "new"})
        ] * 3
        on_log = [{name: event[name] for name in ("epoch", "sequence", "partition", "offset")} for event in events]
        assert set(on_log[0].values()) == {None}
        assert on_log[1] == on_log[2]
        processes[0].send_signal(signal.SIGINT)
        assert processes[0].wait(30) == 0
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_status_says_what_a_snapshot_waits_for(tmp_path: Path, shop: Database) -> None:
    user = Shop(tmp_path, shop)
    (tmp_path / "cdc.yaml").write_text(
        FILE.replace("tables: [public.*]", "tables: [public.*], snapshot: {max_active_sessions: 1}")
    )
    with busy(shop, 2):
        run = user.popen("run", "--only", "source/db")
        try:
            waits = "the snapshot waits for the database: 2 sessions are active, more than max_active_sessions (1)"
            wait_until(lambda: waits in " ".join(user.cdc("status").split()), what="the reason")
            assert "snapshot of public.customers: 0 rows read" in user.cdc("status")
        finally:
            run.terminate()
            run.communicate(timeout=30)
