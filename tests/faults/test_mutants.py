"""The safeguards are what saves the day: with one taken out, what the suite checks is no longer true."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.config.load import load
from tests.faults.workers import Worker
from tests.servers import wait_until
from tests.servers.postgres import Database, Server, create_database, drop_database
from tests.servers.redis import RedisServer

ROWS = 20
BETWEEN = (
    [pytest.param("without_generation", False, False, id="without-generation")]
    if "CDC_TORTURE_BIG" in os.environ
    else []
)
"""The version guard alone; both ends are tried always."""


@pytest.fixture
def table(postgres18: Server) -> Iterator[Database]:
    """A database with one small table."""
    made = create_database(postgres18)
    made.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    made.execute(f"INSERT INTO t SELECT i, 'first' FROM generate_series(1, {ROWS}) i")
    yield made
    drop_database(made)


@pytest.mark.xdist_group("kafka")
@pytest.mark.parametrize(
    ("mutations", "refused", "stale"),
    [
        pytest.param("", True, False, id="whole"),
        *BETWEEN,
        pytest.param("without_generation,without_version_guard", False, True, id="without-version-guard"),
    ],
)
def test_a_zombies_late_write_loses(
    table: Database, kafka: str, valkey_server: RedisServer, tmp_path: Path, mutations: str, refused: bool, stale: bool
) -> None:
    """A sink is stopped with a batch in its hands, replaced, and wakes up after its successor wrote newer rows."""
    file = tmp_path / "cdc.yaml"
    file.write_text(
        f"version: 1\npipeline: z{uuid.uuid4().hex[:10]}\n"
        f"log: {{type: kafka, bootstrap: '{kafka}', options: {{session.timeout.ms: 6000}}}}\n"
        f"sources: {{db: {{type: postgres, url: '{table.dsn}', tables: [public.t]}}}}\n"
        f"sinks: {{cache: {{type: redis, url: '{valkey_server.url}', "
        f"key: '{os.getpid()}:{{pk}}', prefix: '{tmp_path}'}}}}\n"
    )
    source, zombie, heir = (
        Worker(file, "source/db"),
        Worker(file, "sink/cache", name="-zombie", mutations=mutations or ""),
        Worker(file, "sink/cache", name="-heir", mutations=mutations),
    )

    def cached() -> list[str]:
        keys = [f"{os.getpid()}:{number}" for number in range(1, ROWS + 1)]
        return [value.decode() if value else "" for value in valkey_server.client().mget(keys)]

    try:
        source.start()
        zombie.start()
        wait_until(lambda: all("first" in value for value in cached()), what="the first rows in the cache")
        zombie.kill()
        zombie.start("delivery.before_write:stop:1,delivery.after_write:kill:1")
        table.execute("UPDATE t SET v = 'old'")
        wait_until(zombie.frozen, what="a zombie with a batch in its hands")
        table.execute("UPDATE t SET v = 'new'")
        heir.start()
        wait_until(lambda: all("new" in value for value in cached()), what="the successor's rows in the cache")
        zombie.thaw()
        taken_over = "took a partition over"
        wait_until(lambda: taken_over in zombie.output() or not zombie.running(), what="the end of the zombie's write")
        assert (taken_over in zombie.output()) == refused, zombie.output()[-2000:]
        # The batch may hold the rows of some partitions only.
        assert any("old" in value for value in cached()) == stale
    finally:
        for worker in (source, zombie, heir):
            worker.close()


@pytest.mark.parametrize(("mutations", "lost"), [("", False), ("acknowledging_first", True)], ids=["whole", "mutant"])
def test_acknowledging_before_the_append_is_noticed(
    table: Database, tmp_path: Path, mutations: str, lost: bool
) -> None:
    """Killed between commit and acknowledgement, capture goes on; with the two swapped, changes are gone for good."""
    file = tmp_path / "cdc.yaml"
    file.write_text(
        f"version: 1\npipeline: m\nlog: {{type: embedded, path: '{tmp_path}'}}\n"
        f"sources: {{db: {{type: postgres, url: '{table.dsn}', tables: [public.t]}}}}\nsinks: {{}}\n"
    )
    source = Worker(file, "source/db", mutations=mutations)
    try:
        source.start()
        source.catch_up()
        source.start("capture.before_acknowledge:kill:1")
        table.execute("UPDATE t SET v = 'changed'")
        wait_until(lambda: not source.running(), what="the kill")
        assert source.killed(), source.output()[-2000:]
        source.start()
        if lost:
            wait_until(lambda: "needs_snapshot" in source.output(), what="the gap being noticed")
        else:
            source.catch_up()
        log = load(file).open_log()
        position = json.loads(log.positions()["db"])
        assert (position["sequence"] > 2 * ROWS) != lost
    finally:
        source.close()
