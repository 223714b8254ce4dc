"""Rows whose keys an operator lists are read again, and deleted where the source has them no more; the rest stays."""

from __future__ import annotations

import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cdc import faults, worker
from cdc.cli.keys import listed_keys
from cdc.event import SEQUENCE_BITS, Operation
from cdc.formats.envelope import POSTGRESQL, Envelope, plain_records
from cdc.record import TOMBSTONE
from cdc.source.snapshot import Snapshots
from schemas.table import TableSchema
from tests.integration import sources
from tests.integration.mysql.support import Source as MysqlSource
from tests.integration.postgres.support import Source as PostgresSource
from tests.integration.sources import SOURCE, assert_dense
from tests.servers.mariadb import MariaDbServer
from tests.servers.postgres import create_database, drop_database


class Shop:
    """A schema of a database for one test, and the capture of its table ``item``."""

    def __init__(self, source: sources.Source, schema: str, execute: Callable[..., Any]) -> None:
        self.source, self.execute = source, execute
        self.table = f"{schema}.item"

    def differently(self, **options: Any) -> sources.Source:
        return self.source.changed(**options)

    def schema(self) -> TableSchema:
        return self.source.log.schemas()[bytes.fromhex(self.source.position.schemas[self.table])]

    def keys(self) -> list[bytes]:
        """The keys of all rows on the log."""
        return list(dict.fromkeys(r.record.key for r in self.source.records(self.table) if r.operation == "r"))

    def forge(self, *rows: list[Any]) -> None:
        """Let log and stores have rows that the database never had."""
        source = self.source
        position = source.position
        version = position.epoch << SEQUENCE_BITS | position.sequence
        reading = Envelope("forged", SOURCE, "").reading(0, 0)
        records = []
        for number, row in enumerate(rows):
            place = (version + number, 0, (), POSTGRESQL)
            records += plain_records(self.schema(), Operation.READ, None, row, reading, None, *place)
        writer = source.log.writer(SOURCE)
        try:
            writer.fence()
            assert writer.append(records, 1.0) == len(records)
            moved = msgspec.structs.replace(position, sequence=position.sequence + len(rows))
            assert writer.commit(moved.encode(), 1.0)
        finally:
            writer.close()

    def said(self, since: int) -> list[tuple[str, str]]:
        """Operation and key of the events on the log from the version `since` on."""
        return [(r.operation, r.record.key.decode()) for r in self.source.events() if r.version >= since]

    def next_version(self) -> int:
        position = self.source.position
        return int(position.epoch << SEQUENCE_BITS | position.sequence)


POSTGRES = pytest.param("postgres", marks=pytest.mark.xdist_group("postgres-snapshot"))
MARIADB = pytest.param("mariadb", marks=pytest.mark.xdist_group("mysql"))
MYSQL = pytest.param("mysql", marks=pytest.mark.xdist_group("mysql"))


@pytest.fixture(params=[POSTGRES, MARIADB, MYSQL])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.05)
    if request.param == "postgres":
        database = create_database(request.getfixturevalue("postgres18"))
        yield Shop(PostgresSource(database.dsn, tmp_path, {"tables": ["public.item"]}), "public", database.execute)
        drop_database(database)
        return
    server: MariaDbServer = request.getfixturevalue(f"{request.param}_source")
    schema = f"s{uuid.uuid4().hex[:8]}"
    server.execute(f"CREATE DATABASE {schema}")
    source = MysqlSource(server.url.rpartition("/")[0], tmp_path, {"tables": [f"{schema}.item"]})
    yield Shop(source, schema, lambda *statements: server.execute(f"USE {schema}", *statements))
    server.execute(f"DROP DATABASE {schema}")


