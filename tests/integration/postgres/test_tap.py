"""What ``cdc tap --at source`` shows, and that neither pipeline nor database notices it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cdc.capture import Item, Marker
from cdc.errors import CdcError, PermanentError
from cdc.log import Produced
from cdc.record import PARTIAL, TOMBSTONE, unpack_header
from schemas.table import TableSchema
from tests.integration.postgres.conftest import MakeSource
from tests.integration.postgres.support import Source
from tests.servers import wait_until
from tests.servers.postgres import Database, Postgres

pytestmark = pytest.mark.xdist_group("postgres-politeness")

POLITE_SECONDS = 10.0
TEMPORARY = "SELECT slot_name FROM pg_replication_slots WHERE temporary AND database = current_database()"


class Tap:
    """A source that is tapped in a thread."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tap under test")
        self.begun = False
        self.items: list[Item] = []
        self.error: CdcError | None = None

    def _run(self) -> None:
        try:
            with contextlib.closing(self._source.connector.tap(self._enough.is_set)) as batches:
                for items in batches:
                    self.begun = True
                    self.items += items
        except CdcError as error:
            self.error = error

    @property
    def records(self) -> list[Produced]:
        """Without tombstones."""
        runs = [item for item in self.items if isinstance(item, list)]
        return [record for run in runs for record in run if not unpack_header(record.header).flags & TOMBSTONE]

    def end(self) -> None:
        self._enough.set()
        self._thread.join(POLITE_SECONDS)
        assert not self._thread.is_alive(), "the tap does not end"

    def __enter__(self) -> Tap:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@contextlib.contextmanager
def tapped(source: Source) -> Iterator[Tap]:
    """Tap `source` from the beginning of the block on."""
    with Tap(source) as tap:
        wait_until(lambda: tap.begun or tap.error, what="the tap to begin")
        yield tap


def comparable(envelope: bytes | None) -> Any:
    """An envelope without what depends on who captured it, and when."""
    document = json.loads(envelope or b"null")
    for name in ("ts_ms", "ts_us", "ts_ns"):
        document.pop(name)
    document["source"].pop("sequence")
    return document


@pytest.mark.parametrize("profile", ["readable", "debezium"])
def test_it_shows_what_capture_appends(database: Database, source: MakeSource, profile: str) -> None:
    database.execute(
        "CREATE TABLE item (id int PRIMARY KEY, name text, price numeric, at timestamptz DEFAULT now());"
        "CREATE TABLE note (id int PRIMARY KEY, content text); ALTER TABLE note REPLICA IDENTITY FULL;"
        "CREATE TABLE other (id int PRIMARY KEY)"
    )
    shop = source(["public.*", "!public.other"], profile=profile)
    shop.capture()
    before = shop.position
    with tapped(shop) as tap:
        database.execute("INSERT INTO item VALUES (1, 'one', 1.50), (2, NULL, NULL)")
        database.execute("UPDATE item SET name = 'é' WHERE id = 1; UPDATE item SET id = 3 WHERE id = 2")
        database.execute(
            "INSERT INTO note VALUES (1, 'x'); UPDATE note SET content = 'y'; INSERT INTO other VALUES (1)"
        )
        database.execute("ALTER TABLE item ADD COLUMN more int; UPDATE item SET more = 7 WHERE id = 1")
        database.execute("TRUNCATE note; DELETE FROM item WHERE id = 1")
        wait_until(lambda: len(tap.records) == 9, what="the last event")
    assert shop.position == before
    shop.capture()
    events = [logged for logged in shop.events() if logged.operation != "r"]
    assert [(r.topic, r.key, comparable(r.value)) for r in tap.records] == [
        (logged.topic, logged.record.key, comparable(logged.record.value)) for logged in events
    ]
    schemas = [item for item in tap.items if isinstance(item, TableSchema)]
    assert {schema.id: schema for schema in schemas} == shop.log.schemas()
    (marker,) = [item for item in tap.items if isinstance(item, Marker)]
    assert (marker.topic, unpack_header(marker.header).operation) == (shop.topic("public.note"), b"t")


