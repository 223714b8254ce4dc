"""The captured tables of one source, kept in step with the catalogue, the publication and the topics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import psycopg
import structlog

from cdc.errors import GapError, PermanentError
from cdc.event import SEQUENCE_BITS
from cdc.log import Log, TopicPartition, topic_name
from connectors.postgres.catalogue import CatalogTable, captured_tables
from connectors.postgres.chunk import MESSAGE_PREFIX
from connectors.postgres.client import connect, unreachable
from connectors.postgres.config import PostgresConfig
from connectors.postgres.position import Position, TableIdentity, TableSnapshot
from connectors.postgres.slot import check_server, gap, publish
from connectors.postgres.values import CatalogType
from connectors.postgres.visibility import DatabaseSnapshot

log = structlog.get_logger()

LOCK_TIMEOUT: Final = "1s"
"""While DDL holds a table the stream goes on talking to the server, and asks again."""

_TYPE = """
SELECT t.typtype::text, format_type(t.oid, NULL), t.typbasetype::bigint, t.typtypmod, t.typelem::bigint,
       t.typcategory = 'A' AND t.typelem <> 0 AND t.typsubscript = 'array_subscript_handler'::regproc
  FROM pg_type t WHERE t.oid = %s
"""


class Tables:
    """Knows the captured tables and talks SQL to the database, on one connection that is made when it is needed."""

    def __init__(
        self,
        config: PostgresConfig,
        log_: Log,
        names: Mapping[str, str],
        topic_template: str,
        profile: str,
        publication: str,
    ) -> None:
        """`names` fills the placeholders of `topic_template` other than schema and table."""
        self._config = config
        self._log = log_
        self._names = names
        self._template = topic_template
        self._connection: psycopg.Connection[Any] | None = None
        self._types: dict[int, CatalogType | None] = {}
        self.profile = profile
        self.publication = publication
        self.captured: dict[str, CatalogTable] = {}
        """By ``schema.table``."""
        self._added: set[str] = set()

    def sql(self) -> psycopg.Connection[Any]:
        """The connection; a statement on it never waits long for a lock. Raises UnreachableError."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._config)
            self._connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'".encode())
        return self._connection

    def topic(self, schema: str, table: str) -> str:
        """The topic of a table."""
        return topic_name(self._template, **self._names, schema=schema, table=table)

    def refresh(self) -> None:
        """Read the catalogue, publish the tables (publication first, then the slot), create their topics."""
        try:
            with connect(self._config) as connection:
                check_server(connection)
                found = captured_tables(connection, self._config, lambda what, fix: log.warning(what, fix=fix))
                self._added = publish(connection, self.publication, found, self._config.publication.manage == "tables")
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise unreachable(str(error)) from None
        self.captured = {table.full_name: table for table in found}
        self._refuse_shared_topics()
        self._log.create_topics([self.topic(table.schema, table.name) for table in found])

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

    def reconcile(self, position: Position) -> Position:
        """The position with the tables that are captured now: new ones get a snapshot, dropped ones are forgotten.

        Raises GapError when a topic was re-created, or its partitions, profile or key columns changed.
        """
        identities = self.identities()
        for name, now in identities.items():
            before = position.tables.get(name)
            if before is not None and before != now:
                raise changed(name, before, now)
        tables = {name: position.tables.get(name, now) for name, now in identities.items()}
        snapshots = {name: progress for name, progress in position.snapshots.items() if name in tables}
        sequence = position.sequence
        # A transaction that began before the table was published may have changed it unseen.
        fence = str(self.current_snapshot())
        for name in tables:
            if name in self._added and name in snapshots:
                snapshots[name] = msgspec.structs.replace(snapshots[name], fence=fence)
            elif name in position.tables and name in self._added:
                raise gap(f"table {name} was not in publication {self.publication} for some time")
            elif name not in position.tables and self._config.snapshot_mode(name) == "initial":
                snapshots[name], sequence = self.plan(name, position.epoch, sequence, fence)
        return msgspec.structs.replace(position, tables=tables, snapshots=snapshots, sequence=sequence)

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
        return {
            name: TableIdentity(topics[topic].id, topics[topic].partitions, self.profile, list(table.key))
            for name, table in self.captured.items()
            if (topic := self.topic(table.schema, table.name))
        }

    def lookup(self, oid: int) -> CatalogType | None:
        """What the catalogue says about a type; None when it is gone. Asked once per type."""
        if oid not in self._types:
            row = self.sql().execute(_TYPE, [oid]).fetchone()
            self._types[oid] = None if row is None else _catalog_type(row)
        return self._types[oid]

    def current_snapshot(self) -> DatabaseSnapshot:
        """Which transactions are visible now."""
        row = self._query("SELECT pg_current_snapshot()::text", [])
        return DatabaseSnapshot.parse(row[0])

    def emit(self, content: str) -> None:
        """Write a transactional message of ours into the WAL."""
        self._query("SELECT pg_logical_emit_message(true, %s, %s)", [MESSAGE_PREFIX, json.dumps({"id": content})])

    def _query(self, statement: str, parameters: list[object]) -> tuple[Any, ...]:
        try:
            row: tuple[Any, ...] | None = self.sql().execute(statement.encode(), parameters).fetchone()
        except psycopg.errors.InsufficientPrivilege as error:
            raise PermanentError(f"PostgreSQL: {error.diag.message_primary}") from None
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise unreachable(str(error)) from None
        assert row is not None
        return row

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        if self._connection is not None:
            self._connection.close()


def changed(name: str, before: TableIdentity, now: TableIdentity) -> GapError:
    """What changed beneath a table, as a gap."""
    if before.key != now.key:
        what = f"the key of {name} changed from ({', '.join(before.key)}) to ({', '.join(now.key)})"
    elif before.partitions != now.partitions:
        what = f"the topic of {name} has {now.partitions} partitions instead of {before.partitions}: keys moved"
    elif before.profile != now.profile:
        what = f"the value profile changed from {before.profile} to {now.profile}, and with it the record keys"
    else:
        what = f"the topic of {name} was deleted and created again"
    return gap(what)


def _catalog_type(row: tuple[Any, ...]) -> CatalogType:
    kind, name, base, modifier, element, is_array = row
    if kind == "e":
        return CatalogType("enum", name)
    if kind == "d":
        return CatalogType("domain", name, base, modifier)
    if is_array:
        return CatalogType("array", name, element)
    return CatalogType("base", name)
