"""Chunks of a table: what they read is what the stream has, in order, once, and not older than what was streamed."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cdc.cli.keys import listed_keys
from cdc.errors import CdcError, DecodeError, PermanentError
from cdc.formats.json import decode
from cdc.log import Produced
from cdc.record import unpack_header
from cdc.source.config import SnapshotConfig
from cdc.source.plan import KeyRange
from cdc.source.snapshot import ReadLater
from connectors.mysql import chunk as chunk_module
from connectors.mysql.catalogue import CatalogTable, describe, schema_columns
from connectors.mysql.chunk import ChunkReader, MysqlChunk
from connectors.mysql.client import Server, address, connect, identify
from connectors.mysql.envelope import BinlogEnvelope, event_place
from connectors.mysql.events import Rows
from connectors.mysql.gtid import GtidSet, MariadbPosition
from connectors.mysql.gtid import Source as GtidSource
from connectors.mysql.keys import condition, key_columns
from connectors.mysql.position import BinlogPlace, Executed, within
from connectors.mysql.records import KnownTable
from connectors.mysql.select import compile_select, select_list, split_row
from connectors.mysql.tablemap import TableMap
from schemas.table import TableSchema
from tests.integration.mysql.conftest import Binlog
from tests.integration.mysql.semisync import unanswered
from tests.integration.mysql.test_values import MARIADB, MYSQL, OPAQUE, TYPES
from tests.servers import wait_until

pytestmark = pytest.mark.xdist_group("mysql")


class Source:
    """A server and what reads its chunks."""

    def __init__(self, binlog: Binlog) -> None:
        self.binlog = binlog
        self.address = address(binlog.server.url, None, None)
        with closing(connect(self.address)) as connection:
            self.server: Server = identify(connection)
        self.reader = ChunkReader(self.address, self.server, SnapshotConfig())

    def bound(self, chunk_bytes: int) -> None:
        """How much a chunk may hold, before any is read."""
        config = SnapshotConfig().model_copy(update={"chunk_bytes": chunk_bytes})
        self.reader = ChunkReader(self.address, self.server, config)

    def table(self, name: str = "item") -> CatalogTable:
        """As the catalogue has it now."""
        with closing(connect(self.address)) as connection:
            table = describe(connection, self.server, "shop", name)
        assert table is not None
        assert not table.problem
        return table

    def captured(self) -> Executed:
        """All that the binlog has and is committed."""
        if self.binlog.mysql:
            return GtidSet.parse(self.binlog.execute("SELECT @@gtid_executed")[0][0])
        return MariadbPosition.parse(self.binlog.execute("SELECT @@gtid_binlog_pos")[0][0])

    def end(self) -> BinlogPlace:
        """The binlog's."""
        command = "SHOW BINARY LOG STATUS" if self.binlog.mysql else "SHOW MASTER STATUS"
        file, position, *_ = self.binlog.execute(command)[0]
        return BinlogPlace(file, position)

    def chunk(self, table: CatalogTable | None = None, range_: KeyRange | None = None, limit: int = 1000) -> MysqlChunk:
        """One that is begun by a stream which has had everything."""
        table = table or self.table()
        return MysqlChunk(table, range_ or KeyRange(), limit, "c", captured=self.captured())

    def read(self, chunk: MysqlChunk) -> MysqlChunk:
        """Read it. Raises its error."""
        self.reader.begin(chunk)
        assert chunk.done.wait(30)
        if chunk.error is not None:
            raise chunk.error
        return chunk

    def tried(self, chunk: MysqlChunk) -> bool:
        """Read it; whether that is to be tried again later."""
        chunk.error = None
        chunk.done.clear()
        try:
            self.read(chunk)
        except ReadLater:
            return True
        return False

    def walk(self, limit: int, ranges: Sequence[KeyRange] = (KeyRange(),)) -> Iterator[MysqlChunk]:
        """Chunks until nothing is left of the ranges."""
        left, table, captured = list(ranges), self.table(), self.captured()
        while left:
            chunk = MysqlChunk(table, left.pop(0), limit, "c", captured=captured)
            yield self.read(chunk)
            left = chunk.rest + left


@pytest.fixture
def source(binlog: Binlog) -> Iterator[Source]:
    made = Source(binlog)
    yield made
    made.reader.close()


