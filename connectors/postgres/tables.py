"""The captured tables of one source, kept in step with the catalogue, the publication and the topics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import psycopg
import structlog

from cdc.log import Log
from cdc.source.plan import TableIdentity, refuse_changes
from cdc.source.tables import SourceTables, Topics
from connectors.postgres.catalogue import CatalogTable, captured_tables, look_up_type
from connectors.postgres.chunk import MESSAGE_PREFIX
from connectors.postgres.client import connect, refused
from connectors.postgres.config import PostgresConfig
from connectors.postgres.position import Position
from connectors.postgres.slot import check_server, publish
from connectors.postgres.values import CatalogType
from connectors.postgres.visibility import DatabaseSnapshot

log = structlog.get_logger()

LOCK_TIMEOUT: Final = "1s"
"""While DDL holds a table the stream goes on talking to the server, and asks again."""


_PUBLISHED = """
SELECT t.schemaname, t.tablename, coalesce(r.oid, p.oid)::bigint
  FROM pg_publication p JOIN pg_publication_tables t ON t.pubname = p.pubname
  LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid
        AND r.prrelid = (quote_ident(t.schemaname) || '.' || quote_ident(t.tablename))::regclass
 WHERE p.pubname = %s
"""
"""Where each table stands in the publication; one of all tables, or of a schema, counts as one place."""


_ACTIVE = """
SELECT count(*) FROM pg_stat_activity
 WHERE NOT (usename = current_user AND application_name = current_setting('application_name'))
   AND coalesce(backend_type, 'client backend') = 'client backend'
   AND (state IN ('active', 'fastpath function call') OR (state IS NULL AND backend_xmin IS NOT NULL))
"""
"""To a role that may not read others' statistics they have no state; then one with a snapshot runs a statement."""


class CapturedTables(SourceTables[CatalogTable]):
    """Knows the captured tables and talks SQL to the database, on one connection that is made when it is needed.
    Changes nothing."""

    def __init__(
        self, config: PostgresConfig, names: Mapping[str, str], topic_template: str, profile: str, publication: str
    ) -> None:
        super().__init__(config, names, topic_template, profile)
        self._config = config
        self._connection: psycopg.Connection[Any] | None = None
        self._types: dict[int, CatalogType | None] = {}
        self.publication = publication

    def sql(self) -> psycopg.Connection[Any]:
        """The connection; a statement on it never waits long for a lock. Raises UnreachableError."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._config)
            self._connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'".encode())
        return self._connection

    def look(self) -> None:
        """Read from the catalogue which tables are captured. Raises UnreachableError, PermanentError."""
        try:
            check_server(self.sql())
            found = captured_tables(self.sql(), self._config, lambda what, fix: log.warning(what, fix=fix))
        except psycopg.Error as error:
            raise refused(error) from None
        self.captured = {table.full_name: table for table in found}
        self.refuse_shared_topics()

    def lookup(self, oid: int) -> CatalogType | None:
        """What the catalogue says about a type; None when it is gone. Asked once per type."""
        if oid not in self._types:
            try:
                self._types[oid] = look_up_type(self.sql(), oid)
            except psycopg.Error as error:
                raise refused(error) from None
        return self._types[oid]

    def rows(self, statement: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        """The rows of a query. Raises UnreachableError, PermanentError when the server refuses it."""
        try:
            return self.sql().execute(statement.encode(), parameters).fetchall()
        except psycopg.Error as error:
            raise refused(error) from None

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        if self._connection is not None:
            self._connection.close()


class Tables(CapturedTables):
    """The captured tables, and what keeps them in step with the publication and the topics."""

    def __init__(
        self,
        config: PostgresConfig,
        log_: Log,
        names: Mapping[str, str],
        topic_template: str,
        profile: str,
        publication: str,
    ) -> None:
        super().__init__(config, names, topic_template, profile, publication)
        self.on_log = Topics(log_, self)

    def refresh(self) -> None:
        """Read the catalogue, publish the tables (publication first, then the slot), create their topics."""
        self.look()
        try:
            with connect(self._config) as connection:
                tables = list(self.captured.values())
                publish(connection, self.publication, tables, self._config.publication.manage == "tables")
        except psycopg.Error as error:
            raise refused(error) from None
        self.on_log.create()

    def reconcile(self, position: Position) -> Position:
        """The position with the tables that are captured now: see :meth:`cdc.source.tables.Topics.reconciled`."""
        identities = self.identities()
        before = position.tables
        if position.anchor is None:  # nothing was captured yet: only what no snapshot mends is refused
            refuse_changes(before, identities)
            before = {name: identities.get(name, table) for name, table in before.items()}
        snapshots, sequence = self.on_log.reconciled(
            before,
            identities,
            position.snapshots,
            position.epoch,
            position.sequence,
            # A transaction that began before the table was published may have changed it unseen.
            fence=lambda: str(self.begun_snapshot()),
        )
        return msgspec.structs.replace(position, tables=identities, snapshots=snapshots, sequence=sequence)

    def identities(self) -> dict[str, TableIdentity]:
        """What must not change beneath the captured tables."""
        rows = self.rows(_PUBLISHED, [self.publication])
        return self.on_log.identities({f"{schema}.{table}": oid for schema, table, oid in rows})

    def current_snapshot(self) -> DatabaseSnapshot:
        """Which transactions are visible now."""
        [row] = self.rows("SELECT pg_current_snapshot()::text", [])
        return DatabaseSnapshot.parse(row[0])

    def active_sessions(self) -> int:
        """How many sessions other than ours run a statement on this server."""
        return int(self.rows(_ACTIVE, [])[0][0])

    def begun_snapshot(self) -> DatabaseSnapshot:
        """The same, and whatever has begun by now and not ended is among its `running`.

        A database snapshot does not tell of transactions younger than the last one that ended. So one of our own ends
        first: all that have begun before it are older.
        """
        self.emit("begun")
        return self.current_snapshot()

    def emit(self, content: str) -> None:
        """Write a transactional message of ours into the WAL."""
        self.rows("SELECT pg_logical_emit_message(true, %s, %s)", [MESSAGE_PREFIX, json.dumps({"id": content})])
