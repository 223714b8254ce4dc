"""A PostgreSQL source under test."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from psycopg import sql

from connectors.postgres import PostgresConnector
from connectors.postgres.config import PostgresConfig
from connectors.postgres.position import Position, decode_position
from tests.integration import sources
from tests.integration.sources import PIPELINE as PIPELINE
from tests.integration.sources import SOURCE as SOURCE
from tests.integration.sources import Logged as Logged
from tests.integration.sources import assert_dense as assert_dense
from tests.servers import wait_until
from tests.servers.postgres import Database, Server


class Source(sources.Source):
    """See :class:`tests.integration.sources.Source`."""

    module = "tests.integration.postgres.support"

    @property
    def connector(self) -> PostgresConnector:
        config = PostgresConfig.model_validate({"type": "postgres", "url": self.dsn, **self.options})
        return PostgresConnector(SOURCE, config, PIPELINE, self.topics, self.profile)

    @property
    def slot(self) -> str:
        return self.connector.slot

    @property
    def position(self) -> Position:
        return decode_position(self.log.positions()[SOURCE])

    def database_rows(self, table: str) -> dict[tuple[Any, ...], dict[str, Any]]:
        """The rows of a table in the database, by the same key, values in the same form."""
        schema, name = table.split(".", 1)
        key = self.position.tables[table].key
        statement = sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, name))
        with psycopg.connect(self.dsn, options="-c timezone=UTC -c extra_float_digits=3") as connection:
            for oid in (16, 17, 20, 21, 23, 700, 701, 1082, 1083, 1114, 1184, 1266, 1700, 2950, 3802, 114):
                connection.adapters.register_loader(oid, _TextLoader)
            cursor = connection.execute(statement)
            assert cursor.description is not None
            names = [column.name for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        return {tuple(row[name] for name in key): row for row in rows}

    def catch_up_condition(self) -> Callable[[], bool]:
        """A marker's transaction has passed."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = local")
            row = connection.execute("SELECT pg_logical_emit_message(true, 'test', 'x')::text").fetchone()
            assert row is not None
        high, low = row[0].split("/")
        lsn = int(high, 16) << 32 | int(low, 16)

        def there() -> bool:
            stored = self.log.positions().get(SOURCE)
            if stored is None:
                return False
            position = decode_position(stored)
            return position.commit_lsn >= lsn - 1 and not position.snapshots

        return there


class _TextLoader(psycopg.adapt.Loader):
    """PostgreSQL's text, in the form of :func:`as_text`."""

    def load(self, value: Any) -> str:
        text = bytes(value).decode()
        if self.oid in (1114, 1184):
            text = text.replace(" ", "T", 1)
            text = text.replace("+00", "Z", 1) if self.oid == 1184 else text
        return {"t": "true", "f": "false"}.get(text, text) if self.oid == 16 else text


@contextlib.contextmanager
def lost_standby(server: Server) -> Iterator[Callable[[], None]]:
    """While this lasts, commits are in the WAL but nobody sees them; what it yields ends it."""

    def come_back() -> None:
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        server.execute("SELECT pg_reload_conf()")

    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    server.execute("SELECT pg_reload_conf()")
    wait_until(lambda: server.execute("SHOW synchronous_standby_names") == [("nobody",)], what="the new setting")
    try:
        yield come_back
    finally:
        come_back()


@contextlib.contextmanager
def busy(database: Database, sessions: int) -> Iterator[Callable[[], None]]:
    """So many sessions run a statement until the end of the block, or until what it yields is called."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(database.connect()) for _ in range(sessions)]
        threads = [threading.Thread(target=_sleep, args=(connection,)) for connection in connections]
        for thread in threads:
            thread.start()

        def end() -> None:
            for connection in connections:
                connection.cancel()
            for thread in threads:
                thread.join(30)

        asleep = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(600)'"
        try:
            wait_until(lambda: database.execute(asleep)[0][0] >= sessions, what="sessions that are active")
            yield end
        finally:
            end()


def _sleep(connection: psycopg.Connection[Any]) -> None:
    with contextlib.suppress(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(600)")


if __name__ == "__main__":
    sys.exit(sources.main(Source))