def columns_of(chunk: MysqlChunk, *names: str) -> list[tuple[bytes | None, ...]]:
    """The rows' texts."""
    places = [[column.name for column in chunk.table.columns].index(name) for name in names]
    return [tuple(split_row(line)[place] for place in places) for line in chunk.lines]


def after(record: Produced) -> tuple[bytes | None, bytes]:
    """A record's key and row."""
    header = unpack_header(record.header)
    assert record.value is not None
    return record.key, record.value[header.after_start : header.after_start + header.after_length]


def streamed(source: Source, profile: str, key: tuple[str, ...]) -> list[tuple[bytes | None, bytes]]:
    """What the binlog's current file has of the table."""
    table = source.table()
    records: list[Produced] = []
    known = None
    transaction = BinlogEnvelope("mysql", "shop").transaction(0, 1, 0, None, "bin.1", 0)
    for _, event in source.binlog.events():
        if isinstance(event, TableMap) and event.table == table.name:
            assert event.columns == table.columns
            schema = TableSchema("p.shop.item", "shop", table.name, schema_columns(table), key, profile)
            known = KnownTable.of(event, schema, table.declared)
        elif isinstance(event, Rows):
            assert known is not None
            known.produce(records.append, event, transaction, event_place(4), 1, 0)
    return [after(record) for record in records]


def snapshotted(chunk: MysqlChunk, profile: str, key: tuple[str, ...]) -> list[tuple[bytes | None, bytes]]:
    """What a chunk has of it."""
    schema = TableSchema("p.shop.item", "shop", chunk.table.name, schema_columns(chunk.table), key, profile)
    records: list[Produced] = []
    transaction = BinlogEnvelope("mysql", "shop").reading(0, 0)
    end = compile_select(schema, chunk.table).read(records.append, chunk.lines, transaction, 1, frozenset())
    assert end == len(chunk.lines) + 1
    return [after(record) for record in records]


def differing(ours: bytes, theirs: bytes) -> list[Any]:
    """The columns that differ."""
    pairs = zip(json.loads(ours).items(), json.loads(theirs).items(), strict=True)
    return [pair for pair in pairs if len(set(map(repr, pair))) > 1]


def same_both_ways(source: Source, key: tuple[str, ...] = ("id",)) -> None:
    for profile in ("readable", "debezium"):
        chunk = source.read(source.chunk())
        assert chunk.lines
        for ours, theirs in zip(snapshotted(chunk, profile, key), streamed(source, profile, key), strict=True):
            assert ours == theirs or differing(ours[1], theirs[1]) == []
            assert ours == theirs


def test_every_type_is_what_the_stream_has(source: Source) -> None:
    binlog = source.binlog
    types = {**TYPES, **({"json": MYSQL["json"]} if binlog.mysql else MARIADB)}
    more = {"double(10,2)": TYPES["double"], "float(7,4)": TYPES["float"], "int zerofill": TYPES["int unsigned"]}
    more |= {"decimal(12,2) zerofill": TYPES["decimal(12,2) unsigned"], "double zerofill": TYPES["double"]}
    types |= more
    described = ", ".join(f"v{i} {type_}" for i, type_ in enumerate(types))
    binlog.execute("SET sql_mode = 'ALLOW_INVALID_DATES'")
    binlog.execute(f"CREATE TABLE item (id bigint PRIMARY KEY AUTO_INCREMENT, {described}) ROW_FORMAT = DYNAMIC")

    @st.composite  # and so without a description, which would be large
    def rows(draw: st.DrawFn) -> tuple[Any, ...]:
        return tuple(draw(st.none() | strategy) for strategy, _, _ in types.values())

    @settings(
        max_examples=5,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=[Phase.generate],  # a row has too many values for a simplest one to be found soon
    )
    @given(st.lists(rows(), min_size=1, max_size=6))
    def run(values: list[tuple[Any, ...]]) -> None:
        binlog.execute("DELETE FROM item")
        binlog.rotate()
        names = ", ".join(f"v{i}" for i in range(len(types)))
        place = f"({', '.join(['%s'] * len(types))})"
        for row in values:
            binlog.execute(f"INSERT IGNORE INTO item ({names}) VALUES {place}", values=row)
        same_both_ways(source)

    run()


