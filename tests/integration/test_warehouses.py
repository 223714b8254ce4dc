"""What warehouses keep: deleted rows that are marked, a row per change, history with validity. On each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pydantic import ValidationError
from sqlalchemy import text

from cdc.sink import Row, Sink
from sinks.duckdb import DuckDBSink
from sinks.sql import SqlSink
from tests.contract import sinks
from tests.contract.sinks import Store
from tests.contract.sinks._tables import table, write

ITEMS = table()
STORES = ("duckdb", "sql_postgres", "sql_mariadb")
MakeSink = Callable[..., Sink]


@pytest.fixture(params=sinks.parameters(*STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = sinks.load(request.param)(request, tmp_path)
    yield store
    store.stop()


@pytest.fixture
def make(store: Store) -> Iterator[MakeSink]:
    made: list[Sink] = []

    def opened(**config: Any) -> Sink:
        made.append(store.sink(**config))
        made[-1].open()
        return made[-1]

    yield opened
    for sink in made:
        sink.close()


def rows_of(sink: Sink, columns: str, order: str = "1") -> list[tuple[Any, ...]]:
    """What the table of items holds."""
    if isinstance(sink, DuckDBSink):
        columns = columns.replace("EXTRACT(SECOND FROM ", "epoch(")
        with duckdb.connect(str(sink._path)) as connection:
            return connection.execute(f"SELECT {columns} FROM items ORDER BY {order}").fetchall()
    assert isinstance(sink, SqlSink)
    with sink._engine.connect() as session:
        return [tuple(row) for row in session.execute(text(f"SELECT {columns} FROM replica.items ORDER BY {order}"))]


def at(row: Row, second: int) -> Row:
    return row._replace(at=second * 1000)


def test_soft_deletes(make: MakeSink) -> None:
    write(make(), ITEMS.batch(ITEMS.row(1, id=1, name="a", note="n"), ITEMS.row(2, id=2, name="b")))
    sink = make(deletes="soft")  # from now on

    def rows() -> list[tuple[Any, ...]]:
        found = rows_of(sink, "id, name, note, _cdc_deleted", "id")
        return [(*row, bool(deleted)) for *row, deleted in found]

    write(sink, ITEMS.batch(ITEMS.deleted(3, id=1), ITEMS.deleted(9, id=3)))
    write(sink, ITEMS.batch(ITEMS.row(2, id=1, name="late"), ITEMS.row(8, id=3, name="late")))
    assert rows() == [(1, "a", "n", True), (2, "b", None, False)]
    write(sink, ITEMS.batch(ITEMS.row(10, id=1, name="again", partial=True)))
    assert rows() == [(1, "again", None, False), (2, "b", None, False)]
    write(sink, ITEMS.batch(floor=10))
    assert rows() == [(1, "again", None, False), (2, "b", None, True)]
    write(sink, ITEMS.batch(ITEMS.row(9, id=2, name="late")))
    write(sink, ITEMS.batch(ITEMS.row(11, id=2, name="new")))
    assert rows() == [(1, "again", None, False), (2, "new", None, False)]


def _changes() -> list[Any]:
    """Batches of one partition as delivery hands them to a history: every row, markers in between."""
    rows = [
        ITEMS.row(1, id=1, name="a", note="n"),
        ITEMS.row(2, id=2, name="x"),
        ITEMS.row(3, id=1, name="b", partial=True, note="n"),
        ITEMS.deleted(4, id=2),
        ITEMS.row(5, id=2, name="y"),
    ]
    return [
        ITEMS.batch(*(at(row, n) for n, row in enumerate(rows, 1))),
        ITEMS.batch(at(ITEMS.row(6, id=1, name="c", partial=True), 6), at(ITEMS.deleted(7, id=9), 7)),
        ITEMS.batch(floor=6, next_offset=9)._replace(at=8000),
    ]


def test_append(make: MakeSink) -> None:
    sink = make(mode="append")
    first, *others = _changes()
    write(sink, first)
    write(sink, *others)
    write(sink, first)  # again
    found = rows_of(sink, "id, _cdc_version, name, note, _cdc_deleted, EXTRACT(SECOND FROM _cdc_at)", "2, 1")
    rows = [(*row, bool(deleted), int(moment)) for *row, deleted, moment in found]
    assert rows == [
        (1, 1, "a", "n", False, 1),
        (2, 2, "x", None, False, 2),
        (1, 3, "b", "n", False, 3),
        (2, 4, "x", None, True, 4),
        (2, 5, "y", None, False, 5),
        (1, 6, "c", "n", False, 6),
        (2, 6, "y", None, True, 8),  # swept by the marker
        (None, 7, None, None, True, 7),  # a delete of what was never seen
    ]


def test_scd2(make: MakeSink) -> None:
    sink = make(mode="scd2")
    first, *others = _changes()
    write(sink, first)
    write(sink, *others)
    write(sink, ITEMS.batch(at(ITEMS.row(8, id=2, name="z", partial=True), 9)))  # nothing of what was before the delete
    found = rows_of(
        sink, "id, _cdc_version, name, note, EXTRACT(SECOND FROM _cdc_valid_from), EXTRACT(SECOND FROM _cdc_valid_to)"
    )
    rows = sorted((*row, int(since), until and int(until)) for *row, since, until in found)
    assert rows == [
        (1, 1, "a", "n", 1, 3),
        (1, 3, "b", "n", 3, 6),
        (1, 6, "c", "n", 6, None),
        (2, 2, "x", None, 2, 4),
        (2, 5, "y", None, 5, 8),
        (2, 8, "z", None, 9, None),
    ]


def test_deletes_belong_to_merge(make: MakeSink) -> None:
    with pytest.raises(ValidationError, match="mode: merge"):
        make(mode="scd2", deletes="hard")
