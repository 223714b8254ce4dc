"""History that is missing or forked is a gap with a name, and a snapshot that is asked for mends it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable

import pytest

from cdc.errors import GapError, PermanentError, UnreachableError
from cdc.event import epoch_of
from connectors.postgres import stream
from connectors.postgres.resume import Resumption
from tests.integration.postgres.conftest import MakeSource
from tests.integration.postgres.support import SOURCE, Source, assert_dense
from tests.servers import wait_until
from tests.servers.postgres import Database, Postgres

pytestmark = pytest.mark.xdist_group("postgres-gaps")


def make(database: Database, source: MakeSource, **options: object) -> Source:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, name text)")
    database.execute("INSERT INTO item SELECT n, 'row ' || n FROM generate_series(1, 20) n")
    shop = source(["public.item"], **options)
    shop.capture()
    database.execute("UPDATE item SET name = 'updated' WHERE id < 5")
    shop.capture()
    return shop


def drop_slot(database: Database, shop: Source) -> None:
    wait_until(
        lambda: database.execute(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{shop.slot}' AND NOT active")
    )
    database.execute(f"SELECT pg_drop_replication_slot('{shop.slot}')")


def slot_dropped(database: Database, shop: Source) -> Source:
    drop_slot(database, shop)
    return shop


def slot_re_created(database: Database, shop: Source) -> Source:
    drop_slot(database, shop)
    database.execute("DELETE FROM item WHERE id = 20")
    database.execute(f"SELECT pg_create_logical_replication_slot('{shop.slot}', 'pgoutput')")
    return shop


def slot_advanced(database: Database, shop: Source) -> Source:
    database.execute("DELETE FROM item WHERE id = 20")
    database.execute(f"SELECT pg_replication_slot_advance('{shop.slot}', pg_current_wal_lsn())")
    return shop


def slot_read_by_somebody(database: Database, shop: Source) -> Source:
    database.execute("DELETE FROM item WHERE id = 20")
    database.execute(
        f"SELECT count(*) FROM pg_logical_slot_get_binary_changes('{shop.slot}', NULL, NULL, "
        f"'proto_version', '1', 'publication_names', '{shop.slot}')"
    )
    return shop


def publication_without_the_table(database: Database, shop: Source) -> Source:
    database.execute("CREATE TABLE other (id int PRIMARY KEY)")
    database.execute(f"ALTER PUBLICATION {shop.slot} SET TABLE other")
    database.execute("DELETE FROM item WHERE id = 20")
    return shop


def publication_re_created(database: Database, shop: Source) -> Source:
    database.execute(f"DROP PUBLICATION {shop.slot}; DELETE FROM item WHERE id = 20")
    database.execute(f"CREATE PUBLICATION {shop.slot} FOR TABLE item")
    return shop


def topic_re_created(database: Database, shop: Source) -> Source:
    with sqlite3.connect(shop.folder / "log" / "test" / "groups.db") as groups:
        groups.execute("UPDATE topics SET id = 'another'")
    groups.close()
    return shop


GAPS: dict[Callable[[Database, Source], Source], str] = {
    slot_dropped: "slot .* is gone",
    slot_re_created: "beyond our position|does not send transaction",
    slot_advanced: "beyond our position",
    slot_read_by_somebody: "beyond our position",
    publication_without_the_table: "was not in the publication",
    publication_re_created: "was not in the publication",
    topic_re_created: "topic of public.item was deleted and created again",
}


@pytest.mark.parametrize("happens", GAPS)
def test_a_gap_is_named_and_mended(
    database: Database, source: MakeSource, happens: Callable[[Database, Source], Source]
) -> None:
    shop = happens(database, make(database, source))
    before = shop.position
    for _ in range(2):
        with pytest.raises(GapError, match=f"(?s)(?:{GAPS[happens]}).*`cdc snapshot`"):
            shop.capture()
    assert shop.position == before, "a gap changes nothing"
    if happens is topic_re_created:
        return  # the embedded log does not lose its topics; mending is tried where they are really made anew
    mend(database, shop)


def mend(database: Database, shop: Source) -> None:
    """A snapshot that is asked for reads everything again in a new epoch; ghosts go."""
    epoch = shop.position.epoch
    database.execute("DELETE FROM item WHERE id = 19")
    shop.request_snapshot()
    shop.capture()
    assert shop.position.epoch > epoch
    assert shop.log.states("snapshot_request") == {}
    database.execute("UPDATE item SET name = 'x' || id WHERE id IN (3, 7)")
    shop.capture()
    records = shop.records("public.item")
    [sweep] = {r.version for r in records if r.operation == "s"}
    assert epoch_of(sweep) == shop.position.epoch
    last_epoch = [r for r in records if epoch_of(r.version) == shop.position.epoch]
    assert_dense(last_epoch)
    shop.assert_equal("public.item")


def profile_changed(database: Database, shop: Source) -> Source:
    return shop.changed(profile="debezium")


def partitions_changed(database: Database, shop: Source) -> Source:
    with sqlite3.connect(shop.folder / "log" / "test" / "groups.db") as groups:
        groups.execute("UPDATE topics SET partitions = partitions + 1 WHERE name = 'test.public.item'")
    groups.close()
    return shop


def key_changed(database: Database, shop: Source) -> Source:
    database.execute("UPDATE item SET name = id")
    shop.capture()
    database.execute("ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (name)")
    return shop


def profile_back(database: Database, shop: Source) -> Source:
    return shop.changed(profile="readable")


def partitions_back(database: Database, shop: Source) -> Source:
    with sqlite3.connect(shop.folder / "log" / "test" / "groups.db") as groups:
        groups.execute("UPDATE topics SET partitions = partitions - 1")
    groups.close()
    return shop


def key_back(database: Database, shop: Source) -> Source:
    database.execute("ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (id)")
    return shop


CHANGES: dict[Callable[[Database, Source], Source], tuple[str, Callable[[Database, Source], Source]]] = {
    profile_changed: (
        "profile changed from readable to debezium.*set log.format.profile back to readable",
        profile_back,
    ),
    partitions_changed: ("has 4 partitions instead of 3.*cannot be taken away", partitions_back),
    key_changed: (r"key of public.item changed from \(id\) to \(name\).*make \(id\) the key again", key_back),
}


@pytest.mark.parametrize("happens", CHANGES)
def test_a_change_of_what_the_records_agree_in_is_refused(
    database: Database, source: MakeSource, happens: Callable[[Database, Source], Source]
) -> None:
    """A snapshot into the same topic would not mend it, so it does not help to ask for one."""
    says, back = CHANGES[happens]
    shop = happens(database, make(database, source))
    before = shop.position
    for asked in (False, True):
        if asked:
            shop.request_snapshot()
        with pytest.raises(PermanentError, match=rf'(?s){says}.*log\.topics\.name.*"{{pipeline}}\.v2\.'):
            shop.capture()
    assert shop.position == before
    # Either it is set back …
    shop.log.put_state("snapshot_request", SOURCE, None)
    shop = back(database, shop)
    shop.capture()
    assert shop.position.epoch == before.epoch
    # … or the table gets a new topic.
    shop = happens(database, shop).changed(topics="{pipeline}.v2.{schema}.{table}")
    with pytest.raises(GapError, match=r"(?s)got another name.*`cdc snapshot`"):
        shop.capture()
    shop.request_snapshot()
    shop.capture()
    assert shop.position.epoch > before.epoch
    assert {record.topic for record in shop.events() if epoch_of(record.version) > before.epoch} == {
        "test.v2.public.item"
    }


def test_a_slot_that_was_invalidated(own_postgres: Postgres, source18: MakeSource) -> None:
    own_postgres.settings |= {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    own_postgres.start()
    database = Database(own_postgres, "postgres")
    shop = make(database, lambda tables, **options: source18(tables, **options).changed(dsn=database.dsn))
    database.execute("CREATE TABLE filler (content text)")

    def lost() -> bool:
        database.execute("CHECKPOINT")
        return database.execute("SELECT wal_status FROM pg_replication_slots") == [("lost",)]

    def lost_by_writing() -> bool:
        database.execute("INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
        database.execute("SELECT pg_switch_wal()")
        return lost()

    def assert_named(why: str) -> None:
        with pytest.raises(GapError, match=rf"(?s)invalidated \({why}\).*`cdc snapshot`"):
            shop.capture()
        status = shop.connector.status(shop.position.encode())
        assert (status["retained_bytes"], status["warning"]) == (
            0,
            f"slot {shop.slot} was invalidated ({why}): run `cdc snapshot`",
        )
        assert f"replication slot {shop.slot} ({why})" in shop.connector.leftovers()

    wait_until(lost_by_writing, what="the invalidation of the slot")
    assert_named("wal_removed" if own_postgres.version >= 17 else "the WAL it needs was removed")
    mend(database, shop)
    if own_postgres.version >= 18:
        database.execute("ALTER SYSTEM SET idle_replication_slot_timeout = '1s'")
        database.execute("SELECT pg_reload_conf()")
        wait_until(lost, what="the time-out of the slot")
        assert_named("idle_timeout")


def copy_of(server: Postgres) -> object:
    """The files of a stopped server."""
    kept = server.folder / "copy"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(server.cluster, kept, symlinks=True)
    return kept


def restore(server: Postgres) -> None:
    shutil.rmtree(server.cluster)
    (server.folder / "copy").rename(server.cluster)
    stat = server.folder.stat()
    for path in [server.cluster, *server.cluster.rglob("*")]:
        shutil.chown(path, stat.st_uid, stat.st_gid)


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("overtaken", [False, True])
def test_a_database_restored_from_an_older_copy(
    own_postgres: Postgres, source18: MakeSource, monkeypatch: pytest.MonkeyPatch, overtaken: bool, naive: bool
) -> None:
    """By its LSN, and by the anchor once the restored server has written past our position."""
    own_postgres.start()
    database = Database(own_postgres, "postgres")
    shop = make(database, lambda tables, **options: source18(tables, **options).changed(dsn=database.dsn))
    own_postgres.stop()
    copy_of(own_postgres)
    own_postgres.start()
    database.execute("UPDATE item SET name = 'lost by the restore'")
    shop.capture()
    own_postgres.stop()
    restore(own_postgres)
    own_postgres.start()
    if overtaken:
        target = shop.position.commit_lsn

        def past() -> bool:
            database.execute("INSERT INTO item SELECT max(id) + 1, 'after the restore' FROM item")
            database.execute("SELECT pg_switch_wal()")
            return bool(database.execute(f"SELECT pg_current_wal_lsn() - '0/0' > {target + (1 << 20)}")[0][0])

        wait_until(past, what="the restored server to pass our position")
    if naive:
        monkeypatch.setattr(stream, "check_continuity", lambda *_: None)
        monkeypatch.setattr(Resumption, "begun", _trusting)
        monkeypatch.setattr(Resumption, "passed", _trusting)
        shop.capture()
        assert shop.differs("public.item"), "rows that the restore undid are still on the log"
        return
    reason = "does not send transaction" if overtaken else "WAL ends at .* before our position"
    with pytest.raises(GapError, match=f"(?s){reason}.*`cdc snapshot`"):
        shop.capture()
    mend(database, shop)


def _trusting(self: Resumption, _: object) -> int:
    """Resume wherever the server goes on."""
    self.over = True
    return 0


def test_another_server(own_postgres: Postgres, database18: Database, source18: MakeSource) -> None:
    shop = make(database18, source18)
    own_postgres.start()
    other = Database(own_postgres, "postgres")
    other.execute("CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item VALUES (7, 'other')")
    other.execute(f"SELECT pg_create_logical_replication_slot('{shop.slot}', 'pgoutput')")
    moved = shop.changed(dsn=other.dsn)
    with pytest.raises(GapError, match=r"(?s)another server: system identifier.*`cdc snapshot`"):
        moved.capture()
    mend(other, moved)


def test_another_timeline(own_postgres: Postgres, source18: MakeSource) -> None:
    own_postgres.start()
    database = Database(own_postgres, "postgres")
    shop = make(database, lambda tables, **options: source18(tables, **options).changed(dsn=database.dsn))
    own_postgres.stop()
    # A standby that is promoted, as at a failover.
    signal = own_postgres.cluster / "standby.signal"
    signal.touch()
    stat = own_postgres.cluster.stat()
    shutil.chown(signal, stat.st_uid, stat.st_gid)
    own_postgres.start()
    for look in (shop.capture, shop.connector.preflight):
        with pytest.raises(UnreachableError, match=r"(?s)standby.*the primary"):
            look()
    assert own_postgres.execute("SELECT pg_promote()") == [(True,)]
    with pytest.raises(GapError, match=r"(?s)timeline.*`cdc snapshot`"):
        shop.capture()
    mend(database, shop)
