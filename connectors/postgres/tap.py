"""What the database sends now, for people who want to watch it: ``cdc tap --at source``.

The slot is temporary, it goes with its connection. Whatever was received is acknowledged, shown or not, so the server
keeps no WAL for us and does not wait for us when it shuts down.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Final

import psycopg
import structlog

from cdc.capture import Item, Marker
from cdc.errors import DecodeError, PermanentError
from cdc.formats.envelope import Envelope, plain_records
from cdc.log import Produced
from cdc.record import TRUNCATE_KEY, marker_header
from cdc.source.schemas import Schemas
from connectors.postgres import pgoutput, wire
from connectors.postgres.client import ReplicationConnection, unreachable
from connectors.postgres.config import PostgresConfig
from connectors.postgres.feedback import Feedback
from connectors.postgres.relations import Relations
from connectors.postgres.slot import create_temporary_slot
from connectors.postgres.tables import CapturedTables
from connectors.postgres.wire import row_values

log = structlog.get_logger()

BATCH_BYTES: Final = 1 << 18
"""WAL bytes decoded into one batch at most."""
WAIT_SECONDS: Final = 0.2
"""How long to wait for a database that has nothing to say."""

_XLOG_DATA: Final = ord("w")
_INSERT, _UPDATE, _DELETE = b"IUD"
_PUBLISHED: Final = """
SELECT ARRAY(SELECT schemaname || '.' || tablename FROM pg_publication_tables t WHERE t.pubname = p.pubname)
  FROM pg_publication p WHERE pubname = %s
"""


def tap(
    name: str, config: PostgresConfig, tables: CapturedTables, stopping: Callable[[], bool]
) -> Generator[Sequence[Item], None, None]:
    """See :meth:`cdc.connector.Connector.tap`. `tables` is closed at the end."""
    with closing(tables):
        tables.look()
        _check_published(tables)
        with closing(ReplicationConnection(config)) as connection:
            slot = f"cdc_tap_{uuid.uuid4().hex}"
            if not create_temporary_slot(connection, slot, stopping):
                return
            database = connection.query("SELECT current_database()")[0][0] or ""
            connection.start(slot, tables.publication, 0)
            reader = _Reader(connection, tables, Envelope("postgresql", name, database))
            yield []
            while not stopping():
                yield reader.read()


def _check_published(tables: CapturedTables) -> None:
    """Raises PermanentError without a publication; says which tables it lacks."""
    found = tables.rows(_PUBLISHED, [tables.publication])
    if not found:
        raise PermanentError(
            f"publication {tables.publication} does not exist yet: the database would send nothing",
            hint="the first `cdc run` makes it; where a DBA owns it, `cdc validate --connect` prints the SQL",
        )
    if lacking := sorted(tables.captured.keys() - set(found[0][0])):
        log.warning("tables are not shown: the publication lacks them until `cdc run` starts", tables=lacking)


class _Reader:
    """Decodes what comes, by the same functions as capture, but for what only a log needs."""

    def __init__(self, connection: ReplicationConnection, tables: CapturedTables, envelope: Envelope) -> None:
        self._connection = connection
        self._envelope = envelope
        self._feedback = Feedback(connection)
        self._relations = Relations(tables, Schemas({}, {}, wire.compile_copy))
        self._transaction = envelope.transaction(0, 0, None, 0)
        self._commit_lsn: int | None = None
        self._items: list[Item] = []
        self._append: Callable[[Produced], None]

    def read(self) -> Sequence[Item]:
        """The next batch; waits a moment for the first of it."""
        self._items = []
        self._new_run()
        left = BATCH_BYTES
        while left > 0:
            try:
                length, received = self._connection.receive(1)
            except psycopg.Error as error:
                raise unreachable(str(error)) from None
            if length < 0:
                raise self._connection.end_of_stream()
            if length == 0:
                if not self._connection.wait(0 if left < BATCH_BYTES else WAIT_SECONDS):
                    break
                continue
            left -= length
            frame = received.tobytes()
            if frame[0] == _XLOG_DATA:
                self._message(frame)
            else:
                self._keepalive(frame)
        self._feedback.keepalive()
        return [item for item in self._items if item != []]

    def _new_run(self) -> None:
        run: list[Produced] = []
        self._items.append(run)
        self._append = run.append

    def _keepalive(self, frame: bytes) -> None:
        keepalive = pgoutput.decode_frame(frame)
        assert isinstance(keepalive, pgoutput.Keepalive)
        self._received(keepalive.end)
        if keepalive.reply_requested:
            self._feedback.send()

    def _received(self, lsn: int) -> None:
        self._feedback.acknowledged = max(self._feedback.acknowledged, lsn)

    def _message(self, frame: bytes) -> None:
        tag = frame[25]
        if tag in (_INSERT, _UPDATE, _DELETE):
            table = self._relations.compiled.get(frame[26:30])
            if table is not None:
                function = {_INSERT: table.insert, _UPDATE: table.update, _DELETE: table.delete}[tag]
                if not function(self._append, frame, 30, self._transaction, 0, 0):
                    self._plain(frame)
            return
        match pgoutput.decode(frame[25:]):
            case pgoutput.Begin() as begin:
                self._transaction = self._envelope.transaction(
                    begin.xid, begin.commit_time, self._commit_lsn, time.time_ns()
                )
            case pgoutput.Commit() as commit:
                self._commit_lsn = commit.commit_lsn
                self._received(commit.end_lsn)
            case pgoutput.Relation() as relation:
                news = self._relations.update(relation, skipped=False, logged=False)
                if news is not None and news.schema is not None:
                    self._items.append(news.schema)
                    self._new_run()
            case pgoutput.Truncate() as truncate:
                for oid in truncate.relation_oids:
                    if (known := self._relations.known.get(oid)) is not None:
                        self._items.append(Marker(known.schema.topic, TRUNCATE_KEY, marker_header(b"t", 0)))
                self._new_run()
            case _:
                pass

    def _plain(self, frame: bytes) -> None:
        """A row that the generated code gave back, most likely for a large column that was not sent."""
        message = pgoutput.decode(frame[25:])
        if not isinstance(message, pgoutput.Insert | pgoutput.Update | pgoutput.Delete):
            raise DecodeError("a frame is no row message")
        known = self._relations.known[message.relation_oid]
        row = row_values(known.relation, known.schema, message)
        lsn = int.from_bytes(frame[1:9], "big")
        for record in plain_records(known.schema, *row, self._transaction, lsn, 0, 0, known.table.not_null):
            self._append(record)