def test_the_pipeline_does_not_notice_whether_it_runs_or_not(database18: Database, source18: MakeSource) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY)")
    shop = source18(["public.item"])
    shop.capture()
    slots = "SELECT * FROM pg_replication_slots WHERE NOT temporary AND database = current_database()"
    published = "SELECT * FROM pg_publication_tables"
    stored, idle, tables = shop.log.positions(), database18.execute(slots), database18.execute(published)
    topics, states = shop.log.topics(), shop.log.states("worker")
    with tapped(shop) as tap:
        database18.execute("INSERT INTO item SELECT generate_series(1, 100)")
        wait_until(lambda: len(tap.records) == 100, what="the events")
        assert len(database18.execute(TEMPORARY)) == 1
        assert database18.execute(slots) == idle
    wait_until(lambda: database18.execute(TEMPORARY) == [], what="the end of the temporary slot")
    assert (shop.log.positions(), shop.log.topics(), shop.log.states("worker")) == (stored, topics, states)
    assert (database18.execute(slots), database18.execute(published)) == (idle, tables)

    with shop.running() as running:
        running.catch_up()
        with tapped(shop) as tap, tapped(shop) as another:
            database18.execute("INSERT INTO item SELECT generate_series(101, 200)")
            running.catch_up()
            wait_until(lambda: len(tap.records) == len(another.records) == 100, what="the events")
            assert len(database18.execute(TEMPORARY)) == 2
        wait_until(lambda: database18.execute(TEMPORARY) == [], what="the end of the temporary slots")
        running.catch_up()
        assert not running.errors
    shop.assert_equal("public.item")


def test_a_column_that_was_not_sent_is_not_shown(database18: Database, source18: MakeSource) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY, large text, n int)")
    database18.execute("ALTER TABLE item ALTER large SET STORAGE EXTERNAL")
    database18.execute("INSERT INTO item VALUES (1, repeat('x', 5000), 1)")
    shop = source18(["public.item"])
    shop.capture()
    with tapped(shop) as tap:
        database18.execute("UPDATE item SET n = 2")
        wait_until(lambda: tap.records, what="the event")
    (record,) = tap.records
    envelope = comparable(record.value)
    assert (envelope["after"], envelope["source"]["unchanged"]) == ({"id": 1, "n": 2}, ["large"])
    assert unpack_header(record.header).flags == PARTIAL


def test_without_a_publication_it_is_an_error_that_says_what_to_do(database18: Database, source18: MakeSource) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY)")
    shop = source18(["public.item"])
    with pytest.raises(PermanentError, match=r"does not exist yet.*\n.*cdc run.* makes it"):
        next(shop.connector.tap(lambda: False))
    assert database18.execute("SELECT * FROM pg_replication_slots WHERE database = current_database()") == []
    assert database18.execute("SELECT * FROM pg_publication") == []
    assert not (shop.folder / "log").exists()


def test_a_table_that_the_publication_lacks_is_told_of(database18: Database, source18: MakeSource) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE later (id int PRIMARY KEY)")
    source18(["public.item"]).capture()
    with capture_logs() as lines, tapped(source18(["public.item", "public.later"])) as tap:
        database18.execute("INSERT INTO later VALUES (1); INSERT INTO item VALUES (1)")
        wait_until(lambda: tap.records, what="the event")
    assert [line["tables"] for line in lines if "the publication lacks them" in line["event"]] == [["public.later"]]
    assert [item.table for item in tap.items if isinstance(item, TableSchema)] == ["item"]