@pytest.mark.parametrize("binlog", ["mysql"], indirect=True)
def test_documents_are_what_the_stream_has(source: Source) -> None:
    binlog = source.binlog
    binlog.execute(
        "SET sql_mode = ''",
        "CREATE TABLE item (id int PRIMARY KEY AUTO_INCREMENT, v json, g int AS (JSON_LENGTH(v)),"
        " h int INVISIBLE DEFAULT 7)",
    )
    for number in ("0", "-12345678.91", "1e-20"):
        for expression in OPAQUE:
            value = expression.replace("%s", number)
            binlog.execute(f"INSERT INTO item (v) VALUES (JSON_ARRAY({value}, JSON_OBJECT('a', {value})))")
    same_both_ways(source)


def test_vectors_are_what_the_stream_has(source: Source) -> None:
    binlog = source.binlog
    if not (made := binlog.vector()):
        pytest.skip("MariaDB before 11.7 has no vectors")
    index = "" if binlog.mysql else ", VECTOR INDEX (x)"
    binlog.execute(f"CREATE TABLE item (id int PRIMARY KEY, v vector(2), x vector(3) NOT NULL{index})")
    binlog.execute(
        f"INSERT INTO item VALUES (1, {made}('[0,-0.0]'), {made}('[1.5,-0.1,3e10]')), (2, NULL, {made}('[1e-30,1,2]'))"
    )
    same_both_ways(source)


def test_text_and_geometries_are_what_the_stream_has(source: Source) -> None:
    binlog = source.binlog
    sets = [name for (name,) in binlog.execute("SELECT character_set_name FROM information_schema.character_sets")]
    sets.remove("binary")
    described = ", ".join(
        f"{name} varchar(40) CHARACTER SET {name}, {name}_c char(40) CHARACTER SET {name}" for name in sets
    )
    binlog.execute(
        "SET sql_mode = ''",
        f"CREATE TABLE item (id int PRIMARY KEY, {described}, g geometry, p point, n int AS (id + 1) STORED, "
        "h int INVISIBLE DEFAULT 7, big longtext)",
    )
    if not binlog.mysql:  # which refuses to; here rows have a geometry of no bytes
        binlog.execute("ALTER TABLE item ADD q point NOT NULL, ADD r geometry NOT NULL")
    texts = ["plain", "äöüß é", "Привет", "漢字かな カナ", "한글", "ไทย", "עברית", "Ελληνικά", "😀", "€ ~ \\ ¥", " a "]
    names = ", ".join(f"{name}, {name}_c" for name in sets)
    for i, text in enumerate(texts):
        values = [text] * 2 * len(sets)
        binlog.execute(
            f"INSERT INTO item (id, {names}, g, p, big) VALUES ({i}, {', '.join(['%s'] * len(values))},"
            f" ST_GeomFromText('LINESTRING(1 2, 3 4)', 4326), POINT(1, {i}), REPEAT('x', {[250, 251, 70_000][i % 3]}))",
            values=values,
        )
    binlog.execute("INSERT INTO item (id, big) VALUES (99, REPEAT('y', 16777200))")
    assert binlog.mysql or set(binlog.execute("SELECT LENGTH(q), LENGTH(r) FROM item")) == {(0, 0)}
    same_both_ways(source)


def test_a_row_that_is_cut_off_is_refused(source: Source) -> None:
    source.binlog.execute(
        "CREATE TABLE item (id int PRIMARY KEY, u int unsigned, d datetime(6), f float, t timestamp NULL, v text,"
        " x varchar(300) NOT NULL)",
        "INSERT INTO item VALUES (1, 2, '2024-01-01 00:00:00.5', 1.5, NULL, REPEAT('x', 300), REPEAT('y', 260))",
    )
    chunk = source.read(source.chunk())
    [line] = chunk.lines
    for size in range(len(line)):
        chunk.lines = [line[:size]]
        with pytest.raises(DecodeError, match="read by a snapshot does not fit its columns"):
            snapshotted(chunk, "readable", ("id",))


