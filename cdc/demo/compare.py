"""Is each store equal to the database? Row by row, value by value, read with each store's own driver."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import redis
import tantivy
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from cdc.demo.database import connect
from cdc.demo.shop import TABLES

Rows = Mapping[tuple[Any, ...], Mapping[str, Any]]
"""The rows of one table by primary key."""


def database_rows(url: str) -> dict[str, Rows]:
    """The rows of each table, as the database has them."""
    with closing(connect(url)) as database:
        return {table: _by_key(key, database.rows(table)) for table, key in TABLES.items()}


def differences(expected: Rows, found: Rows) -> tuple[int, int, int]:
    """How many rows are missing, stale and extra in a store."""
    missing = sum(key not in found for key in expected)
    extra = sum(key not in expected for key in found)
    stale = sum(key in found and not _equal(row, found[key]) for key, row in expected.items())
    return missing, stale, extra


def warehouse_rows(path: Path, table: str) -> Rows:
    """A table of the DuckDB file."""
    with duckdb.connect(str(path), read_only=True) as connection:
        rows = connection.sql(f'SELECT * FROM "{table}"').to_arrow_table()  # noqa: S608 - one of TABLES
        return _by_key(TABLES[table], rows.to_pylist())


def orders_by_status(path: Path) -> str:
    """What an analyst asks the warehouse. Its file is free between two writes, so this is tried a few times."""
    statement = "SELECT status, count(*), sum(total) FROM orders GROUP BY 1 ORDER BY 1"
    for attempt in Retrying(
        retry=retry_if_exception_type(duckdb.Error), wait=wait_fixed(0.05), stop=stop_after_delay(3), reraise=True
    ):
        with attempt, duckdb.connect(str(path), read_only=True) as connection:
            rows = connection.execute(statement).fetchall()
    return ", ".join(f"{status}: {count} orders, {total}" for status, count, total in rows)


def cache_rows(url: str, table: str) -> Rows:
    """All ``table:…`` keys of the cache."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        keys = list(client.scan_iter(match=f"{table}:*", count=1000))
        values = client.mget(keys) if keys else []
        return _by_key(TABLES[table], (json.loads(value) for value in values if value is not None))


def search_rows(path: Path, table: str) -> Rows:
    """All live documents of a table in the index."""
    index = tantivy.Index.open(str(path))
    searcher = index.searcher()
    query = index.parse_query(f'_topic:"shop.shop.{table}" AND _deleted:false')
    hits = searcher.search(query, limit=1_000_000).hits
    return _by_key(TABLES[table], (json.loads(searcher.doc(address)["_row"][0]) for _, address in hits))


def search(path: Path, text: str) -> list[str]:
    """Keys of the products that a full-text query finds; none while there is no index yet."""
    if not path.is_dir() or not tantivy.Index.exists(str(path)):
        return []
    index = tantivy.Index.open(str(path))
    searcher = index.searcher()
    query = index.parse_query(f'_topic:"shop.shop.products" AND _deleted:false AND row.name:"{text}"')
    return [json.loads(searcher.doc(address)["_row"][0])["sku"] for _, address in searcher.search(query, limit=5).hits]


def _by_key(key: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> Rows:
    return {tuple(row[column] for column in key): row for row in rows}


def _equal(row: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
    """A document from before a column was added has no such field, the row has a null."""
    return all(_same(value, stored.get(column)) for column, value in row.items())


def _same(value: Any, stored: Any) -> bool:
    """Whether a store's form of a value means what the database has: stores keep decimals and times as text, too."""
    if value is None or stored is None:
        return value is stored
    readers: dict[type, Callable[[Any], Any]] = {
        Decimal: lambda v: Decimal(str(v)),
        datetime.datetime: lambda v: v if isinstance(v, datetime.datetime) else datetime.datetime.fromisoformat(v),
        dict: lambda v: json.loads(v) if isinstance(v, str) else v,
        list: lambda v: json.loads(v) if isinstance(v, str) else v,
    }
    return bool(readers.get(type(value), lambda v: v)(stored) == value)
