"""The captured tables of one source, kept in step with the catalogue, the publication and the topics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import psycopg
import structlog

from cdc.errors import PermanentError
from cdc.event import SEQUENCE_BITS
from cdc.log import Log, TopicPartition, topic_name
from connectors.postgres.catalogue import CatalogTable, captured_tables, look_up_type
from connectors.postgres.chunk import MESSAGE_PREFIX
from connectors.postgres.client import connect, refused
from connectors.postgres.config import PostgresConfig
from connectors.postgres.position import Position, TableIdentity, TableSnapshot
from connectors.postgres.slot import SNAPSHOT_COMMAND, check_server, gap, publish
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


class CapturedTables:
    """Knows the captured tables and talks SQL to the database, on one connection that is made when it is needed.
    Changes nothing."""

    def __init__(
        self, config: PostgresConfig, names: Mapping[str, str], topic_template: str, profile: str, publication: str
    ) -> None:
        """`names` fills the placeholders of `topic_template` other than schema and table."""
        self._config = config
        self._names = names
        self._template = topic_template
        self._connection: psycopg.Connection[Any] | None = None
        self._types: dict[int, CatalogType | None] = {}
        self.profile = profile
        self.publication = publication
        self.captured: dict[str, CatalogTable] = {}
        """By ``schema.table``."""

    def sql(self) -> psycopg.Connection[Any]:
        """The connection; a statement on it never waits long for a lock. Raises UnreachableError."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._config)
            self._connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'".encode())
        return self._connection

    def topic(self, schema: str, table: str) -> str:
        """The topic of a table."""
        return topic_name(self._template, **self._names, schema=schema, table=table)

    def look(self) -> None:
        """Read from the catalogue which tables are captured. Raises UnreachableError, PermanentError."""
        try:
            check_server(self.sql())
            found = captured_tables(self.sql(), self._config, lambda what, fix: log.warning(what, fix=fix))
        except psycopg.Error as error:
            raise refused(error) from None
        self.captured = {table.full_name: table for table in found}
        self._refuse_shared_topics()

    def _refuse_shared_topics(self) -> None:
        """Characters that a topic's name may not have are replaced, which can make two names one."""
        owners: dict[str, str] = {}
        for name, table in self.captured.items():
            other = owners.setdefault(self.topic(table.schema, table.name), name)
            if other != name:
                raise PermanentError(
                    f"tables {other} and {name} would share the topic {self.topic(table.schema, table.name)}",
                    hint="capture them as two sources with {source} in log.topics.name, or rename one",
                )

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
        self._log = log_

    def refresh(self) -> None:
        """Read the catalogue, publish the tables (publication first, then the slot), create their topics."""
        self.look()
        found = list(self.captured.values())
        try:
            with connect(self._config) as connection:
                publish(connection, self.publication, found, self._config.publication.manage == "tables")
        except psycopg.Error as error:
            raise refused(error) from None
        self._log.create_topics([self.topic(table.schema, table.name) for table in found])

    def reconcile(self, position: Position) -> Position:
        """The position with the tables that are captured now: new ones get a snapshot, dropped ones are forgotten.

        Raises PermanentError when the partitions of a topic, the profile or the key columns of its records changed,
        GapError when a topic was re-created or the table left the publication meanwhile.
        """
        identities = self.identities()
        refuse_changes(position, identities)
        for name, now in identities.items():
            before = position.tables.get(name)
            if before is not None and before != now and position.anchor is not None:
                raise gap(
                    f"the topic of {name} was deleted and created again, or got another name"
                    if before.topic_id != now.topic_id
                    else f"table {name} was not in the publication for some time"
                )
        snapshots = {name: progress for name, progress in position.snapshots.items() if name in identities}
        sequence = position.sequence
        added = [name for name in identities if name not in position.tables]
        # A transaction that began before the table was published may have changed it unseen.
        fence = str(self.begun_snapshot()) if added else None
        for name in added:
            if self._config.snapshot_mode(name) == "initial":
                snapshots[name], sequence = self.plan(name, position.epoch, sequence, fence)
        return msgspec.structs.replace(position, tables=identities, snapshots=snapshots, sequence=sequence)

    def plan(self, name: str, epoch: int, sequence: int, fence: str | None = None) -> tuple[TableSnapshot, int]:
        """A snapshot of a table that begins now, and the next sequence number.

        Where the topic has records already, ghosts among them must go in the end: the number of that sweep is drawn
        here, the first after the position at which the snapshot begins.
        """
        table = self.captured[name]
        topic = self._log.topics()[self.topic(table.schema, table.name)]
        partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        if not any(self._log.end_offsets(partitions).values()):
            return TableSnapshot(None, fence=fence), sequence
        return TableSnapshot(epoch << SEQUENCE_BITS | sequence, fence=fence), sequence + 1

    def identities(self) -> dict[str, TableIdentity]:
        """What must not change beneath the captured tables."""
        topics = self._log.topics()
        published = {f"{schema}.{table}": oid for schema, table, oid in self.rows(_PUBLISHED, [self.publication])}
        return {
            name: TableIdentity(
                topics[topic].id, topics[topic].partitions, self.profile, list(table.key), published.get(name, 0)
            )
            for name, table in self.captured.items()
            if (topic := self.topic(table.schema, table.name))
        }

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


def refuse_changes(position: Position, identities: Mapping[str, TableIdentity]) -> None:
    """Raise PermanentError where records of a table would no longer agree with those that its topic holds.

    No snapshot mends that: whoever reads the topic finds a row in two partitions, or under two keys.
    """
    for name, now in identities.items():
        before = position.tables.get(name)
        if before is None or before.topic_id != now.topic_id:
            continue
        if before.key != now.key:
            back = f"make ({', '.join(before.key)}) the key again"
            what = f"the key of {name} changed from ({', '.join(before.key)}) to ({', '.join(now.key)})"
        elif before.partitions != now.partitions:
            back = "partitions cannot be taken away again"
            what = f"the topic of {name} has {now.partitions} partitions instead of {before.partitions}: keys moved"
        elif before.profile != now.profile:
            back = f"set log.format.profile back to {before.profile}"
            what = f"the value profile changed from {before.profile} to {now.profile}, and with it the record keys"
        else:
            continue
        raise PermanentError(
            what,
            hint=f"{back}; or begin new topics: put a number into log.topics.name, for example "
            f'"{{pipeline}}.v2.{{schema}}.{{table}}", give the sinks new names and empty stores, '
            f"and run `{SNAPSHOT_COMMAND}`",
        )