def test_stale_rows_are_mended_and_ghosts_removed(shop: Shop) -> None:
    shop.execute("CREATE TABLE item (id int PRIMARY KEY, name varchar(20) NOT NULL)")
    shop.execute("INSERT INTO item VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    source = shop.source
    source.capture()
    shop.forge([1, "stale"], [9, "ghost"])
    assert source.differs(shop.table)
    since = shop.next_version()
    source.request_keys(shop.table, '{"id":1}', '{"id":2}', '{"id":9}', '{"id":8}')
    source.capture()
    source.assert_equal(shop.table)
    assert shop.said(since) == [("d", '{"id":9}'), ("d", '{"id":8}'), ("r", '{"id":1}'), ("r", '{"id":2}')]
    deleted = [r for r in source.records() if r.operation == "d"]
    assert [(r.record.key, r.record.value is None) for r in deleted if r.header.flags & TOMBSTONE] == [
        (b'{"id":9}', True),
        (b'{"id":8}', True),
    ]
    assert deleted[0].envelope["before"] == {"id": 9}
    assert not [r for r in source.records() if r.operation == "s"], "the rest of the table stays as it is"
    assert_dense(source.records())
    assert source.log.states("snapshot_request") == {}
    assert not source.position.snapshots


@pytest.mark.parametrize("shop", [POSTGRES, MYSQL], indirect=True)
def test_of_lists_in_parts_all_are_read_before_capture_has_caught_up(shop: Shop) -> None:
    shop.execute("CREATE TABLE item (id int PRIMARY KEY)")
    shop.execute("INSERT INTO item VALUES (1), (2), (3)")
    shop.source.capture()
    since = shop.next_version()
    for number in (1, 2, 3):
        shop.source.request_keys(shop.table, f'{{"id":{number}}}')
    shop.source.capture()
    assert sorted(shop.said(since)) == [("r", f'{{"id":{number}}}') for number in (1, 2, 3)]


@pytest.mark.parametrize("naive", [False, True])
def test_what_the_stream_has_meanwhile_is_not_overwritten(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    """Changed, deleted and inserted after the read, before its high mark."""
    shop.execute("CREATE TABLE item (id int PRIMARY KEY, name varchar(20))")
    shop.execute("INSERT INTO item VALUES (1, 'a'), (2, 'b'), (4, 'd')")
    source = shop.source
    source.capture()
    since = shop.next_version()
    reached, go_on = held(monkeypatch)
    if naive:
        monkeypatch.setattr(Snapshots, "touched", lambda *_: None)
    with source.running() as running:
        source.request_keys(shop.table, *(f'{{"id":{number}}}' for number in range(1, 6)))
        running.wait(reached.is_set, "the keys to be read")
        shop.execute("UPDATE item SET name = 'new' WHERE id = 1")
        shop.execute("DELETE FROM item WHERE id = 2")
        shop.execute("INSERT INTO item VALUES (3, 'new')")
        go_on.set()
        running.wait(lambda: ("r", '{"id":4}') in shop.said(since), "the chunk on the log")
        running.catch_up()
    assert source.differs(shop.table) == naive
    if not naive:
        of_chunk = [said for said in shop.said(since) if said[1] in ('{"id":4}', '{"id":5}')]
        assert of_chunk == [("d", '{"id":5}'), ("r", '{"id":4}')]
        assert len(shop.said(since)) == 5, "nothing but these and the three changes"


def held(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Stop the first chunk's reader when it has read the rows; (reached, go on)."""
    reached, go_on = threading.Event(), threading.Event()

    def reach(name: str) -> None:
        if name == "snapshot.in_chunk" and not reached.is_set():
            reached.set()
            assert go_on.wait(30)

    monkeypatch.setattr(faults, "reach", reach)
    return reached, go_on


@pytest.mark.parametrize("shop", [POSTGRES, MARIADB], indirect=True)
def test_killed_in_the_middle_it_goes_on_there(shop: Shop) -> None:
    """The rows of many keys do not fit into one chunk either."""
    shop.execute("CREATE TABLE item (id int PRIMARY KEY, name varchar(2000))")
    values = ", ".join(f"({number}, '{'x' * 1000}')" for number in range(1, 101))
    shop.execute(f"INSERT INTO item VALUES {values}")
    small = shop.differently(snapshot={"chunk_bytes": "16KiB"})
    small.capture()
    since = shop.next_version()
    for part in (range(1, 61), range(61, 121)):
        small.request_keys(shop.table, *(f'{{"id":{number}}}' for number in part))
    patches = {"cdc.capture:LOADED_COMMIT_SECONDS": 0.0}
    assert small.process("snapshot.in_chunk:kill:6", patches).wait() == -signal.SIGKILL
    [left] = small.position.snapshots[shop.table].ranges
    assert 0 < len(left.keys) < 60
    assert len(small.log.states("snapshot_request")) == 1, "what was taken up is kept with the position"
    before = len(shop.said(since))
    assert before == 60 - len(left.keys)
    small.capture()
    said = shop.said(since)
    assert sorted(said) == sorted(("r" if n <= 100 else "d", f'{{"id":{n}}}') for n in range(1, 121)), "each once"
    assert_dense(small.records())


@pytest.mark.parametrize("shop", [POSTGRES, MYSQL], indirect=True)
def test_a_whole_snapshot_of_the_table_goes_on_beside_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.execute("CREATE TABLE item (id int PRIMARY KEY)")
    shop.execute("INSERT INTO item VALUES (1), (2), (3)")
    source = shop.source
    source.capture()
    shop.forge([9])
    reached, go_on = held(monkeypatch)
    since = shop.next_version()
    with source.running() as running:
        source.request_snapshot(shop.table)
        running.wait(reached.is_set, "the table to be read")
        source.request_keys(shop.table, '{"id":1}', '{"id":9}')
        running.wait(lambda: source.log.states("snapshot_request") == {}, "the list to be taken up")
        go_on.set()
        running.wait(lambda: not source.position.snapshots, "the end of both")
        running.catch_up()
    source.assert_equal(shop.table)
    assert sorted(shop.said(since + 1)) == sorted(
        [("d", '{"id":9}'), ("r", '{"id":1}'), *(("r", f'{{"id":{number}}}') for number in (1, 2, 3))]
    )
    assert [r.operation for r in source.records()].count("s") == source.partitions


def test_a_value_that_its_column_cannot_hold_is_that_of_no_row(shop: Shop) -> None:
    shop.execute("CREATE TABLE item (day date PRIMARY KEY)")
    shop.execute("INSERT INTO item VALUES ('2024-01-01'), ('2024-01-02'), ('2024-01-03')")
    source = shop.source
    source.capture()
    since = shop.next_version()
    days = ["2024-01-01", "2024-13-01", "2024-01-02", "2024-01-03"]
    source.request_keys(shop.table, *(f'{{"day":"{day}"}}' for day in days))
    source.capture()
    assert sorted(shop.said(since)) == [
        ("d", '{"day":"2024-13-01"}'),
        *(("r", f'{{"day":"2024-01-0{number}"}}') for number in (1, 2, 3)),
    ]


@pytest.mark.parametrize("shop", [MARIADB, MYSQL], indirect=True)
@pytest.mark.parametrize("profile", ["readable", "debezium"])
def test_rows_whose_keys_are_dates_that_are_none_are_told_apart(shop: Shop, profile: str) -> None:
    """Read by a snapshot, streamed, of images without all columns, listed."""
    days = ["0000-00-00", "2024-00-10", "2024-02-00", "2023-02-30", "2024-01-01"]
    moments = [*(f"{day} 01:02:03" for day in days), "0000-00-00 00:00:00"]
    stamps = ["0000-00-00 00:00:00", "2024-01-01 00:00:00"]
    keys = [(day, moments[0], stamps[1]) for day in days] + [(days[-1], moment, stamps[0]) for moment in moments]
    values = [f"('{day}', '{moment}', '{stamp}', 'a', 1)" for day, moment, stamp in keys]
    mode = "SET time_zone = '+00:00', sql_mode = 'ALLOW_INVALID_DATES'"
    columns = "d date, m datetime, s timestamp DEFAULT '2024-01-01', v text, n int, PRIMARY KEY (d, m, s)"
    shop.execute(f"{mode}", f"CREATE TABLE item ({columns})", f"INSERT INTO item VALUES {', '.join(values)}")
    source = shop.differently(profile=profile)
    source.capture()
    found = shop.keys()
    assert len(found) == len(keys)
    assert not any(b"null" in key for key in found)
    assert listed_keys([("", key) for key in found], shop.schema()) == [key.decode() for key in found]
    since = shop.next_version()
    shop.execute(f"{mode}", "UPDATE item SET n = 2")
    shop.execute(f"{mode}, binlog_row_image = MINIMAL", "UPDATE item SET n = 3")
    source.capture()
    assert sorted(shop.said(since)) == sorted(("u", key.decode()) for key in found for _ in range(2))
    assert all((event.after["v"], event.after["n"]) == ("a", 3) for event in source.events()[-len(keys) :])
    since = shop.next_version()
    source.request_keys(shop.table, *found)
    source.capture()
    assert sorted(shop.said(since)) == sorted(("r", key.decode()) for key in found)
    since = shop.next_version()
    shop.execute("DELETE FROM item")
    source.capture()
    assert sorted(shop.said(since)) == sorted(("d", key.decode()) for key in found)


@pytest.mark.parametrize("shop", [MARIADB], indirect=True)
@pytest.mark.parametrize("touched", [False, True])
def test_a_row_that_is_equal_but_for_its_bytes_stays(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, touched: bool
) -> None:
    """Its record comes after the other's delete, whatever the stream has meanwhile."""
    shop.execute("CREATE TABLE item (name varchar(9) COLLATE utf8mb4_unicode_ci PRIMARY KEY, v int)")
    shop.execute("INSERT INTO item VALUES ('a', 1)")
    source = shop.source
    source.capture()
    since = shop.next_version()
    reached, go_on = held(monkeypatch)
    with source.running() as running:
        source.request_keys(shop.table, '{"name":"A"}')
        running.wait(reached.is_set, "the key to be read")
        if touched:
            shop.execute("UPDATE item SET v = 2")
        go_on.set()
        running.wait(lambda: ("r", '{"name":"a"}') in shop.said(since), "the row on the log")
    changes = [("u", '{"name":"a"}')] * touched
    assert shop.said(since) == [*changes, ("d", '{"name":"A"}'), ("r", '{"name":"a"}')]


TYPES = {
    "text": [r"""E'\\\'"\t%s{}(?)$1'""", "''", "'é漢'", "'NULL'"],
    "char(5)": ["'ab'", "''"],
    "varchar(9)": ["'ab '"],
    "uuid": ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
    "numeric": ["1.50", "-7", "'NaN'", "1e30"],
    "numeric(12,2)": ["1.5", "-0.07"],
    "bigint": ["-9223372036854775808"],
    "real": ["0.1", "'-Infinity'", "1e-20"],
    "double precision": ["0.1", "-0.0", "1e300"],
    "boolean": ["true", "false"],
    "bytea": [r"'\x00ff27'", "''"],
    "date": ["'0044-03-15 BC'", "'infinity'", "'2026-01-31'"],
    "time": ["'12:00:00.5'"],
    "timestamp": ["'0044-03-15 01:02:03.5 BC'", "'2026-01-31 00:00:00'"],
    "timestamp(3)": ["'2026-01-31 00:00:00.25'"],
    "timestamptz": ["'0044-03-15 01:02:03.5+00 BC'", "'2026-01-31 00:00:00.000001+05'", "'-infinity'"],
    "mood": ["'so so'"],
    "price": ["1.5"],
}


@pytest.mark.parametrize("shop", [POSTGRES], indirect=True)
@pytest.mark.parametrize("profile", ["readable", "debezium"])
def test_keys_of_every_type_are_found(shop: Shop, profile: str) -> None:
    """Rows differ in one column of the key each."""
    described = ", ".join(f'"c {number}" {type_}' for number, type_ in enumerate(TYPES))
    names = ", ".join(f'"c {number}"' for number in range(len(TYPES)))
    shop.execute("CREATE TYPE mood AS ENUM ('sad', 'so so'); CREATE DOMAIN price AS numeric(12,2)")
    shop.execute(f"CREATE TABLE item ({described}, PRIMARY KEY ({names}))")
    first = [values[0] for values in TYPES.values()]
    rows = [
        f"({', '.join([*first[:number], value, *first[number + 1 :]])})"
        for number, values in enumerate(TYPES.values())
        for value in values[number > 0 :]
    ]
    shop.execute(f"INSERT INTO item VALUES {', '.join(rows)}")
    source = shop.differently(profile=profile)
    source.capture()
    keys = shop.keys()
    assert len(keys) == len(rows)
    assert listed_keys([("", key) for key in keys], shop.schema()) == [key.decode() for key in keys]
    since = shop.next_version()
    source.request_keys(shop.table, *keys)
    source.capture()
    assert sorted(shop.said(since)) == sorted(("r", key.decode()) for key in keys)
