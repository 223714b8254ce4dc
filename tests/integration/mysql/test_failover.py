"""The server is restarted, restored from an older copy, or another one of its topology takes over."""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.event import epoch_of
from tests.integration.mysql.conftest import Database
from tests.integration.mysql.support import Source, assert_dense
from tests.integration.mysql.test_gaps import is_gap, later, make
from tests.servers import wait_until
from tests.servers.mariadb import MariaDbServer

pytestmark = pytest.mark.xdist_group("mysql")

SERVERS = ("mariadb", "mysql") if "CDC_TORTURE_BIG" in os.environ else ("mariadb",)
"""MySQL takes ten seconds to start anew, several times: ``make torture-path``."""
SPLIT = {"connectors.mysql.stream:BATCH_BYTES": 1000, "cdc.capture:LOADED_COMMIT_SECONDS": 0.0}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDbServer]:
    """A server whose end disturbs nobody."""
    made = request.getfixturevalue(f"{request.param}_source").beside(tmp_path_factory.mktemp(request.param))
    try:
        yield made
    finally:
        made.kill()  # MySQL's orderly end gives its replicas ten seconds


@pytest.fixture
def database(server: MariaDbServer) -> Database:
    made = Database(server.start(), f"s{uuid.uuid4().hex[:8]}")
    server.execute(f"CREATE DATABASE {made.schema}")
    return made


@pytest.fixture
def shop(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A source of a table, all of which is captured."""
    monkeypatch.setattr("connectors.mysql.history.COMMIT_SECONDS", 0.2)
    monkeypatch.setattr("connectors.mysql.dump.HEARTBEAT_SECONDS", 0.1)

    def source(*tables: str) -> Source:
        return Source(url(database.server), tmp_path, {"tables": [database.table(name) for name in tables]})

    return make(database, source)


def url(server: MariaDbServer) -> str:
    return server.url.rpartition("/")[0]


def test_the_server_is_restarted_under_us(database: Database, shop: Source) -> None:
    epoch = shop.position.epoch
    ends = [database.server.kill, database.server.stop]
    with shop.running() as running:
        for number, end in enumerate(ends[:1] if database.server.name == "MySQL" else ends):
            running.catch_up()
            database.execute(f"INSERT INTO item VALUES ({100 + number}, 'before')")
            running.catch_up()
            end()
            database.server.start()
            database.execute(f"INSERT INTO item VALUES ({200 + number}, 'after')")
            running.catch_up(40)
    assert shop.position.epoch == epoch
    shop.assert_equal(database.table("item"))
    assert_dense(shop.records())


@pytest.mark.parametrize("more", [1, 5], ids=["behind", "overtaken"])
def test_an_older_copy(database: Database, shop: Source, tmp_path: Path, more: int) -> None:
    """It gives numbers that are on the log to other transactions."""
    server, kept = database.server, tmp_path / "copy"
    server.stop()
    shutil.copytree(server.cluster, kept)
    server.start()
    for number in range(3):
        database.execute(f"INSERT INTO item VALUES ({100 + number}, 'lost')")
    shop.capture()
    server.stop()
    shutil.rmtree(server.cluster)
    kept.rename(server.cluster)
    server.start()
    later(database, shop)
    for number in range(more):
        database.execute(f"INSERT INTO item VALUES ({200 + number}, 'kept')")
    lost = "is not the one that is on the log|does not send transaction"
    is_gap(database, shop, "lacks transactions that were captured" if more < 3 else lost)


@pytest.fixture
def replica(database: Database, shop: Source, tmp_path: Path) -> Iterator[Database]:
    """A replica of the server, made of a copy."""
    server = database.server
    other = server.beside(tmp_path, "--server-id=2", "--log-slave-updates")
    server.stop()
    shutil.copytree(server.cluster, other.cluster)
    (other.cluster / "auto.cnf").unlink(missing_ok=True)
    server.start()
    other.start()
    host = f"_HOST = '127.0.0.1', {{0}}_PORT = {server.port}, {{0}}_USER = 'cdc'"
    if server.name == "MySQL":
        options = "SOURCE" + host.format("SOURCE") + ", SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1"
        other.execute(f"CHANGE REPLICATION SOURCE TO {options}", "START REPLICA")
    else:
        other.execute("SET GLOBAL gtid_slave_pos = @@gtid_binlog_pos")
        other.execute(f"CHANGE MASTER TO MASTER{host.format('MASTER')}, MASTER_USE_GTID = slave_pos", "START SLAVE")
    try:
        yield Database(other, database.schema)
    finally:
        other.kill()


def replicated(database: Database, replica: Database) -> None:
    """Wait until the replica has what the server has, and cut it off."""
    table = database.table("item")
    [expected] = database.execute(f"CHECKSUM TABLE {table}")
    wait_until(lambda: replica.execute(f"CHECKSUM TABLE {table}") == [expected], what="replication")
    replica.execute("STOP REPLICA" if replica.server.name == "MySQL" else "STOP SLAVE")


def test_a_replica_takes_over(database: Database, shop: Source, replica: Database) -> None:
    """In the middle of a transaction; it also has what the source never sent."""
    rows = ", ".join(f"({n}, 'row {n}')" for n in range(1000, 5000))
    database.execute(f"INSERT INTO item VALUES {rows}", "DELETE FROM item WHERE id < 9")
    process = shop.process("capture.before_acknowledge:kill:4", SPLIT)
    assert process.wait() == -signal.SIGKILL, process.output()
    epoch = shop.position.epoch
    assert shop.position.open is not None
    replicated(database, replica)
    replica.execute("UPDATE item SET name = 'after' WHERE id > 4990")
    moved = shop.changed(dsn=url(replica.server))
    # Killed once more, after the position has become one of the new server.
    process = moved.process("capture.before_acknowledge:kill:1", SPLIT)
    assert process.wait() == -signal.SIGKILL, process.output()
    moved.capture()
    assert moved.position.epoch > epoch
    assert moved.position.open is None
    moved.assert_equal(replica.table("item"))
    assert_dense([record for record in moved.records() if epoch_of(record.version) == moved.position.epoch])
    replica.execute("DELETE FROM item WHERE id = 4999")
    taken = moved.position.epoch
    moved.capture()
    assert moved.position.epoch == taken
    moved.assert_equal(replica.table("item"))


def test_a_replica_that_lacks_what_was_captured(database: Database, shop: Source, replica: Database) -> None:
    replicated(database, replica)
    database.execute("INSERT INTO item VALUES (100, 'lost')")
    shop.capture()
    replica.execute("INSERT INTO item VALUES (200, 'kept')")
    is_gap(replica, shop.changed(dsn=url(replica.server)), "lost in a failover")
