"""What only DuckDB does: typed columns that grow, tables that never mix, a file that others read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pydantic import ValidationError

from cdc import faults
from cdc.errors import FencedError, GapError, PermanentError, TransientError, UnreachableError
from cdc.findings import Severity
from cdc.sink import Sink
from schemas.types import Kind, LogicalType
from sinks.duckdb import DuckDBConfig, DuckDBSink
from tests.contract.sinks._tables import DECIMAL, INT, TEXT, Table, table, write

MakeSink = Callable[..., Sink]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "warehouse.duckdb"


@pytest.fixture
def make(path: Path) -> MakeSink:
    def made(name: str = "warehouse", **config: Any) -> Sink:
        sink = DuckDBSink(name, DuckDBConfig.model_validate({"type": "duckdb", "path": path, **config}), "shop")
        sink.open()
        return sink

    return made


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def of_type(type_: LogicalType) -> Table:
    return table("values", {"id": INT, "v": type_})


def test_columns_are_typed(path: Path, make: MakeSink) -> None:
    types = {
        "id": INT,
        "price": DECIMAL,
        "big": LogicalType(Kind.DECIMAL, 50, 2),
        "at": LogicalType(Kind.TIMESTAMPTZ),
        "day": LogicalType(Kind.DATE),
        "tags": LogicalType(Kind.ARRAY, element=TEXT),
        "raw": LogicalType(Kind.BYTES),
    }
    typed = table("typed", types)
    row = typed.row(1, id=1, price="1.50", at="2026-01-31T10:00:00Z", day="2026-01-31", tags=["a"], raw=b"x")
    write(make(), typed.batch(row, partition=3))
    described = {name: kind for name, kind, *_ in query(path, "DESCRIBE typed")}
    assert described == {
        "id": "BIGINT",
        "price": "DECIMAL(12,2)",
        "big": "VARCHAR",
        "at": "TIMESTAMP WITH TIME ZONE",
        "day": "DATE",
        "tags": "VARCHAR[]",
        "raw": "BLOB",
        "_cdc_key": "VARCHAR",
        "_cdc_version": "BIGINT",
        "_cdc_partition": "INTEGER",
    }
    assert query(
        path, "SELECT sum(price), max(day)::VARCHAR, _cdc_version, _cdc_partition FROM typed GROUP BY ALL"
    ) == [(pytest.approx(1.5), "2026-01-31", 1, 3)]


@pytest.mark.parametrize(
    ("before", "after", "column"),
    [
        (LogicalType(Kind.INT16), LogicalType(Kind.INT64), "BIGINT"),
        (LogicalType(Kind.INT64), LogicalType(Kind.INT16), "BIGINT"),
        (LogicalType(Kind.DECIMAL, 5, 2), LogicalType(Kind.DECIMAL, 12, 4), "DECIMAL(12,4)"),
        (LogicalType(Kind.INT32), LogicalType(Kind.DECIMAL, 12, 2), "DECIMAL(12,2)"),
        (LogicalType(Kind.DECIMAL, 5, 2), LogicalType(Kind.DECIMAL), "VARCHAR"),
        (LogicalType(Kind.FLOAT32), LogicalType(Kind.FLOAT64), "DOUBLE"),
        (LogicalType(Kind.UUID), TEXT, "VARCHAR"),
    ],
)
def test_a_type_that_changes(path: Path, make: MakeSink, before: LogicalType, after: LogicalType, column: str) -> None:
    values = {Kind.FLOAT32: "1", Kind.FLOAT64: "2", Kind.UUID: "0b7f3e3e-0000-4000-8000-0123456789ab"}
    sink, old, new = make(), of_type(before), of_type(after)

    def value(type_: LogicalType, number: int) -> Any:
        return number if type_.kind.startswith("int") else values.get(type_.kind, str(number))

    write(sink, old.batch(old.row(1, id=1, v=value(before, 1))))
    write(
        sink,
        new.batch(new.row(2, id=2, v=value(after, 2))),
        old.batch(old.row(3, id=3, v=value(before, 3)), partition=1),
    )
    assert [kind for name, kind, *_ in query(path, 'DESCRIBE "values"') if name == "v"] == [column]
    assert query(path, 'SELECT count(*), count(v) FROM "values"') == [(3, 3)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LogicalType(Kind.STRING), LogicalType(Kind.DATE)),
        (LogicalType(Kind.INT64), LogicalType(Kind.DECIMAL, 12, 2)),
        (LogicalType(Kind.DECIMAL, 12, 2), LogicalType(Kind.DECIMAL, 12, 4)),
        (LogicalType(Kind.TIMESTAMP), LogicalType(Kind.TIMESTAMPTZ)),
    ],
)
def test_a_type_that_cannot_change_says_the_sql(make: MakeSink, before: LogicalType, after: LogicalType) -> None:
    sink = make()
    write(sink, of_type(before).batch(of_type(before).row(1, id=1)))
    with pytest.raises(PermanentError) as raised:
        write(sink, of_type(after).batch(of_type(after).row(2, id=2)))
    assert 'ALTER TABLE "main"."values" ALTER COLUMN "v" TYPE' in raised.value.hint


def test_a_dropped_column_stays_and_is_null(path: Path, make: MakeSink) -> None:
    sink, items = make(), table()
    write(sink, items.batch(items.row(1, id=1, note="n"), items.row(2, id=2, note="m")))
    later = items.without_column("note")
    write(sink, later.batch(later.row(3, id=1, name="x")))
    assert query(path, "SELECT id, note FROM items ORDER BY id") == [(1, None), (2, "m")]


def test_two_tables_never_mix(path: Path, make: MakeSink) -> None:
    ours, theirs = table("items"), table("Items", schema="audit")
    sink = make()
    write(sink, ours.batch(ours.row(1, id=1)))
    with pytest.raises(PermanentError, match=r"is not for shop\.audit\.Items"):
        write(sink, theirs.batch(theirs.row(2, id=1)))
    assert query(path, "SELECT count(*) FROM items") == [(1,)]


def test_a_table_of_somebody_else_is_left_alone(path: Path, make: MakeSink) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE items (id INT)")
    items = table()
    with pytest.raises(PermanentError, match="made by others"):
        write(make(), items.batch(items.row(1, id=1)))


def test_table_template_and_schema(path: Path, make: MakeSink) -> None:
    items = table()
    sink = make(schema="replica", table="{schema}_{table}")
    write(sink, items.batch(items.row(1, id=1)))
    assert query(path, "SELECT id FROM replica.public_items") == [(1,)]
    renamed = make(schema="replica", table="{table}")
    with pytest.raises(PermanentError) as raised:
        write(renamed, items.batch(items.row(2, id=2)))
    with duckdb.connect(str(path)) as connection:
        connection.execute(raised.value.hint)
    write(renamed, items.batch(items.row(2, id=2)))
    assert query(path, "SELECT id FROM replica.items ORDER BY id") == [(1,), (2,)]


@pytest.mark.parametrize("template", ["{schema}", "all", "{table}{", "{pipeline}.{table}"])
def test_templates_that_cannot_work(path: Path, template: str) -> None:
    with pytest.raises(ValidationError):
        DuckDBConfig.model_validate({"type": "duckdb", "path": path, "table": template})


def test_another_sink_needs_a_schema_of_its_own(make: MakeSink) -> None:
    make()
    with pytest.raises(PermanentError, match="belongs to shop:warehouse"):
        make("second")
    make("second", schema="second")


def test_a_reader_is_transient_and_finds_whole_batches(path: Path, make: MakeSink) -> None:
    items, sink = table(), make()
    write(sink, items.batch(items.row(1, id=1)))
    program = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); "
    program += "print(c.execute('SELECT count(*) FROM items').fetchone()[0], flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"1\n"
        with pytest.raises(TransientError, match="in use by another process"):
            write(sink, items.batch(items.row(2, id=2)))
        with pytest.raises(UnreachableError):
            make()
        reader.communicate()
    write(sink, items.batch(items.row(2, id=2)))
    assert query(path, "SELECT count(*) FROM items") == [(2,)]


def test_rows_and_offsets_are_one_transaction(path: Path, make: MakeSink, monkeypatch: pytest.MonkeyPatch) -> None:
    items, sink = table(), make()
    write(sink, items.batch(items.row(1, id=1), items.row(2, id=2)))
    before = sink.offsets()
    monkeypatch.setitem(faults._armed, "sink.between_rows_and_offsets", ("raise", 1))
    wider = items.with_columns(extra=TEXT)
    with pytest.raises(TransientError):
        write(sink, wider.batch(wider.row(3, id=3), items.deleted(4, id=1), floor=2))
    assert sink.offsets() == before
    assert query(path, "SELECT id FROM items ORDER BY id") == [(1,), (2,)]
    write(sink, wider.batch(wider.row(3, id=3, extra="x"), items.deleted(4, id=1), floor=2))
    assert query(path, "SELECT id, extra FROM items ORDER BY id") == [(2, None), (3, "x")]


def test_a_file_that_was_replaced_is_a_gap(path: Path, make: MakeSink) -> None:
    items, sink = table(), make()
    path.unlink()
    with pytest.raises(GapError):
        write(sink, items.batch(items.row(1, id=1)))


def test_a_successor_fences_even_without_a_row(make: MakeSink) -> None:
    items, zombie = table(), make()
    make()
    with pytest.raises(FencedError):
        write(zombie, items.batch(next_offset=5))


def test_old_tombstones_are_forgotten(path: Path, make: MakeSink) -> None:
    items = table()
    write(make(), items.batch(items.deleted(1, id=1)))
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE _cdc_tombstones SET deleted_at = deleted_at - 3600")
    write(make(tombstone_ttl="2h"), items.batch(items.deleted(2, id=2)))
    assert query(path, "SELECT count(*) FROM _cdc_tombstones") == [(2,)]
    write(make(tombstone_ttl="30m"), items.batch(items.deleted(3, id=3)))
    assert query(path, "SELECT version FROM _cdc_tombstones ORDER BY 1") == [(2,), (3,)]


def test_a_value_never_gets_into_a_message(make: MakeSink) -> None:
    dates = table("dates", {"id": INT, "v": LogicalType(Kind.DATE)})
    bad = dates.row(1, id=1, v="2026-01-01")
    assert bad.after is not None
    rejected = write(make(), dates.batch(bad._replace(after=bad.after.replace(b"2026-01-01", b"canary-secret"))))
    assert "column 'v'" in rejected[0].reason
    assert "canary" not in rejected[0].reason


def test_check(tmp_path: Path, path: Path, make: MakeSink) -> None:
    def findings(at: Path) -> list[Severity]:
        sink = DuckDBSink("w", DuckDBConfig(type="duckdb", path=at), "shop")
        return [finding.severity for finding in sink.check()]

    assert findings(path) == [Severity.OK]
    assert not path.exists()
    make()
    assert findings(path) == [Severity.OK]
    assert findings(tmp_path / "missing" / "x.duckdb") == [Severity.ERROR]
    strange = tmp_path / "strange"
    strange.write_text("not a database, but long enough to look at" * 200)
    with pytest.raises(PermanentError):
        findings(strange)
