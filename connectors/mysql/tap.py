"""What the server sends from now on, for ``cdc tap``: beside capture, without log and position."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Final

from cdc.capture import Item, Marker
from cdc.formats.envelope import TransactionParts
from cdc.log import Produced
from cdc.record import TRUNCATE_KEY, marker_header
from cdc.source.schemas import Schemas
from cdc.source.stream import BATCH_BYTES
from connectors.mysql import statement as sql
from connectors.mysql.consequences import consequences
from connectors.mysql.dump import DumpConnection
from connectors.mysql.envelope import BinlogEnvelope, event_place
from connectors.mysql.events import GtidEvent, Header, MariadbGtidEvent, Query, Rows
from connectors.mysql.history import binlog_state
from connectors.mysql.reader import EventReader
from connectors.mysql.relations import Relations
from connectors.mysql.select import compile_select
from connectors.mysql.statements import read_statement
from connectors.mysql.tablemap import TableMap
from connectors.mysql.tables import CapturedTables
from schemas.table import TableSchema

WAIT_SECONDS: Final = 0.2
"""How long to wait for a server that has nothing to say."""


def tap(name: str, tables: CapturedTables, stopping: Callable[[], bool]) -> Generator[Sequence[Item], None, None]:
    """See :meth:`cdc.connector.Connector.tap`. `tables` is closed at the end.

    Rows of a prepared XA transaction are shown when it is prepared.
    """
    with closing(tables):
        tables.look()
        with closing(DumpConnection(tables.address, "auto")) as connection:
            state = binlog_state(connection.query, connection.server)
            connection.start(state.executed)
            reader = _Reader(name, tables, connection, EventReader(connection, state.end))
            yield []
            while not stopping():
                yield reader.read()


class _Reader:
    """Decodes what comes, by the same functions as capture, but for what only a log needs."""

    def __init__(self, name: str, tables: CapturedTables, connection: DumpConnection, events: EventReader) -> None:
        self._tables = tables
        self._connection = connection
        self._events = events
        self._mariadb = connection.server.mariadb
        self._envelope = BinlogEnvelope("mariadb" if self._mariadb else "mysql", name)
        self._relations = Relations(tables)
        self._schemas = Schemas({}, {}, compile_select)
        self._maps: dict[int, TableMap] = {}
        self._transaction: TransactionParts
        self._ordinal = 0
        self._items: list[Item] = []

    def read(self) -> Sequence[Item]:
        """The next batch; waits a moment for the first of it."""
        self._items = []
        left = BATCH_BYTES
        while left > 0:
            found = self._events.read()
            if found is None:
                if not self._connection.wait(0.0 if left < BATCH_BYTES else WAIT_SECONDS):
                    break
                continue
            header, event, end = found
            left -= header.size
            match event:
                case TableMap():
                    self._maps[event.table_id] = event
                case Rows():
                    self._rows(event, end)
                case GtidEvent():
                    self._begin(header, event.immediate_commit_time, 0, str(event.gtid))
                case MariadbGtidEvent():
                    self._begin(header, header.timestamp * 1_000_000, event.thread_id, str(event.gtid))
                case Query():
                    self._query(event)
                case _:
                    pass
        return self._items

    def _begin(self, header: Header, commit_time: int, thread_id: int, gtid: str) -> None:
        ids = (header.server_id, thread_id, gtid, self._events.place.file)
        self._transaction = self._envelope.transaction(commit_time, *ids, time.time_ns())
        self._ordinal = 0

    def _rows(self, rows: Rows, end: int) -> None:
        known = self._relations.known(self._maps[rows.table_id])
        if known is None:
            return
        self._announce(known.schema)
        run: list[Produced] = []
        _, self._ordinal = known.produce(run.append, rows, self._transaction, event_place(end), 0, self._ordinal)
        self._items.append(run)

    def _query(self, query: Query) -> None:
        statement = read_statement(query.sql, query.schema, query.sql_mode, mariadb=self._mariadb)
        if not isinstance(statement, sql.Ddl):
            return
        found = consequences(statement.effects, self._tables.captured)
        if found.changed:
            self._relations.forget()
            for name in found.changed:
                self._tables.look_again(name)
        for name in found.emptied:
            schema = self._relations.schema(self._tables.captured[name])
            self._announce(schema)
            self._items.append(Marker(schema.topic, TRUNCATE_KEY, marker_header(b"t", 0)))

    def _announce(self, schema: TableSchema) -> None:
        """A table's schema comes before its first record."""
        if self._schemas.first_use(schema) is not None:
            self._items.append(schema)