def test_it_keeps_no_wal(database18: Database, source18: MakeSource) -> None:
    """Nor when what is written is not captured."""
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE busy (content text)")
    shop = source18(["public.item"])
    shop.capture()
    confirmed = "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE temporary"
    with tapped(shop):
        for _ in range(3):
            database18.execute("INSERT INTO busy SELECT repeat('x', 1000) FROM generate_series(1, 300)")
            [(written,)] = database18.execute("SELECT pg_current_wal_lsn() - '0/0'")
            wait_until(lambda end=written: database18.execute(confirmed)[0][0] >= end, what="the slot to follow")


def test_it_waits_for_transactions_that_run_and_ends_before_them(database18: Database, source18: MakeSource) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY)")
    shop = source18(["public.item"])
    shop.capture()
    making = (
        "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'transactionid' AND backend_type = 'walsender' "
        "AND datname = current_database()"
    )
    with database18.connect(autocommit=False) as writing:
        writing.execute("INSERT INTO item VALUES (1)")
        with Tap(shop) as tap:
            wait_until(lambda: database18.execute(making), what="the database to make the slot")
            tap.end()
        assert (tap.begun, tap.error) == (False, None)
        wait_until(lambda: database18.execute(TEMPORARY) == [], what="the end of the slot")
    with tapped(shop) as tap:
        database18.execute("INSERT INTO item VALUES (2)")
        wait_until(lambda: tap.records, what="the event")


def make(server: Postgres, source: MakeSource) -> tuple[Database, Source]:
    server.start()
    database = Database(server, "postgres")
    database.execute("CREATE TABLE item (id int PRIMARY KEY, content text)")
    shop = source(["public.item"]).changed(dsn=database.dsn)
    shop.capture()
    return database, shop


def command(folder: Path, shop: Source, arguments: Sequence[str], **streams: Any) -> subprocess.Popen[str]:
    """The command line with the same source."""
    (folder / "cdc.yaml").write_text(
        "version: 1\npipeline: test\nlog: {type: embedded, path: log}\nsinks: {}\n"
        f'sources: {{shop: {{type: postgres, url: "{shop.dsn}", tables: [public.item]}}}}\n'
    )
    return subprocess.Popen(
        [sys.executable, "-m", "cdc", "tap", *arguments], cwd=folder, stdin=subprocess.DEVNULL, text=True, **streams
    )


def test_a_slow_stdout_drops_events_and_does_not_hold_up_a_shutdown(
    own_postgres: Postgres, source18: MakeSource, tmp_path: Path
) -> None:
    database, shop = make(own_postgres, source18)
    err = tmp_path / "err"
    with err.open("w") as errors:
        process = command(tmp_path, shop, ["--at", "source"], stdout=subprocess.PIPE, stderr=errors)
    try:
        wait_until(lambda: "tapping test at source/shop" in err.read_text(), what="the tap to begin")
        database.execute("INSERT INTO item SELECT n, repeat('x', 1000) FROM generate_series(1, 40000) n")
        wait_until(lambda: "dropped (stdout is too slow for them)" in err.read_text(), what="events to be dropped")
        database.execute("INSERT INTO item SELECT n, repeat('x', 1000) FROM generate_series(40001, 50000) n")
        began = time.monotonic()
        own_postgres.stop()
        assert time.monotonic() - began < POLITE_SECONDS
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 3
        dropped = int(err.read_text().rsplit(" dropped", 1)[0].rsplit(maxsplit=1)[-1])
        assert 0 < output.count("\n") < 50000
        assert output.endswith("}\n")
        assert dropped <= 50000 - output.count("\n")
        assert "PostgreSQL: " in err.read_text()
    finally:
        process.kill()
        process.communicate()


def test_a_shutdown_while_nothing_happens(own_postgres: Postgres, source18: MakeSource) -> None:
    _, shop = make(own_postgres, source18)
    with tapped(shop) as tap:
        began = time.monotonic()
        own_postgres.stop()
        assert time.monotonic() - began < POLITE_SECONDS
        wait_until(lambda: tap.error, what="the tap's end")