NUMBERS = [
    *(f"{name}{unsigned}" for name in ("tinyint", "mediumint", "bigint") for unsigned in ("", " unsigned")),
    *("decimal(65,30)", "decimal(12,2) unsigned", "double", "float"),
]
OTHERS = [
    *("bit(7)", "bit(33)", "year", "date", "time(3)", "datetime(6)", "timestamp(2) NULL"),
    *("char(30)", "binary(30)", "varbinary(30)"),
    *("enum('ä','ö') CHARACTER SET latin1", "set('ä','ö') CHARACTER SET utf16"),
]
NAMES = ["latin1", "cp932", "sjis", "big5", "gbk", "ujis", "ucs2", "utf16", "utf32", "utf8mb3", "ascii"]
CHARACTERS = [f"varchar(20) CHARACTER SET {name}" for name in NAMES]
TEXTS = ["", "a", "A", "a ", "B", "é", "E", "漢", "か", "カ", "ﾐ", "ß", "ss", "~", "\\", "'"]


def examples(type_: str) -> list[Any]:
    """Some values of a type."""
    if type_ in CHARACTERS:
        return TEXTS
    found: list[Any] = []

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given({**TYPES, **MARIADB}[type_][0])
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


@pytest.mark.parametrize("types", [NUMBERS, OTHERS, CHARACTERS], ids=["numbers", "others", "characters"])
def test_a_table_is_walked_by_any_key_in_order_and_every_row_once(source: Source, types: list[str]) -> None:
    """Rows differ in one column of the key each: at every place of it values are compared as the server sorts them."""
    binlog = source.binlog
    if not binlog.mysql:
        types = [*types, *(["uuid", "inet4", "inet6"] if types is OTHERS else [])]
    names = [f"v{i}" for i in range(len(types))]
    described = ", ".join(
        f"{name} {type_.removesuffix(' NULL')} NOT NULL" for name, type_ in zip(names, types, strict=True)
    )
    key = f"{', '.join(names)}, id"
    binlog.execute(
        "SET sql_mode = 'ALLOW_INVALID_DATES'",
        f"CREATE TABLE item ({described}, id int NOT NULL, PRIMARY KEY ({key}))",
    )
    values = [examples(type_) for type_ in types]
    ordinary = [some[len(some) // 2] for some in values]
    rows = [[*ordinary[:i], value, *ordinary[i + 1 :]] for i, some in enumerate(values) for value in some]
    place = f"({', '.join(['%s'] * len(types))}, %s)"
    binlog.execute(
        f"INSERT IGNORE INTO item VALUES {', '.join([place] * len(rows))}",
        values=[value for i, row in enumerate(rows) for value in (*row, i)],
    )
    expected = [str(row[0]).encode() for row in binlog.execute(f"SELECT id FROM item ORDER BY {key}")]
    assert len(expected) == len(rows)
    assert [text for chunk in source.walk(1) for (text,) in columns_of(chunk, "id")] == expected
    for profile in ("readable", "debezium"):
        every_listed_key_is_found(source, profile, (*names, "id"))


def every_listed_key_is_found(source: Source, profile: str, key: tuple[str, ...]) -> None:
    """Record keys are taken by the command as they are, and lead to their rows."""
    table = source.table()
    schema = TableSchema("p.shop.item", "shop", table.name, schema_columns(table), key, profile)
    records = [record for record, _ in snapshotted(source.read(source.chunk()), profile, key)]
    keys = [record for record in records if record is not None and b":null" not in record]
    assert len(keys) == len(records)
    assert listed_keys([("", one) for one in keys], schema) == [one.decode() for one in keys]
    chunk = source.chunk()
    chunk.keys = {one: decode(schema, one) for one in keys}
    found = {record for record, _ in snapshotted(source.read(chunk), profile, key)}
    assert found == set(keys)


@pytest.mark.parametrize("key", ["a, b, c, d", "d, c, a, b", "e, a, b"])
def test_a_range_is_looked_up_in_the_index(source: Source, key: str) -> None:
    binlog = source.binlog
    binlog.execute(
        "CREATE TABLE item (a int NOT NULL, b varbinary(9) NOT NULL, c datetime(3) NOT NULL,"
        " d varchar(9) CHARACTER SET latin1 NOT NULL, e enum('x', 'y', 'z') NOT NULL, more varchar(200),"
        f" PRIMARY KEY ({key}))"
    )
    rows = ", ".join(
        f"({i // 100}, '{i}', '2024-01-01', 'd{i}', {i // 2000 + 1}, REPEAT('x', 150))" for i in range(5000)
    )
    binlog.execute(f"INSERT INTO item VALUES {rows}", "ANALYZE TABLE item")
    first, second, *_ = source.walk(1500)
    [after_first], [after_second] = first.rest, second.rest
    explain = "EXPLAIN FORMAT = TRADITIONAL" if binlog.mysql else "EXPLAIN"
    for range_ in (after_first, KeyRange(after_first.after, after_second.after)):
        where = condition(key_columns(first.table), range_)
        [plan] = binlog.execute(
            f"{explain} SELECT {', '.join(select_list(first.table))} FROM item WHERE {where} ORDER BY {key} LIMIT 100"
        )
        assert "range" in plan
        assert "PRIMARY" in plan
        assert "filesort" not in str(plan)


def numbers(source: Source, count: int, size: int = 10, more: str = "") -> None:
    """A table with the keys 1 to `count`."""
    source.binlog.execute(f"CREATE TABLE item (id int PRIMARY KEY, v longtext{more})")
    rows = ", ".join(f"({i}, REPEAT('x', {size}))" for i in range(1, count + 1))
    source.binlog.execute(f"INSERT INTO item (id, v) VALUES {rows}")


def test_a_chunk_holds_no_more_than_it_may(source: Source) -> None:
    numbers(source, 50, 100_000)
    source.bound(1_000_000)
    chunk = source.read(source.chunk())
    assert len(chunk.lines) == 10
    assert 1_000_000 <= chunk.size == sum(map(len, chunk.lines)) < 1_200_000
    assert chunk.rest == [KeyRange(["10"])]
    assert chunk.high == source.end()
    found = [text for chunk in source.walk(1000) for (text,) in columns_of(chunk, "id")]
    assert found == [b"%d" % i for i in range(1, 51)]


def test_what_is_left_of_a_large_table_is_divided(source: Source) -> None:
    numbers(source, 2000, 1000)
    source.binlog.execute("ANALYZE TABLE item")
    source.bound(200_000)
    chunk = source.chunk(limit=100)
    chunk.divide = 4
    source.read(chunk)
    assert chunk.table_rows is not None
    assert chunk.table_rows > 1000
    assert chunk.rest == [
        KeyRange(["100"], ["575"]),
        KeyRange(["575"], ["1050"]),
        KeyRange(["1050"], ["1525"]),
        KeyRange(["1525"]),
    ]
    parts = [chunk, *source.walk(1000, chunk.rest)]
    assert [text for part in parts for text in columns_of(part, "id")] == [(b"%d" % i,) for i in range(1, 2001)]


def test_a_range_ends_with_its_last_key(source: Source) -> None:
    numbers(source, 10)
    chunk = source.read(source.chunk(range_=KeyRange(["3"], ["7"])))
    assert columns_of(chunk, "id") == [(b"4",), (b"5",), (b"6",), (b"7",)]
    assert chunk.rest == []


def test_what_was_streamed_and_is_not_visible_is_waited_for(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_module, "VISIBLE_SECONDS", 0.3)
    numbers(source, 3)
    earlier, later = source.chunk(), source.chunk()
    with unanswered(source.binlog.server, "USE shop", "UPDATE item SET v = 'new' WHERE id = 2"):
        assert source.binlog.execute("SELECT v FROM item WHERE id = 2") == [("x" * 10,)]
        later.captured = ahead(source, earlier.captured)
        with pytest.raises(ReadLater, match="a replica may not answer"):
            source.read(later)
        # what had been streamed before it is visible, and need not wait
        assert columns_of(source.read(earlier), "v")[1] == (b"x" * 10,)
        # it is waited for in the reader's thread
        monkeypatch.setattr(chunk_module, "VISIBLE_SECONDS", 30.0)
        waiting = MysqlChunk(later.table, KeyRange(), 1000, "w", captured=later.captured)
        source.reader.begin(waiting)
        assert not waiting.done.wait(0.2)
    assert waiting.done.wait(30)
    assert waiting.error is None
    assert columns_of(waiting, "v")[1] == (b"new",)
    assert waiting.seen is not None
    assert within(waiting.captured, waiting.seen)


@pytest.mark.parametrize("binlog", ["mariadb"], indirect=True)
def test_the_next_file_does_not_make_it_visible(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """MariaDB says of a snapshot that it is in the file that a transaction's size began, before it is visible."""
    monkeypatch.setattr(chunk_module, "VISIBLE_SECONDS", 0.3)
    numbers(source, 3)
    chunk = source.chunk()
    source.binlog.execute("SET GLOBAL max_binlog_size = 4096")
    try:
        with unanswered(source.binlog.server, "USE shop", "UPDATE item SET v = REPEAT('n', 5000) WHERE id = 2"):
            chunk.captured = ahead(source, chunk.captured)
            with pytest.raises(ReadLater, match="a replica may not answer"):
                source.read(chunk)
            assert chunk.high == source.end()
    finally:
        source.binlog.execute("SET GLOBAL max_binlog_size = DEFAULT")
    again = source.chunk()
    wait_until(lambda: not source.tried(again), what="the file's checkpoint")
    assert columns_of(again, "v")[1] == (b"n" * 5000,)


def ahead(source: Source, before: Executed) -> Executed:
    """What the binlog has: one transaction more than `before`."""
    if isinstance(before, MariadbPosition):
        now = source.captured()
        assert not within(now, before)
        return now
    ((uuid,),) = source.binlog.execute("SELECT @@server_uuid")
    last = before.sources[GtidSource(UUID(uuid))][-1][1]
    return before | GtidSet.parse(f"{uuid}:{last + 1}")


@pytest.mark.parametrize("binlog", ["mysql"], indirect=True)
def test_what_mysql_has_not_counted_yet_may_have_been_seen(source: Source) -> None:
    """A transaction is visible an instant before it is executed; meanwhile a session owns it."""
    numbers(source, 3)
    gtid = "11111111-2222-3333-4444-555555555555:7"
    with closing(source.binlog.server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET gtid_next = '{gtid}'")
        chunk = source.read(source.chunk())
        cursor.execute("ROLLBACK")
        cursor.execute("SET gtid_next = 'AUTOMATIC'")
    assert chunk.seen == chunk.captured | GtidSet.parse(gtid)  # type: ignore[operator]


def test_what_the_read_saw_is_before_its_end(source: Source) -> None:
    """Rows that are committed while a chunk is read are seen, or lie beyond both ends, or both."""
    numbers(source, 1)
    table = source.table()
    stop = threading.Event()
    done: list[tuple[int, BinlogPlace, Executed]] = []

    def write() -> None:
        with closing(source.binlog.server.connect()) as connection, connection.cursor() as cursor:
            for number in itertools.count(2):
                if stop.is_set():
                    return
                cursor.execute(f"INSERT INTO shop.item (id) VALUES ({number})")
                cursor.execute("SHOW BINARY LOG STATUS" if source.binlog.mysql else "SHOW MASTER STATUS")
                place = BinlogPlace(*cursor.fetchone()[:2])
                cursor.execute(f"SELECT @@GLOBAL.{'gtid_executed' if source.binlog.mysql else 'gtid_binlog_pos'}")
                kind = GtidSet if source.binlog.mysql else MariadbPosition
                done.append((number, place, kind.parse(cursor.fetchone()[0])))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        chunks = [source.read(source.chunk(table, limit=100_000)) for _ in range(20)]
    finally:
        stop.set()
        writer.join()
    assert len(done) > 20
    for chunk in chunks:
        assert chunk.high is not None
        assert chunk.seen is not None
        assert within(chunk.captured, chunk.seen)
        last = int(columns_of(chunk, "id")[-1][0] or b"")
        for number, place, executed in done:
            if number == last:
                assert place <= chunk.high
                assert within(executed, chunk.seen)
        if not source.binlog.mysql:  # exact
            assert all(place > chunk.high for number, place, _ in done if number > last)


def test_a_quiet_server_is_read_behind_its_last_transaction(source: Source) -> None:
    numbers(source, 3)
    source.binlog.rotate()
    chunk = source.read(source.chunk())
    assert len(chunk.lines) == 3
    assert chunk.high == source.end()
    assert chunk.seen == chunk.captured


CHANGES = {
    "ALTER TABLE item DROP PRIMARY KEY, ADD PRIMARY KEY (id, w)": (
        PermanentError,
        "table shop.item changed its key while it was read",
    ),
    "DROP TABLE item": (ReadLater, "item, which was dropped or renamed"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_key_or_a_dropped_table_is_said(source: Source, change: str) -> None:
    numbers(source, 3, more=", w int NOT NULL DEFAULT 1")
    table = source.table()
    source.binlog.execute(change)
    kind, what = CHANGES[change]
    with pytest.raises(kind, match=what):
        source.read(source.chunk(table))


@pytest.mark.parametrize(
    "change", ["ALTER TABLE item ADD COLUMN w int DEFAULT 5", "ALTER TABLE item DROP COLUMN v", "TRUNCATE TABLE item"]
)
def test_ddl_between_the_snapshot_and_the_read(source: Source, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunk has the table as it is read, or is read again: never rows of one table under the columns of another."""
    numbers(source, 3)
    begin = ChunkReader._begin

    def changed(reader: ChunkReader, connection: Any, chunk: MysqlChunk) -> Any:
        place = begin(reader, connection, chunk)
        source.binlog.execute(change)
        return place

    table = source.table()
    chunk = source.chunk(table)
    with monkeypatch.context() as patched:
        patched.setattr(ChunkReader, "_begin", changed)
        source.reader.begin(chunk)
        assert chunk.done.wait(30)
        if chunk.error is not None:
            assert isinstance(chunk.error, ReadLater)
            assert "which DDL has changed" in str(chunk.error)
        else:
            assert chunk.table.columns == source.table().columns
            assert all(len(split_row(line)) == len(chunk.table.columns) for line in chunk.lines)
    again = source.read(source.chunk(table))
    assert again.table.columns == source.table().columns
    assert len(again.lines) == (0 if "TRUNCATE" in change else 3)


def test_a_locked_table_is_left_for_later(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_module, "LOCK_SECONDS", 1)
    numbers(source, 3)
    chunk = source.chunk()
    source.binlog.execute("LOCK TABLES item WRITE")
    try:
        with pytest.raises(ReadLater, match=r"shop.item, which DDL has locked"):
            source.read(chunk)
    finally:
        source.binlog.execute("UNLOCK TABLES")
    assert len(source.read(source.chunk()).lines) == 3


def test_a_table_that_may_not_be_read_is_said(source: Source) -> None:
    numbers(source, 3)
    table = source.table()
    source.binlog.execute(
        "CREATE USER IF NOT EXISTS nobody@localhost", "GRANT REPLICATION CLIENT ON *.* TO nobody@localhost"
    )
    try:
        theirs = address(re.sub("//[^@]*@", "//nobody@", source.binlog.server.url).rpartition("/")[0], None, None)
        reader = ChunkReader(theirs, source.server, SnapshotConfig())
        chunk = source.chunk(table)
        reader.begin(chunk)
        assert chunk.done.wait(30)
        reader.close()
    finally:
        source.binlog.execute("DROP USER nobody@localhost")
    assert isinstance(chunk.error, PermanentError)
    assert chunk.error.hint == "GRANT SELECT ON `shop`.`item` TO …;"


def test_closing_ends_a_read(source: Source) -> None:
    numbers(source, 3)
    chunk = source.chunk()
    source.binlog.execute("LOCK TABLES item WRITE")
    try:
        source.reader.begin(chunk)
        wait_until(lambda: source.reader._connections, what="the reader's connection")
        began = time.monotonic()
        source.reader.close()
        assert time.monotonic() - began < 1.5
    finally:
        source.binlog.execute("UNLOCK TABLES")
    assert isinstance(chunk.error, CdcError)


def test_places_are_in_the_order_of_the_files() -> None:
    places = [BinlogPlace("a-bin.999999", 9), BinlogPlace("a-bin.1000000", 4), BinlogPlace("a-bin.1000000", 500)]
    assert sorted([places[2], places[1], places[0]]) == places
    assert places[0] < places[1] <= places[1] < places[2]
    assert places[2] > places[1] >= places[1] > places[0]
