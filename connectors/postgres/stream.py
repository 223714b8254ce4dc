"""The PostgreSQL stream: frames of the replication protocol in, records out, with the position that belongs to them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec
import structlog

from cdc.capture import Item
from cdc.compile import CompiledRead
from cdc.errors import DecodeError, TransientError
from cdc.event import SEQUENCE_BITS, UNCHANGED
from cdc.formats.envelope import POSTGRESQL, Envelope, TransactionParts
from cdc.log import Log
from cdc.record import TRUNCATE_KEY, marker_header
from cdc.source.incomplete import Incomplete, record_keys
from cdc.source.plan import gap
from cdc.source.schemas import Schemas
from cdc.source.stream import BATCH_BYTES, DatabaseStream
from cdc.worker import Control
from connectors.postgres import pgoutput, wire
from connectors.postgres.catalogue import CatalogTable
from connectors.postgres.chunk import MESSAGE_PREFIX, ChunkReader, PostgresChunk
from connectors.postgres.client import ReplicationConnection
from connectors.postgres.config import PostgresConfig
from connectors.postgres.feedback import Feedback
from connectors.postgres.lsn import format_lsn
from connectors.postgres.position import Anchor, OpenTransaction, Position, decode_position
from connectors.postgres.relations import Relations
from connectors.postgres.reselect import Reselect
from connectors.postgres.resume import WHOLE, Resumption
from connectors.postgres.slot import check_continuity
from connectors.postgres.snapshot import PostgresSnapshots
from connectors.postgres.tables import Tables
from connectors.postgres.wire import row_values
from schemas.table import TableSchema

log = structlog.get_logger()

ANCHOR_ROWS: Final = 1000
"""A transaction of more rows is no anchor: the server would have to send it again at every reconnect."""
HEARTBEAT_SECONDS: Final = 10.0
MOVED_SECONDS: Final = 1.0
"""How often a position is stored that only moved past WAL which is not ours."""
IDLE_WAL_BYTES: Final = 16 << 10
"""WAL that may pass unacknowledged in an idle database; less is not worth a heartbeat, which writes WAL itself."""

_XLOG_DATA: Final = ord("w")
_INSERT, _UPDATE, _DELETE, _BEGIN, _COMMIT = b"IUDBC"


class PostgresStream(DatabaseStream[PostgresChunk]):
    """See :class:`cdc.capture.Stream`. One life per connection: after an error it is closed and a new one made."""

    block = POSTGRESQL

    def __init__(self, name: str, config: PostgresConfig, tables: Tables, log_: Log, control: Control) -> None:
        super().__init__(name, tables, control)
        self._config = config
        self._tables = tables
        self._log = log_
        self._connection: ReplicationConnection | None = None
        self._snapshots: PostgresSnapshots | None = None
        # Where we are in the source's log.
        self._begin = pgoutput.Begin(0, 0, 0)
        self._in_transaction = False
        self._rows = 0
        self._change_lsn = b""
        self._change_ordinal = 0
        self._skip = 0
        self._taken: Position
        self._moved = False
        self._position_at = 0.0
        self._anchored_at = time.monotonic()
        self._ready: tuple[PostgresChunk, set[bytes]] | None = None
        # The message whose passing means that we are caught up.
        self._goal: str | None = None
        self._goal_seen = self._goal_taken = self._goal_stored = False

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Check what can be checked before the slot is ours, then take the slot."""
        stored = self._log.positions().get(self._name)
        if stored is None:
            raise TransientError("the position of this source can't be read from the log yet", hint="it is tried again")
        position = decode_position(stored)
        self._tables.refresh()
        self._connection = ReplicationConnection(self._config)
        self._database = self._connection.query("SELECT current_database()")[0][0] or ""
        check_continuity(self._connection, position)
        self._connection.start(position.slot, self._tables.publication, 0)
        self._feedback = Feedback(self._connection)

    def resume(self, position: bytes | None) -> None:
        """Take the fenced position; what must come first is its anchor (with an intent, the nonce)."""
        if position is None:
            raise gap("the position of this source vanished from the log")
        stored = decode_position(position)
        self._stored = self._tables.reconcile(stored)
        self._resumption = Resumption(self._stored)
        self._dirty = self._stored != stored
        self._version = self._stored.epoch << SEQUENCE_BITS | self._stored.sequence
        self._anchor, self._commit_lsn = self._stored.anchor, self._stored.commit_lsn
        self._plan, self._request = dict(self._stored.snapshots), self._stored.request
        self._control.done = self._request
        self._envelope = Envelope("postgresql", self._name, self._database)
        self._transaction = self._envelope.transaction(0, 0, None, 0)
        self._schemas = Schemas(self._log.schemas(), self._stored.schemas, wire.compile_copy)
        self._relations = Relations(self._tables, self._schemas)
        self._reselect = Reselect(self._tables)
        reader = ChunkReader(self._config)
        self._snapshots = PostgresSnapshots(
            self._config.snapshot,
            reader,
            self._tables.current_snapshot,
            self._tables.begun_snapshot,
            self._tables.active_sessions,
            self._watch,
            self._schema,
        )
        for table in self._schemas.take_missed():
            if table in self._tables.captured:
                self._schedule(table)
        if self._anchor is None:
            self._tables.emit(self._stored.nonce)
        else:
            self._feedback.received = self._feedback.acknowledged = self._anchor.commit_lsn

    def close(self) -> None:
        """Let go of the slot at once."""
        if self._connection is not None:
            self._connection.close()
        if self._snapshots is not None:
            self._snapshots.close()
        self._tables.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, seconds: float) -> Sequence[Item]:
        """Decode what is there. The hot loop: a row costs one generated call, everything else is per transaction."""
        if self._rest:
            return self._take_rest()
        if self._emitting is not None:
            return self._emit_chunk()
        connection = self._open_connection()
        receive = connection.receive
        relations = self._relations.compiled
        self._items = []
        self._new_run()
        transaction, version, rows = self._transaction, self._version, self._rows
        lsn, ordinal, skip = self._change_lsn, self._change_ordinal, self._skip
        left = BATCH_BYTES
        while left > 0:
            length, received = receive(1)
            if length <= 0:
                if not self._wait(connection, length, 0.0 if left < BATCH_BYTES else seconds):
                    break
                continue
            left -= length
            frame = received.tobytes()
            if frame[0] != _XLOG_DATA:
                self._server_keepalive(frame)
                continue
            tag = frame[25]
            if tag == _INSERT or tag == _UPDATE or tag == _DELETE:  # noqa: SIM109 - hot
                # Where we are, counted before any filter: the change's LSN and its place among changes of that LSN.
                if frame[1:9] == lsn:
                    ordinal += 1
                else:
                    lsn = frame[1:9]
                    ordinal = 0
                place = rows
                rows += 1
                if skip:
                    skip -= 1
                    if not skip:
                        self._resumption.skipped(lsn, ordinal)
                    continue
                table = relations.get(frame[26:30])
                if table is not None:
                    if tag == _INSERT:
                        used = table.insert(self._append, frame, 30, transaction, version, place)
                    elif tag == _UPDATE:
                        used = table.update(self._append, frame, 30, transaction, version, place)
                    else:
                        used = table.delete(self._append, frame, 30, transaction, version, place)
                    if used == 0:
                        used = self._plain(frame, version, place, ordinal)
                    version += used
                continue
            self._version, self._rows, self._change_lsn, self._change_ordinal = version, rows, lsn, ordinal
            self._skip = skip
            self._other(frame)
            transaction, version, rows = self._transaction, self._version, self._rows
            lsn, ordinal, skip = self._change_lsn, self._change_ordinal, self._skip
            if self._emitting is not None:
                break
        self._version, self._rows, self._change_lsn, self._change_ordinal = version, rows, lsn, ordinal
        self._skip = skip
        self.more = left <= 0 or self._emitting is not None
        items = self._taken_items()
        self._dirty = self._dirty or bool(items)
        return items

    def _wait(self, connection: ReplicationConnection, length: int, seconds: float) -> bool:
        if length < 0:
            raise connection.end_of_stream()
        return connection.wait(seconds)

    def _other(self, frame: bytes) -> None:
        """Everything that is not a row, by the plain decoder."""
        if frame[25] == _BEGIN:
            self._begin_transaction(pgoutput.decode_begin(frame, 26))
            return
        if frame[25] == _COMMIT:
            self._end_transaction(pgoutput.decode_commit(frame, 26))
            return
        match pgoutput.decode(frame[25:]):
            case pgoutput.Relation() as relation:
                self._describe(relation)
            case pgoutput.Truncate() as truncate:
                self._truncate(truncate, frame[1:9])
            case pgoutput.Message() as message if message.prefix == MESSAGE_PREFIX:
                self._own_message(message.content)
            case _:
                pass

    def _begin_transaction(self, begin: pgoutput.Begin) -> None:
        self._begin = begin
        self._in_transaction = True
        self._rows, self._change_lsn, self._change_ordinal = 0, b"", 0
        self._skip = self._resumption.begun(begin)
        if self._skip != WHOLE:
            last = self._commit_lsn or None
            self._transaction = self._envelope.transaction(begin.xid, begin.commit_time, last, time.time_ns())
            if self._snapshots is not None:
                self._snapshots.streamed(begin.xid)

    def _end_transaction(self, commit: pgoutput.Commit) -> None:
        self._in_transaction = False
        self._feedback.received = max(self._feedback.received, commit.end_lsn)
        left, self._skip = self._skip, 0
        if self._resumption.committed(left):
            return
        self._commit_lsn = commit.commit_lsn
        if self._rows <= ANCHOR_ROWS:
            self._anchor = Anchor(self._begin.xid, commit.commit_lsn, commit.end_lsn, commit.commit_time)
            self._anchored_at = time.monotonic()
        if self._rows or self._stored.anchor is None or self._goal_seen:
            self._dirty = True
        self._moved = True
        if self._ready is not None:
            self._emit(self._ready)
            self._ready = None

    def _describe(self, relation: pgoutput.Relation) -> None:
        skipped = bool(self._skip)
        news = self._relations.update(relation, skipped=skipped, logged=skipped and self._stored.anchor is not None)
        if news is None:
            return
        if news.changed:
            self._broken(news.name, "its definition changed")
        if news.schema is not None:
            self._put(news.schema)
        if news.resync:
            log.warning("table is read again: DDL changed its rows", table=news.name, why=news.resync)
            self._schedule(news.name)

    def _truncate(self, truncate: pgoutput.Truncate, lsn: bytes) -> None:
        self._change_ordinal = self._change_ordinal + 1 if lsn == self._change_lsn else 0
        self._change_lsn = lsn
        self._rows += 1
        if self._skip:
            self._skip -= 1
            if not self._skip:
                self._resumption.skipped(lsn, self._change_ordinal)
            return
        for oid in truncate.relation_oids:
            known = self._relations.known.get(oid)
            if known is not None:
                self._mark(known.schema.topic, TRUNCATE_KEY, marker_header(b"t", self._version))
                self._version += 1
                self._broken(known.table.full_name, "it was truncated")

    def _own_message(self, content: bytes) -> None:
        """A mark of a chunk, or the message that we are waiting for. What is not understood is not ours."""
        try:
            message = msgspec.json.decode(content, type=dict[str, str])
        except msgspec.MsgspecError:
            return
        if not self._resumption.over:
            self._resumption.message(message.get("id"))
            return
        if self._goal is not None and message.get("id") == self._goal:  # marks of chunks have no id
            self._goal_seen = True
        if self._snapshots is not None and "chunk" in message:
            self._ready = self._snapshots.mark(message["chunk"], message.get("mark", ""))

    # -- rows that need a closer look ----------------------------------------------------------------------------------

    def _plain(self, frame: bytes, version: int, ordinal: int, change_ordinal: int) -> int:
        """A row that the generated code gave back: values are missing. Returns the versions it takes."""
        message = pgoutput.decode(frame[25:])
        if not isinstance(message, pgoutput.Insert | pgoutput.Update | pgoutput.Delete):
            raise DecodeError("a frame is no row message")
        known = self._relations.known[message.relation_oid]
        operation, before, after = row_values(known.relation, known.schema, message)
        if before is not None and after is not None and known.relation.replica_identity == "f":
            after = [old if new is UNCHANGED else new for old, new in zip(before, after, strict=True)]
        lsn = int.from_bytes(frame[1:9], "big")
        row = Incomplete(
            known.schema,
            operation,
            before,
            after,
            self._transaction,
            lsn,
            version,
            ordinal,
            known.table.not_null,
            writer=self._begin.xid,
        )
        records = self._records(row, read=self._config.toast == "reselect")
        for record in records:
            self._append(record)
        if self._snapshots is not None and row.table in self._relations.watched:
            self._snapshots.touched(row.table, record_keys(records))
        used = len(row.keys())
        if row.missing():
            half = OpenTransaction(self._begin.xid, self._begin.final_lsn, ordinal + 1, lsn, change_ordinal)
            row.position = self._at(version + used, half)
        return used

    # -- the snapshot --------------------------------------------------------------------------------------------------

    def _watch(self, tables: Collection[str]) -> None:
        assert self._snapshots is not None
        self._relations.watch(tables, self._snapshots.touched)

    def _schema(self, table: CatalogTable) -> TableSchema:
        columns = [(column.name, column.type_oid, column.type_modifier) for column in table.columns]
        return self._relations.schema(table, columns)

    def _compiled(self, chunk: PostgresChunk, schema: TableSchema) -> CompiledRead:  # noqa: ARG002 - as others need it
        return self._schemas.read(schema)

    def _reading(self, chunk: PostgresChunk) -> TransactionParts:
        return self._envelope.reading(chunk.read_at, time.time_ns())

    def _changed(self, chunk: PostgresChunk, schema: TableSchema) -> str:
        return self._relations.changed(chunk.table, schema)

    # -- position and feedback -----------------------------------------------------------------------------------------

    def position(self) -> Callable[[], bytes] | None:
        """See :class:`cdc.capture.Stream`. Movement past WAL that is not ours is stored once a second only."""
        if self._rest:
            if self._rest_from is None:
                return None
            self._taken, self._rest_from = self._rest_from, None
            return self._taken.encode
        now = time.monotonic()
        if not self._dirty and not (self._moved and now - self._position_at > MOVED_SECONDS):
            return None
        half = self._resumption.half_stored(self._skip)
        if half is None and self._resumption.over and self._in_transaction and self._rows:
            lsn = int.from_bytes(self._change_lsn, "big")
            half = OpenTransaction(self._begin.xid, self._begin.final_lsn, self._rows, lsn, self._change_ordinal)
        self._taken = self._at(self._version, half)
        self._dirty = self._moved = False
        self._goal_taken = self._goal_seen
        self._position_at = now
        return self._taken.encode

    def _at(self, version: int, half: OpenTransaction | None) -> Position:
        return msgspec.structs.replace(
            self._stored,
            sequence=version & (1 << SEQUENCE_BITS) - 1,
            anchor=self._anchor,
            commit_lsn=self._commit_lsn,
            open=half,
            snapshots=dict(self._plan),
            schemas=self._schemas.last,
            request=self._request,
        )

    def stored(self) -> None:
        """The position taken last is durable: the server may discard what lies before its anchor."""
        self._stored = self._taken
        self._control.done = self._stored.request
        self._goal_stored = self._goal_taken
        if self._anchor is not None and self._stored.anchor is not None:
            self._feedback.acknowledged = self._stored.anchor.commit_lsn

    def _server_keepalive(self, frame: bytes) -> None:
        keepalive = pgoutput.decode_frame(frame)
        assert isinstance(keepalive, pgoutput.Keepalive)
        self._feedback.received = max(self._feedback.received, keepalive.end)
        self._resumption.passed(keepalive.end)
        if keepalive.reply_requested:
            self._feedback.asked()

    def keepalive(self) -> None:
        """Feedback, when it is due."""
        self._feedback.keepalive()

    def attend(self) -> None:
        """Feedback, heartbeat, the snapshot's next step, requests: each when it is due."""
        self.keepalive()
        now = time.monotonic()
        if not self._resumption.over or self._snapshots is None or self._ready is not None or not self.splittable:
            return
        self._attend_snapshots()
        behind = self._feedback.received - (self._anchor.end_lsn if self._anchor is not None else 0)
        if now - self._anchored_at > HEARTBEAT_SECONDS and behind > IDLE_WAL_BYTES:
            self._anchored_at = now
            self._tables.emit(self._stored.nonce)
        if self._control.until_caught_up and self._goal is None and self._nothing_asked():
            self._goal = uuid.uuid4().hex
            self._tables.emit(self._goal)

    def caught_up(self) -> bool:
        """See :class:`cdc.capture.Stream`."""
        return self._goal_stored and self._nothing_asked()

    def report(self) -> None:
        """Tell state, position and snapshot."""
        committed_at = self._anchor.commit_time / 1_000_000 if self._anchor is not None else None
        self._report(format_lsn(self._commit_lsn), committed_at)

    def _open_connection(self) -> ReplicationConnection:
        if self._connection is None:
            raise AssertionError("the stream was not started")
        return self._connection
