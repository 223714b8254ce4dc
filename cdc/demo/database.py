"""The shop's database: one of two kinds, and what is different between them."""

from __future__ import annotations

import datetime
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import psycopg
import pymysql
from pymysql.constants import FIELD_TYPE

_STATUS: Final = "ENUM ('new', 'paid', 'shipped', 'returned')"


class ShopDatabase(ABC):
    """A connection in autocommit. Text and numbers are the same in both kinds; what is not is named here."""

    Error: ClassVar[type[Exception]]
    """What its driver raises."""
    types: ClassVar[Mapping[str, str]]
    """A type for each kind of column."""
    prepare: ClassVar[str] = ""
    """A statement that `types` need."""
    upsert: ClassVar[str]
    """The end of an INSERT into carts that takes the place of the row that is there."""

    @abstractmethod
    def execute(self, statement: str, *values: object) -> None:
        """Run a statement with `values` in the place of each ``%s``."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[object]:
        """What is executed within is one transaction."""

    @abstractmethod
    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """The rows of a table of the schema ``shop``, values as Python has them, times with their zone."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


def connect(url: str) -> ShopDatabase:
    """A connection to the database at `url`. Raises what its driver raises."""
    return Mysql(url) if urlsplit(url).scheme == "mysql" else Postgres(url)


class Postgres(ShopDatabase):
    """PostgreSQL."""

    Error = psycopg.Error
    types: ClassVar = {
        "status": "shop.order_status",
        "list": "text[]",
        "json": "jsonb",
        "now": "timestamptz DEFAULT now()",
    }
    prepare = f"CREATE TYPE shop.order_status AS {_STATUS}"
    upsert = "ON CONFLICT (customer_id) DO UPDATE SET contents = excluded.contents"

    def __init__(self, url: str) -> None:
        self._connection: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True, options="-c timezone=UTC")

    def execute(self, statement: str, *values: object) -> None:
        """See :class:`ShopDatabase`."""
        self._connection.execute(statement.encode(), values or None)

    def transaction(self) -> AbstractContextManager[object]:
        """See :class:`ShopDatabase`."""
        return self._connection.transaction()

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """See :class:`ShopDatabase`."""
        with self._connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            yield from cursor.execute(psycopg.sql.SQL("SELECT * FROM {}").format(psycopg.sql.Identifier("shop", table)))

    def close(self) -> None:
        """See :class:`ShopDatabase`."""
        self._connection.close()


class Mysql(ShopDatabase):
    """MySQL or MariaDB."""

    Error = pymysql.Error
    types: ClassVar = {"status": _STATUS, "list": "json", "json": "json", "now": "timestamp(6) DEFAULT now(6)"}
    upsert = "ON DUPLICATE KEY UPDATE contents = VALUES(contents)"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = pymysql.connect(
            host=parts.hostname,
            port=parts.port,
            user=parts.username,
            autocommit=True,
            charset="utf8mb4",
            init_command="SET time_zone = '+00:00'",
            connect_timeout=2,
        )

    def execute(self, statement: str, *values: object) -> None:
        """See :class:`ShopDatabase`."""
        written = [json.dumps(value) if isinstance(value, list) else value for value in values]
        with self._connection.cursor() as cursor:
            cursor.execute(statement, written or None)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See :class:`ShopDatabase`."""
        self._connection.begin()
        yield
        self._connection.commit()

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """See :class:`ShopDatabase`."""
        with self._connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM shop.{table}")  # noqa: S608 - one of TABLES
            readers = [
                (column[0], json.loads if column[1] == FIELD_TYPE.JSON else _zoned) for column in cursor.description
            ]
            for row in cursor.fetchall():
                yield {name: read(value) for (name, read), value in zip(readers, row, strict=True)}

    def close(self) -> None:
        """See :class:`ShopDatabase`."""
        self._connection.close()


def _zoned(value: Any) -> Any:
    return value.replace(tzinfo=datetime.UTC) if isinstance(value, datetime.datetime) else value
