"""The stream of MySQL and MariaDB: binlog events in, records out, with the position that belongs to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

import msgspec
import structlog

from cdc.capture import Decided, Item, Prepared
from cdc.compile import CompiledRead
from cdc.errors import DecodeError, TransientError
from cdc.event import SEQUENCE_BITS
from cdc.formats.envelope import TransactionParts
from cdc.log import Log, Produced
from cdc.record import TRUNCATE_KEY, marker_header
from cdc.source.incomplete import Incomplete, record_keys
from cdc.source.plan import gap
from cdc.source.schemas import Schemas
from cdc.source.stream import BATCH_BYTES, DatabaseStream
from cdc.worker import Control
from connectors.mysql import statement as sql
from connectors.mysql.catalogue import CatalogTable
from connectors.mysql.chunk import ChunkReader, MysqlChunk
from connectors.mysql.config import MysqlConfig
from connectors.mysql.consequences import consequences
from connectors.mysql.dump import DumpConnection
from connectors.mysql.envelope import BLOCK, BinlogEnvelope, event_place
from connectors.mysql.events import (
    BinlogEvent,
    GtidEvent,
    Header,
    MariadbGtidEvent,
    Query,
    Rows,
    XaId,
    XaPrepare,
    Xid,
)
from connectors.mysql.gtid import MariadbPosition
from connectors.mysql.history import binlog_end, check_continuity, identity
from connectors.mysql.position import (
    Anchor,
    AnyGtid,
    BinlogPlace,
    Executed,
    OpenTransaction,
    Position,
    added,
    decode_position,
    parse_executed,
)
from connectors.mysql.prepared import pack, transaction_name, unpack
from connectors.mysql.reader import EventReader
from connectors.mysql.records import KnownTable
from connectors.mysql.relations import Relations
from connectors.mysql.reselect import Reselect
from connectors.mysql.resume import WHOLE, Resumption
from connectors.mysql.select import compile_select
from connectors.mysql.snapshot import MysqlSnapshots
from connectors.mysql.statements import read_statement
from connectors.mysql.tablemap import TableMap
from connectors.mysql.tables import Tables
from schemas.table import TableSchema

log = structlog.get_logger()

ANCHOR_EVENTS: Final = 100
"""A transaction of more rows events is no anchor: the server would have to send it again at every reconnect."""
MOVED_SECONDS: Final = 1.0
"""How often a position is stored that only moved past transactions which are not ours."""
CHUNK_WAIT_SECONDS: Final = 0.01
"""How long to wait for the server while a chunk is being read, which ends without an event."""
LOCK_SECONDS: Final = 5
"""How long to wait for a reader that is gone, which the server may not have noticed yet."""


class MysqlStream(DatabaseStream[MysqlChunk]):
    """See :class:`cdc.capture.Stream`. One life per connection: after an error it is closed and a new one made."""

    block = BLOCK

    def __init__(self, name: str, config: MysqlConfig, tables: Tables, log_: Log, control: Control, lock: str) -> None:
        """`lock`: the name of the lock at the server that a source's only reader holds."""
        super().__init__(name, tables, control)
        self._config = config
        self._tables = tables
        self._log = log_
        self._lock = lock
        self._connection: DumpConnection | None = None
        self._snapshots: MysqlSnapshots | None = None
        self._reselect: Reselect | None = None
        # Where we are in the binlog.
        self._maps: dict[int, TableMap] = {}
        self._known: dict[str, KnownTable] = {}
        self._explained: set[str] = set()
        self._watched: Collection[str] = ()
        self._in_transaction = False
        self._gtid: AnyGtid
        self._time = self._commit_time = 0
        self._standalone = self._without_effect = False
        self._thread_id = self._origin = 0
        self._transaction: TransactionParts | None = None
        self._events = self._ordinal = self._skip = 0
        self._left = 0
        """Bytes that may still come into the batch, those that are to be read of incomplete rows among them."""
        self._incomplete_place = BinlogPlace()
        self._began: tuple[int, int] | None = None
        """Where the transaction began: items before it, and the version; None: in an earlier batch or life."""
        self._written: set[str] = set()
        """Tables that the transaction has written to."""
        self._moved = False
        self._position_at = 0.0
        # Prepared transactions: the one that is being streamed, those of the open append, the one that is published.
        self._preparing: str | None = None
        self._kept: set[str] = set()
        self._kept_taken: set[str] = set()
        self._publishing: tuple[str, Iterator[bytes] | None] | None = None
        self._goal: BinlogPlace | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Check what can be checked before the source is ours, take its lock, and ask for its binlog."""
        stored = self._log.positions().get(self._name)
        if stored is None:
            raise TransientError("the position of this source can't be read from the log yet", hint="it is tried again")
        position = decode_position(stored)
        self._tables.refresh()
        connection = self._connection = DumpConnection(self._tables.address, self._config.server_id)
        [(locked,)] = connection.query("SELECT GET_LOCK(%s, %s)", self._lock, LOCK_SECONDS)
        if locked != 1:
            raise TransientError(
                f"another process captures source {self._name} from this server",
                hint=f"run each source once only; SELECT IS_USED_LOCK('{self._lock}'); tells its connection",
            )
        self._continuation = check_continuity(connection.query, connection.server, position)
        connection.start(self._continuation.start)
        self._reader = EventReader(connection, BinlogPlace() if self._continuation.moved else position.place)

    def resume(self, position: bytes | None) -> None:
        """Take the fenced position; what must come first is its anchor."""
        if position is None:
            raise gap("the position of this source vanished from the log")
        stored = decode_position(position)
        server = self._open_connection().server
        self._stored = self._tables.reconcile(self._in_new_epoch(stored) if self._continuation.moved else stored)
        self._resumption = Resumption(self._stored, self._continuation)
        self._dirty = self._stored != stored
        self._version = self._stored.epoch << SEQUENCE_BITS | self._stored.sequence
        self._executed = self._stored_executed = parse_executed(self._stored.executed, mariadb=server.mariadb)
        self._anchor, self._commit_time = self._stored.anchor, self._stored.committed_at
        self._end_place = self._stored.place
        self._plan, self._request = dict(self._stored.snapshots), self._stored.request
        self._control.done = self._request
        self._envelope = BinlogEnvelope("mariadb" if server.mariadb else "mysql", self._name)
        self._schemas = Schemas(self._log.schemas(), self._stored.schemas, compile_select)
        self._explained = set(self._stored.explained)
        self._relations = Relations(self._tables)
        self._reselect = Reselect(self._tables.address, server, self._incomplete)
        self._snapshots = MysqlSnapshots(
            self._config.snapshot,
            ChunkReader(self._tables.address, server, self._config.snapshot),
            lambda: self._executed,
            self._tables.active_sessions,
            self._watch,
            self._schema,
        )

    def _in_new_epoch(self, stored: Position) -> Position:
        """Another server has taken over: what it does may differ from what the old one would have done."""
        epoch = self._log.next_epoch(at_least=stored.epoch + 1)
        server = identity(self._open_connection().server)
        log.warning("another server of the topology is read from now on", source=self._name, server=server, epoch=epoch)
        # It cuts a transaction into other events: one that is on the log in part comes again as a whole.
        half = msgspec.structs.replace(stored.open, events=0) if stored.open is not None else None
        return msgspec.structs.replace(stored, epoch=epoch, sequence=1, server=server, place=BinlogPlace(), open=half)

    def close(self) -> None:
        """Let go of the source at once."""
        if self._connection is not None:
            self._connection.close()
            self._tables.end(self._connection.thread_id)
        if self._snapshots is not None:
            self._snapshots.close()
        if self._reselect is not None:
            self._reselect.close()
        self._tables.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, seconds: float) -> Sequence[Item]:
        """Decode what is there. A row costs one turn of a generated loop, all else is per event."""
        if self._emitting is not None:
            return self._emit_chunk()
        self._items = []
        self._began = None
        self._new_run()
        self._left = BATCH_BYTES
        self._publish()
        while self._left > 0 and self._emitting is None and self._publishing is None:
            found = self._reader.read()
            if found is None:
                self._pass()
                if self._emitting is not None or not self._wait(0.0 if self._left < BATCH_BYTES else seconds):
                    break
                continue
            header, event, end = found
            self._left -= header.size
            self._take(header, event, end)
        # A transaction whose rows this append keeps can be published after its commit.
        self.more = self._left <= 0 or self._emitting is not None or (self._publishing is not None and not self._kept)
        items = self._taken_items()
        self._dirty = self._dirty or bool(items)
        return items

    def _wait(self, seconds: float) -> bool:
        return self._open_connection().wait(min(seconds, CHUNK_WAIT_SECONDS) if self._plan else seconds)

    def _take(self, header: Header, event: BinlogEvent, end: int) -> None:
        match event:
            case Rows():
                self._rows(event, end)
            case TableMap():
                self._maps[event.table_id] = event
            case GtidEvent():
                if event.gtid is None:
                    raise gap(
                        "a transaction has no GTID: nothing tells where it belongs",
                        "SET GLOBAL gtid_mode = ON; and the same in my.cnf; then ",
                    )
                self._begin(event.gtid, event.original_commit_time, event.immediate_commit_time, header)
            case MariadbGtidEvent():
                time_ = header.timestamp * 1_000_000
                self._begin(event.gtid, time_, time_, header)
                self._standalone, self._thread_id = event.standalone, event.thread_id
                self._without_effect = event.without_effect
                if event.prepared and event.xa is not None:
                    self._prepare(event.xa)
            case Query():
                self._query(event)
            case XaPrepare(one_phase=True) if self._skip < WHOLE >> 1:
                self._publishing = (transaction_name(event.xa), None)
            case Xid() | XaPrepare():
                self._end()
            case _:
                self._pass()

    def _begin(self, gtid: AnyGtid, original: int, immediate: int, header: Header) -> None:
        self._in_transaction = self._standalone = True  # on MySQL until BEGIN comes
        self._gtid, self._time, self._origin, self._thread_id = gtid, original, header.server_id, 0
        self._maps = {}  # a transaction describes its tables anew, by numbers that never come back
        self._new_run()
        self._immediate = immediate
        self._transaction, self._preparing = None, None
        self._events = self._ordinal = 0
        self._written = set()
        self._skip = self._resumption.begun(gtid, original)
        self._began = None if self._skip else (len(self._items), self._version)

    def _end(self) -> None:
        self._in_transaction = False
        left, self._skip = self._skip, 0
        self._preparing = None
        if self._resumption.committed(left):
            return
        before, self._executed = self._executed, added(self._executed, self._gtid)
        self._commit_time, self._end_place = self._immediate, self._reader.place
        if self._events <= ANCHOR_EVENTS:
            # MySQL's set is the present one without this transaction; to print it each time would cost too much.
            self._anchor = Anchor(
                str(self._gtid), self._time, str(before) if isinstance(before, MariadbPosition) else ""
            )
        self._moved = True
        self._dirty = self._dirty or bool(self._written)
        self._pass()

    def _pass(self) -> None:
        """Between two transactions a chunk may be due."""
        if not self._in_transaction and self._snapshots is not None and self._emitting is None:
            ready = self._snapshots.passed(self._reader.place, self._executed)
            if ready is not None:
                self._emit(ready)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _rows(self, rows: Rows, end: int) -> None:
        self._events += 1
        on_log = self._skip > 0
        self._skip -= on_log
        if self._skip >= WHOLE >> 1:  # a whole transaction, of which nothing is needed
            return
        map_ = self._maps.get(rows.table_id)
        if map_ is None:
            raise DecodeError(f"rows of a table {rows.table_id} that was not described")
        known = self._relations.known(map_)
        if known is None:
            return
        self._written.add(known.name)
        if on_log:
            return
        if unsent := known.unsent_key(rows):
            raise gap(
                f"rows of {known.name} were inserted without a value for {', '.join(unsent)} of the key, under "
                "binlog_row_image = MINIMAL: nothing tells which rows they are",
                "SET GLOBAL binlog_row_image = FULL; and the same in my.cnf and in sessions that set it; then ",
            )
        if self._preparing is not None:
            self._keep(pack(map_, rows, end))
        else:
            self._produce(known, rows, end)

    def _produce(self, known: KnownTable, rows: Rows, end: int) -> None:
        if self._known.get(known.name) is not known:
            self._describe(known)
        if self._transaction is None:
            file = self._reader.place.file
            ids = (self._origin, self._thread_id, str(self._gtid), file)
            self._transaction = self._envelope.transaction(self._immediate, *ids, time.time_ns())
        place = event_place(end)
        if known.name not in self._watched:
            self._version, self._ordinal = known.produce(
                self._append, rows, self._transaction, place, self._version, self._ordinal, self._unusual
            )
            return
        records: list[Produced] = []
        self._version, self._ordinal = known.produce(
            records.append, rows, self._transaction, place, self._version, self._ordinal, self._unusual
        )
        assert self._snapshots is not None
        self._snapshots.touched(known.name, record_keys(records))
        for record in records:
            self._append(record)

    def _unusual(self, row: Incomplete) -> Sequence[Produced]:
        """What comes into the run for a row that the generated functions did not take."""
        if missing := row.missing():
            if self._open_connection().server.mariadb:
                # It leaves out what REPLACE sets to the default, where that is an update.
                row.unknown = missing
            self._incomplete_place = self._reader.place
            self._left -= self._tables.captured[row.table].row_bytes
        return self._records(row, read=bool(row.unknown) or self._config.missing == "reselect")

    def _incomplete(self) -> tuple[Executed, BinlogPlace]:
        """What incomplete rows belong to: all that was streamed, with the transaction that is being streamed."""
        executed = added(self._executed, self._gtid) if self._in_transaction else self._executed
        return executed, self._incomplete_place

    def _describe(self, known: KnownTable) -> None:
        """Rows of a table come as they did not come before."""
        changed = self._schemas.changed(known.name, known.schema)
        resync = self._resync(known.name, known.schema)
        self._known[known.name] = known
        if changed:
            self._broken(known.name, "its definition changed")
        if self._schemas.first_use(known.schema):
            self._put(known.schema)
        if resync:
            log.warning("table is read again: DDL changed its rows", table=known.name, why=resync)
            self._schedule(known.name)
            self._began = None  # the number of its sweep can't be taken back
        self._explained.discard(known.name)

    def _resync(self, name: str, schema: TableSchema) -> str:
        """Why rows of `schema` mean that the table must be read again, unless a statement has told what it does."""
        back = self._schemas.comes_back(name, schema)
        changed = self._schemas.seen(name, schema, lambda _: True)
        return back or ("" if name in self._explained else changed)

    # -- statements ----------------------------------------------------------------------------------------------------

    def _query(self, query: Query) -> None:
        """What is no row: where transactions begin and end, and DDL."""
        mariadb = self._open_connection().server.mariadb
        statement = read_statement(query.sql, query.schema, query.sql_mode, mariadb=mariadb)
        if query.thread_id:
            self._thread_id = query.thread_id
        match statement:
            case sql.Begin():
                self._standalone = False
                return
            case sql.Xa("START", xa):
                self._standalone = False
                self._prepare(xa)
                return
            case sql.Savepoint() | sql.Xa("END" | "PREPARE", _):
                return
            case sql.Commit():
                self._end()
                return
            case sql.Rollback():
                self._undone()
                self._end()
                return
        if not self._skip or (isinstance(statement, sql.Xa) and self._skip < WHOLE >> 1):
            self._apply(statement)
        if self._standalone and self._publishing is None:
            self._end()

    def _apply(self, statement: sql.Statement) -> None:
        match statement:
            case sql.Xa("COMMIT", xa):
                self._publishing = (transaction_name(xa), None)
            case sql.Xa("ROLLBACK", xa):
                self._put(Decided(transaction_name(xa)))
            case sql.RollbackTo():
                self._undone_in_part()
            case sql.RowsWithoutEvents(kind):
                raise gap(
                    f"{kind} changed rows with binlog_format = STATEMENT or MIXED: the binlog does not tell which",
                    "SET GLOBAL binlog_format = ROW; and the same in my.cnf and in sessions that set it; then ",
                )
            case sql.Ddl(effects) if not self._without_effect:
                self._ddl(effects)
            case sql.Unknown() if not self._without_effect:
                self._look_again()

    def _ddl(self, effects: Sequence[sql.Effect]) -> None:
        found = consequences(effects, self._tables.captured)
        if found.changed:
            self._relations.forget()
            self._dirty = True
        for name in found.changed:
            self._explained.add(name)
            self._broken(name, "its definition changed")
            table = self._tables.look_again(name)
            if table is not None and (why := self._schemas.comes_back(name, self._relations.schema(table))):
                found.resync.setdefault(name, why)
        for name in found.emptied:
            table = self._tables.captured[name]
            self._mark(self._tables.topic(table.schema, table.name), TRUNCATE_KEY, marker_header(b"t", self._version))
            self._version += 1
            self._broken(name, "it was truncated")
            if name in self._plan and self._tables.look_again(name) is None:
                # Should it be made anew, all its rows come through the stream.
                log.warning("the snapshot of a table ends: it was dropped or renamed", table=name)
                del self._plan[name]
        for name, why in found.resync.items():
            log.warning("table is read again: DDL changed its rows", table=name, why=why)
            self._schedule(name)

    def _look_again(self) -> None:
        """A statement that is not understood: compare each table's definition with that of the rows on the log."""
        self._relations.forget()
        for name in self._tables.captured:
            table = self._tables.look_again(name)
            known = self._schemas.last.get(name)
            if table is not None and known is not None and self._relations.schema(table).id.hex() != known:
                log.warning("table is read again: a statement that is not understood changed it", table=name)
                self._explained.add(name)
                self._schedule(name)

    def _undone(self) -> None:
        """The transaction is rolled back although its rows are in the binlog (MariaDB, where a table without
        transactions was changed too)."""
        if self._skip or not self._written:
            return
        if self._began is None:
            self._undone_in_part()
            return
        first, self._version = self._began
        undone, self._items = self._items[first:], self._items[:first]
        self._items += [item for item in undone if isinstance(item, TableSchema)]
        self._new_run()
        for name in self._written:
            self._broken(name, "rows were rolled back that are in the binlog")  # or what was read of them is dropped

    def _undone_in_part(self) -> None:
        if self._skip:
            return
        if self._preparing is not None:
            self._keep(b"")
            return
        for name in self._written:
            log.warning("table is read again: rows were rolled back that are in the binlog", table=name)
            self._schedule(name)

    # -- prepared transactions -----------------------------------------------------------------------------------------

    def _prepare(self, xa: XaId) -> None:
        """The rows that follow count when `xa` is committed."""
        self._preparing = name = transaction_name(xa)
        if not self._skip:
            # Also without any row of ours: it is known then that none is missing.
            self._items.append(Decided(name))
            self._keep(b"")
            self._new_run()

    def _keep(self, part: bytes) -> None:
        """A part of the transaction that is being prepared; empty: its beginning, and each ROLLBACK TO SAVEPOINT."""
        assert self._preparing is not None
        self._items.append(Prepared(self._preparing, part))
        self._kept.add(self._preparing)

    def _publish(self) -> None:
        """The rows of a prepared transaction that is committed, as far as they fit."""
        if self._publishing is None or self._kept:
            return
        name, parts = self._publishing
        if parts is None:
            parts = self._log.prepared_parts(self._name, name)
            if next(parts, None) is None:
                log.warning("tables are read again: a transaction was prepared before anything was captured", xa=name)
                for table in self._tables.captured:
                    self._schedule(table)
            self._publishing = (name, parts)
        while self._left > 0:
            part = next(parts, None)
            if part is None:
                self._put(Decided(name))
                self._publishing = None
                self._end()
                break
            if not part:
                self._undone_in_part()
                continue
            self._left -= len(part)
            self._events += 1
            on_log = self._skip > 0
            self._skip -= on_log
            map_, rows, end = unpack(part)
            known = self._relations.known(map_)
            if known is not None:
                self._written.add(known.name)
                if not on_log:
                    self._produce(known, rows, end)

    # -- the snapshot --------------------------------------------------------------------------------------------------

    def _watch(self, tables: Collection[str]) -> None:
        self._watched = set(tables)

    def _schema(self, table: CatalogTable) -> TableSchema:
        return self._relations.schema(table)

    def _compiled(self, chunk: MysqlChunk, schema: TableSchema) -> CompiledRead:
        return self._schemas.read(schema, chunk.table)

    def _reading(self, chunk: MysqlChunk) -> TransactionParts:
        return self._envelope.reading(chunk.read_at, time.time_ns())

    def _changed(self, chunk: MysqlChunk, schema: TableSchema) -> str:
        return self._resync(chunk.table.full_name, schema)

    # -- position ------------------------------------------------------------------------------------------------------

    def position(self) -> Callable[[], bytes] | None:
        """See :class:`cdc.capture.Stream`. Movement past what is not ours is stored once a second only."""
        now = time.monotonic()
        soon = self._control.until_caught_up or now - self._position_at > MOVED_SECONDS
        if not self._dirty and not (self._moved and soon):
            return None
        half = self._resumption.half_stored(self._skip)
        if half is None and self._resumption.over and self._in_transaction and self._events:
            half = OpenTransaction(str(self._gtid), self._events)
        self._taken = msgspec.structs.replace(
            self._stored,
            sequence=self._version & (1 << SEQUENCE_BITS) - 1,
            anchor=self._anchor,
            place=self._end_place,
            committed_at=self._commit_time,
            open=half,
            snapshots=dict(self._plan),
            schemas=self._schemas.last,
            explained=sorted(self._explained),
            request=self._request,
        )
        self._taken_executed = executed = self._executed
        self._kept_taken = set(self._kept)
        self._dirty = self._moved = False
        self._position_at = now
        taken = self._taken
        return lambda: msgspec.structs.replace(taken, executed=str(executed)).encode()

    def stored(self) -> None:
        """The position taken last is durable."""
        self._stored, self._stored_executed = self._taken, self._taken_executed
        self._control.done = self._stored.request
        self._kept -= self._kept_taken

    def keepalive(self) -> None:
        """The server needs none: it waits as long as a reader does not read, up to its net_write_timeout."""

    def attend(self) -> None:
        """The snapshot's next step, requests."""
        # A transaction that is on the log in part is not among those that a chunk's read is known to see.
        half = self._resumption.half_stored(self._skip)
        if self._in_transaction or not self.splittable or half is not None:
            return
        self._attend_snapshots()
        if self._control.until_caught_up and self._goal is None and self._nothing_asked():
            self._goal = binlog_end(self._tables.rows, self._open_connection().server)

    def caught_up(self) -> bool:
        """See :class:`cdc.capture.Stream`."""
        return (
            self._goal is not None
            and self._reader.place >= self._goal
            and self._nothing_asked()
            and not self._in_transaction
            and not self._dirty
            and self._stored_executed == self._executed
        )

    def report(self) -> None:
        """Tell state, position and snapshot."""
        committed_at = self._commit_time / 1_000_000 if self._commit_time else None
        self._report(f"{self._executed} ({self._reader.place})", committed_at)

    def _open_connection(self) -> DumpConnection:
        if self._connection is None:
            raise AssertionError("the stream was not started")
        return self._connection
