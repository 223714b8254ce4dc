"""History that is missing or forked is a gap with a name, and a snapshot that is asked for mends it."""

from __future__ import annotations

import pytest

from cdc.errors import GapError, PermanentError
from cdc.event import epoch_of
from connectors.mysql.gtid import GtidSet
from connectors.mysql.position import parse_executed
from tests.integration.mysql.conftest import Database, MakeSource
from tests.integration.mysql.support import Source, assert_dense
from tests.servers import wait_until

pytestmark = pytest.mark.xdist_group("mysql")


def make(database: Database, source: MakeSource) -> Source:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, name varchar(40))")
    rows = ", ".join(f"({n}, 'row {n}')" for n in range(1, 21))
    database.execute(f"INSERT INTO item VALUES {rows}")
    shop = source("item")
    shop.capture()
    database.execute("UPDATE item SET name = 'updated' WHERE id < 5")
    shop.capture()
    return shop


def mend(database: Database, shop: Source) -> None:
    """A snapshot that is asked for reads everything again in a new epoch; ghosts go."""
    before = shop.position
    database.execute("DELETE FROM item WHERE id = 19")
    shop.request_snapshot()
    shop.capture()
    assert shop.position.epoch > before.epoch
    assert shop.log.states("snapshot_request") == {}
    database.execute("UPDATE item SET name = concat('x', id) WHERE id IN (3, 7)")
    shop.capture()
    records = shop.records(database.table("item"))
    [sweep] = {r.version for r in records if r.operation == "s"}
    assert epoch_of(sweep) == shop.position.epoch
    assert_dense([r for r in records if epoch_of(r.version) == shop.position.epoch])
    shop.assert_equal(database.table("item"))


def is_gap(database: Database, shop: Source, says: str) -> None:
    """What stopped capture is named, changes nothing, stays, and can be mended."""
    before = shop.position
    for _ in range(2):
        with pytest.raises(GapError, match=f"(?s)(?:{says}).*`cdc snapshot`"):
            shop.capture()
    assert shop.position == before, "a gap changes nothing"
    mend(database, shop)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server lacks will not come."""
    monkeypatch.setattr("connectors.mysql.history.COMMIT_SECONDS", 0.2)
    monkeypatch.setattr("connectors.mysql.dump.HEARTBEAT_SECONDS", 0.1)


# -- what happens to a binlog -----------------------------------------------------------------------------------------


def purge(database: Database) -> None:
    """Nothing is left of the binlog but a new file. MariaDB keeps files that a reader has open."""
    database.execute("FLUSH BINARY LOGS")

    def purged() -> bool:
        files = database.execute("SHOW BINARY LOGS")
        database.execute(f"PURGE BINARY LOGS TO '{files[-1][0]}'")
        return len(files) == 1

    wait_until(purged, what="the purge")


def reset(database: Database) -> None:
    database.execute("RESET BINARY LOGS AND GTIDS" if database.server.name == "MySQL" else "RESET MASTER")


def test_the_binlog_was_purged(database: Database, source: MakeSource) -> None:
    shop = make(database, source)
    database.execute("DELETE FROM item WHERE id = 20")
    purge(database)
    is_gap(database, shop, "purged binlogs with transactions that were not captured")


def test_a_purge_of_what_was_captured_is_no_gap(database: Database, source: MakeSource) -> None:
    """Not even of the anchor, which an idle server does not replace."""
    shop = make(database, source)
    purge(database)
    shop.capture()
    epoch = shop.position.epoch
    database.execute("DELETE FROM item WHERE id = 20")
    shop.capture()
    assert shop.position.epoch == epoch
    shop.assert_equal(database.table("item"))


def test_the_binlog_was_reset(database: Database, source: MakeSource) -> None:
    shop = make(database, source)
    reset(database)
    database.execute("DELETE FROM item WHERE id = 20")
    is_gap(database, shop, "lacks transactions that were captured")


def test_the_binlog_was_reset_and_has_come_as_far(database: Database, source: MakeSource) -> None:
    shop = make(database, source)
    reset(database)
    overtake(database, shop)
    is_gap(database, shop, "is not the one that is on the log|does not send transaction")


def later(database: Database, shop: Source) -> None:
    """MariaDB tells when a transaction was committed in whole seconds: what comes next shall not look the same."""
    anchor = shop.position.anchor
    assert anchor is not None
    wait_until(
        lambda: database.execute("SELECT unix_timestamp()")[0][0] > anchor.time // 1_000_000, what="the next second"
    )


def overtake(database: Database, shop: Source) -> None:
    """Give the numbers that are on the log again, and more."""
    later(database, shop)
    database.execute("DELETE FROM item WHERE id = 20")
    captured = parse_executed(shop.position.executed, mariadb=shop.position.mariadb)
    if isinstance(captured, GtidSet):
        most = max(intervals[-1][1] for intervals in captured.sources.values())
    else:
        most = max(last.sequence for last in captured.last.values())
    database.execute(*(f"REPLACE INTO item VALUES ({n}, 'after')" for n in range(100, 102 + most)))


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
def test_gtids_that_are_off(database: Database, source: MakeSource) -> None:
    shop = make(database, source)
    modes = ["OFF_PERMISSIVE", "ON_PERMISSIVE", "ON"]
    try:
        database.execute(*(f"SET GLOBAL gtid_mode = {mode}" for mode in ("ON_PERMISSIVE", "OFF_PERMISSIVE", "OFF")))
        with pytest.raises(PermanentError, match=r"(?s)gtid_mode is OFF.*SET GLOBAL gtid_mode"):
            shop.capture()
    finally:
        database.execute(*(f"SET GLOBAL gtid_mode = {mode}" for mode in modes))
    shop.capture()
    try:
        database.execute(*(f"SET GLOBAL gtid_mode = {mode}" for mode in ("ON_PERMISSIVE", "OFF_PERMISSIVE")))
        database.execute("DELETE FROM item WHERE id = 20")
    finally:
        database.execute(*(f"SET GLOBAL gtid_mode = {mode}" for mode in modes))
    is_gap(database, shop, "without GTIDs")


def test_rows_kept_before_a_gap_are_not_those_of_the_same_name_after_it(database: Database, source: MakeSource) -> None:
    shop = make(database, source)
    prepare(database, "INSERT INTO item VALUES (50, 'never')")
    shop.capture()
    database.execute("XA ROLLBACK 'x'")
    prepare(database, "INSERT INTO item VALUES (51, 'once')")
    purge(database)
    is_gap(database, shop, "purged")
    assert shop.log.prepared("shop") == {}
    database.execute("XA COMMIT 'x'")
    shop.capture()
    shop.assert_equal(database.table("item"))


def prepare(database: Database, statement: str) -> None:
    database.execute("XA START 'x'", statement, "XA END 'x'", "XA PREPARE 'x'")
