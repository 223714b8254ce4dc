"""The captured tables of one source, and questions to its server."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog
from pymysql.connections import Connection

from cdc.errors import CdcError, UnreachableError
from cdc.log import Log
from cdc.source.tables import SourceTables, Topics
from connectors.mysql.catalogue import CatalogTable, captured_tables, describe
from connectors.mysql.client import Server, address, check_server, connect, identify, query
from connectors.mysql.config import MysqlConfig
from connectors.mysql.position import Position

log = structlog.get_logger()

_ACTIVE: Final = (
    "SELECT count(*) FROM information_schema.processlist WHERE id <> connection_id() AND user <> %s "
    "AND command NOT IN ('Sleep', 'Daemon', 'Binlog Dump', 'Binlog Dump GTID')"
)


class CapturedTables(SourceTables[CatalogTable]):
    """Knows the captured tables and talks SQL to the server, on one connection that is made when it is needed."""

    def __init__(self, config: MysqlConfig, names: Mapping[str, str], topic_template: str, profile: str) -> None:
        super().__init__(config, names, topic_template, profile)
        self._config = config
        self.address = address(config.url, config.password, config.ca)
        self._connection: Connection | None = None
        self.server: Server

    def sql(self) -> Connection:
        """The connection. Raises UnreachableError, PermanentError when the server is too old."""
        if self._connection is None or not self._connection.open:
            self._connection = connect(self.address)
            self.server = identify(self._connection)
            check_server(self.server)
        return self._connection

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query. Raises UnreachableError, PermanentError when the server refuses it."""
        try:
            return query(self.sql(), statement, *values)
        except UnreachableError:
            self.close()
            raise

    def look(self) -> None:
        """Read from the catalogue which tables are captured. Raises UnreachableError, PermanentError."""
        connection = self.sql()
        found = captured_tables(connection, self.server, self._config, lambda what, fix: log.warning(what, fix=fix))
        self.captured = {table.full_name: table for table in found}
        self.refuse_shared_topics()

    def look_again(self, name: str) -> CatalogTable | None:
        """The captured table `name` as it is now; None when it is gone or can't be captured any more."""
        schema, table = self.captured[name].schema, self.captured[name].name
        found = describe(self.sql(), self.server, schema, table)
        if found is None or found.problem:
            return None
        self.captured[name] = found
        return found

    def active_sessions(self) -> int:
        """How many sessions other than ours run a statement on this server."""
        return int(self.rows(_ACTIVE, self.address.user)[0][0])

    def end(self, thread_id: int) -> None:
        """End another connection of ours, which the server would notice by its next heartbeats only."""
        if self._connection is not None and self._connection.open:
            with contextlib.suppress(CdcError):
                self.rows("KILL %s", thread_id)

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        if self._connection is not None:
            self._connection._force_close()
            self._connection = None


class Tables(CapturedTables):
    """The captured tables, and what keeps them in step with the topics."""

    def __init__(
        self, config: MysqlConfig, log_: Log, names: Mapping[str, str], topic_template: str, profile: str
    ) -> None:
        super().__init__(config, names, topic_template, profile)
        self.on_log = Topics(log_, self)

    def refresh(self) -> None:
        """Read the catalogue, and create the tables' topics."""
        self.look()
        self.on_log.create()

    def reconcile(self, position: Position) -> Position:
        """The position with the tables that are captured now: see :meth:`cdc.source.tables.Topics.reconciled`."""
        identities = self.on_log.identities({})
        snapshots, sequence = self.on_log.reconciled(
            position.tables, identities, position.snapshots, position.epoch, position.sequence
        )
        return msgspec.structs.replace(position, tables=identities, snapshots=snapshots, sequence=sequence)
