"""What only the ``sql`` sink does: typed tables that grow, workers side by side, soft deletes, histories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url, text

from cdc import faults
from cdc.errors import FencedError, GapError, PermanentError, TransientError, UnreachableError
from cdc.log import TopicPartition
from schemas.types import Kind, LogicalType
from sinks.sql import SqlConfig, SqlSink
from tests.contract import sinks
from tests.contract.sinks import Store
from tests.contract.sinks._tables import DECIMAL, INT, TEXT, claim, table, write
from tests.contract.sinks.sql_mariadb import SqlMariaDbStore
from tests.servers import free_port
from tests.servers.tls import certificate

ITEMS = table()
TOPIC = ITEMS.schema.topic
POSTGRES, MARIADB, MYSQL = "sql_postgres", "sql_mariadb", "sql_mysql"


@pytest.fixture(params=sinks.parameters(POSTGRES, MARIADB))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = sinks.load(request.param)(request, tmp_path)
    yield store
    store.stop()


MakeSink = Callable[..., SqlSink]


@pytest.fixture
def make(store: Store) -> Iterator[MakeSink]:
    made: list[SqlSink] = []

    def opened(name: str = "copy", **config: Any) -> SqlSink:
        model = SqlConfig.model_validate({"type": "sql", **store.config(), **config})
        made.append(SqlSink(name, model, "shop"))
        made[-1].open()
        return made[-1]

    yield opened
    for sink in made:
        sink.close()


def query(sink: SqlSink, sql: str) -> list[tuple[Any, ...]]:
    with sink._engine.begin() as connection:
        result = connection.execute(text(sql))
        return [tuple(row) for row in result] if result.returns_rows else []


# Tables.


def test_columns_are_typed(make: MakeSink) -> None:
    types = {
        "id": INT,
        "price": DECIMAL,
        "big": LogicalType(Kind.DECIMAL, 50, 2),
        "moment": LogicalType(Kind.TIMESTAMPTZ),
        "day": LogicalType(Kind.DATE),
        "tags": LogicalType(Kind.ARRAY, element=TEXT),
        "raw": LogicalType(Kind.BYTES),
        "size": LogicalType(Kind.UINT64),
    }
    typed, sink = table("typed", types), make()
    write(sink, typed.batch(typed.row(1, id=1, price="1.50", tags=["a"]), partition=3))
    with sink._engine.connect() as connection:
        found = sink._server.columns(connection, sink._schema, "typed")
    assert (
        found
        == {
            "sql_postgres": {
                "id": "BIGINT",
                "price": "NUMERIC(12, 2)",
                "big": "NUMERIC(50, 2)",
                "moment": "TIMESTAMP WITH TIME ZONE",
                "day": "DATE",
                "tags": "TEXT[]",
                "raw": "BYTEA",
                "size": "NUMERIC(20, 0)",
                "_cdc_key": 'TEXT COLLATE "C"',
                "_cdc_version": "BIGINT",
                "_cdc_partition": "INTEGER",
            },
            "sql_mariadb": {
                "id": "BIGINT",
                "price": "DECIMAL(12,2)",
                "big": "DECIMAL(50,2)",
                "moment": "DATETIME(6)",
                "day": "DATE",
                "tags": "LONGTEXT",
                "raw": "LONGBLOB",
                "size": "BIGINT UNSIGNED",
                "_cdc_key": "VARBINARY(2000)",
                "_cdc_version": "BIGINT",
                "_cdc_partition": "INT",
            },
        }["sql_postgres" if sink._engine.dialect.name == "postgresql" else "sql_mariadb"]
    )
    assert query(sink, "SELECT _cdc_version, _cdc_partition FROM replica.typed") == [(1, 3)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LogicalType(Kind.INT16), LogicalType(Kind.INT64)),
        (LogicalType(Kind.INT64), LogicalType(Kind.INT16)),
        (LogicalType(Kind.INT32), LogicalType(Kind.DECIMAL, 12, 2)),
        (LogicalType(Kind.DECIMAL, 5, 2), LogicalType(Kind.DECIMAL)),
        (LogicalType(Kind.INT64), TEXT),
    ],
    ids=lambda type_: str(type_.kind),
)
def test_a_type_that_changes(make: MakeSink, before: LogicalType, after: LogicalType) -> None:
    def value(type_: LogicalType, number: int) -> Any:
        return number if type_.kind.startswith("int") else str(number)

    sink, old, new = make(), table("values", {"id": INT, "v": before}), table("values", {"id": INT, "v": after})
    write(sink, old.batch(old.row(1, id=1, v=value(before, 1))))
    write(
        sink,
        new.batch(new.row(2, id=2, v=value(after, 2))),
        old.batch(old.row(3, id=3, v=value(before, 3)), partition=1),
    )
    found = query(sink, f"SELECT v FROM replica.{sink._engine.dialect.identifier_preparer.quote('values')} ORDER BY id")
    assert [float(v) for (v,) in found] == [1, 2, 3]


def test_a_type_that_cannot_change_says_the_sql(make: MakeSink) -> None:
    sink = make()
    old, new = table("t", {"id": INT, "v": TEXT}), table("t", {"id": INT, "v": LogicalType(Kind.DATE)})
    write(sink, old.batch(old.row(1, id=1, v="2026-01-31")))
    with pytest.raises(PermanentError) as raised:
        write(sink, new.batch(new.row(2, id=2, v="2026-01-31")))
    query(sink, raised.value.hint.partition(": ")[2])
    write(sink, new.batch(new.row(2, id=2, v="2026-01-31")))
    assert [str(day) for (day,) in query(sink, "SELECT v FROM replica.t")] == ["2026-01-31"] * 2


def test_tables_never_mix(make: MakeSink) -> None:
    sink, other = make(), table("items", schema="audit")
    write(sink, ITEMS.batch(ITEMS.row(1, id=1)))
    with pytest.raises(PermanentError, match=rf"is not for shop\.audit\.items: rows of {TOPIC}"):
        write(sink, other.batch(other.row(2, id=1)))
    query(sink, "CREATE TABLE replica.theirs (id INT)")
    theirs = table("theirs")
    with pytest.raises(PermanentError, match="made by others"):
        write(sink, theirs.batch(theirs.row(3, id=1)))
    with pytest.raises(GapError, match=f"changes of {TOPIC}, kept by cdc, is gone"):  # nor do modes
        write(make(mode="append"), ITEMS.batch(ITEMS.row(4, id=1)))


def test_table_template(make: MakeSink) -> None:
    write(make(table="{schema}_{table}"), ITEMS.batch(ITEMS.row(1, id=1)))
    renamed = make()
    with pytest.raises(PermanentError) as raised:
        write(renamed, ITEMS.batch(ITEMS.row(2, id=2)))
    query(renamed, raised.value.hint)
    write(renamed, ITEMS.batch(ITEMS.row(2, id=2)))
    assert query(renamed, "SELECT id FROM replica.items ORDER BY id") == [(1,), (2,)]


def test_another_sink_needs_a_schema_of_its_own(make: MakeSink) -> None:
    make()
    with pytest.raises(PermanentError, match="belongs to shop:copy"):
        make("second")


@pytest.mark.parametrize("store", sinks.parameters(POSTGRES), indirect=True)
def test_rows_of_more_types_than_a_table_has_columns(make: MakeSink) -> None:
    sink = make()
    values = {Kind.INT16: 7, Kind.DATE: "2026-01-31"}
    many = {
        kind: table(f"t_{kind}", {"id": INT, **{f"c{n}": LogicalType(kind) for n in range(900)}}) for kind in values
    }
    for version, kind in enumerate((*values, *values), 1):
        row = many[kind].row(version, id=version, c899=values[kind])
        write(sink, ITEMS.batch(ITEMS.deleted(version, id=1), next_offset=version), many[kind].batch(row))
    assert query(sink, "SELECT c899 FROM replica.t_int16") == [(7,), (7,)]
    assert query(sink, "SELECT c899 FROM replica.t_date") == [(date(2026, 1, 31),)] * 2


# Rows that no column can hold.


def test_refused_rows_are_found_among_thousands(make: MakeSink, store: Store) -> None:
    refused, bad = store.refused(), (7, 2000, 2001, 4999)
    assert refused is not None
    sink = make()
    rows = [refused(n) if n in bad else ITEMS.row(n, id=n, name="good") for n in range(1, 5001)]
    rejected = write(sink, ITEMS.batch(*rows))
    assert sorted(one.key for one in rejected) == sorted(ITEMS.key(id=n) for n in bad)
    assert {id_ for (id_,) in query(sink, "SELECT id FROM replica.items")} == {*range(1, 5001)} - {*bad}


def test_a_row_that_a_constraint_of_theirs_refuses(make: MakeSink) -> None:
    sink = make()
    write(sink, ITEMS.batch(ITEMS.row(1, id=1)))
    query(sink, "ALTER TABLE replica.items ADD CHECK (id <> 3)")
    rejected = write(sink, ITEMS.batch(*(ITEMS.row(n, id=n) for n in range(2, 6))))
    assert [one.key for one in rejected] == [ITEMS.key(id=3)]
    assert query(sink, "SELECT id FROM replica.items ORDER BY id") == [(1,), (2,), (4,), (5,)]


# One transaction, several workers.


def test_rows_and_offsets_are_one_transaction(make: MakeSink, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = make()
    monkeypatch.setitem(faults._armed, "sink.between_rows_and_offsets", ("raise", 1))
    with pytest.raises(TransientError):
        write(sink, ITEMS.batch(ITEMS.row(1, id=1)))
    assert sink.offsets() == {}  # although the table was made
    write(sink, ITEMS.batch(ITEMS.row(1, id=1), ITEMS.row(2, id=2)))
    before = sink.offsets()
    monkeypatch.setitem(faults._armed, "sink.between_rows_and_offsets", ("raise", 1))
    wider = ITEMS.with_columns(extra=TEXT)
    batch = wider.batch(wider.row(3, id=3, extra="x"), ITEMS.deleted(4, id=1), floor=2)
    with pytest.raises(TransientError):
        write(sink, batch)
    assert sink.offsets() == before
    assert query(sink, "SELECT id FROM replica.items ORDER BY id") == [(1,), (2,)]
    write(sink, batch)
    assert query(sink, "SELECT id, extra FROM replica.items ORDER BY id") == [(2, None), (3, "x")]


def test_workers_with_different_partitions_do_not_fence_each_other(make: MakeSink) -> None:
    """And one that lost a partition is fenced there only, until it is assigned to it again."""
    first = make()
    write(first, ITEMS.batch(ITEMS.row(1, id=1)), ITEMS.batch(ITEMS.row(2, id=2), partition=1))
    second = make()
    write(second, ITEMS.batch(ITEMS.row(3, id=3), partition=1, next_offset=4))
    write(first, ITEMS.batch(ITEMS.row(4, id=4)))
    with pytest.raises(FencedError):
        write(first, ITEMS.batch(ITEMS.row(5, id=5)), ITEMS.batch(ITEMS.deleted(6, id=2), partition=1))
    assert query(first, "SELECT id FROM replica.items ORDER BY id") == [(1,), (2,), (3,), (4,)]
    assert first.offsets()[TopicPartition(TOPIC, 1)].offset == 4
    claim(first, ITEMS.batch(partition=1))
    write(first, ITEMS.batch(ITEMS.deleted(6, id=2), partition=1))
    with pytest.raises(FencedError):
        write(second, ITEMS.batch(next_offset=9, partition=1))
    assert query(first, "SELECT id FROM replica.items ORDER BY id") == [(1,), (3,), (4,)]


def test_a_schema_that_was_emptied_is_a_gap(make: MakeSink) -> None:
    sink = make()
    write(sink, ITEMS.batch(ITEMS.row(1, id=1)))
    query(sink, "DELETE FROM replica._cdc_offsets")
    with pytest.raises(GapError):
        write(sink, ITEMS.batch(ITEMS.row(2, id=2)))
    query(sink, "DROP TABLE replica._cdc_offsets")
    with pytest.raises(GapError):
        write(sink, ITEMS.batch(ITEMS.row(2, id=2)))


def test_old_tombstones_are_forgotten(make: MakeSink) -> None:
    write(make(), ITEMS.batch(ITEMS.deleted(1, id=1)))
    sink = make(tombstone_ttl="30m")
    query(sink, "UPDATE replica._cdc_tombstones SET deleted_at = deleted_at - 3600")
    write(sink, ITEMS.batch(ITEMS.deleted(2, id=2)))
    assert query(sink, "SELECT version FROM replica._cdc_tombstones") == [(2,)]


# Connections and messages.


@pytest.mark.parametrize("url", ["sqlite:///x", "postgresql://host", "mysql://host/db?ssl_disabled=true", "nothing"])
def test_urls_that_cannot_work(url: str) -> None:
    with pytest.raises(ValidationError):
        SqlConfig.model_validate({"type": "sql", "url": url})


def test_a_value_never_gets_into_a_message(make: MakeSink) -> None:
    dates = table("dates", {"id": INT, "v": LogicalType(Kind.DATE)})
    bad = dates.row(1, id=1, v="2026-01-01")
    assert bad.after is not None
    rejected = write(make(), dates.batch(bad._replace(after=bad.after.replace(b"2026-01-01", b"canary-secret"))))
    assert "column 'v'" in rejected[0].reason
    assert "canary" not in rejected[0].reason


def test_a_server_that_is_not_there_or_lets_nobody_in(make: MakeSink, store: Store) -> None:
    url = make_url(store.config()["url"])
    for wrong in (url.set(port=free_port()), url.set(database="missing")):
        with pytest.raises(UnreachableError) as raised:
            make(url=wrong.render_as_string(hide_password=False), schema="x", password="canary-secret")
        assert "canary" not in str(raised.value)
    assert make().check()[0].message.startswith("sink copy: ")


@pytest.mark.parametrize("store", sinks.parameters(MARIADB, MYSQL), indirect=True)
def test_a_password_of_any_letters(make: MakeSink, store: SqlMariaDbStore) -> None:
    server, password = store.server, "canary-pä$€ '\\"
    server.execute("DROP USER IF EXISTS probe@localhost")
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE USER probe@localhost IDENTIFIED BY %s", (password,))
        cursor.execute("GRANT ALL ON *.* TO probe@localhost")
    try:
        url = make_url(store.config()["url"]).set(username="probe").render_as_string()
        assert query(make(url=url, password=password), "SELECT current_user()") == [("probe@localhost",)]
    finally:
        server.execute("DROP USER probe@localhost")


def test_with_a_ca_a_server_without_tls_is_refused(make: MakeSink, tmp_path: Path) -> None:
    ca, _ = certificate(tmp_path, "localhost")
    with pytest.raises(UnreachableError):
        make(ca=ca)
