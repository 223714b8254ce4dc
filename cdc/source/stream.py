"""What the streams of databases have in common: items, chunks on their way to the log, requests, report."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, cast

import msgspec
import structlog

from cdc.capture import Item, Marker, Stream
from cdc.compile import CompiledRead
from cdc.event import UNCHANGED, Operation
from cdc.formats.envelope import SourceBlock, TransactionParts, plain_records
from cdc.log import Produced
from cdc.progress import SnapshotProgress
from cdc.record import SWEEP_KEY, marker_header
from cdc.source.incomplete import Incomplete, Reselect
from cdc.source.plan import KeyRange, TableSnapshot
from cdc.source.schemas import Schemas
from cdc.source.snapshot import C, Keys, Snapshots
from cdc.source.tables import SourceTables
from cdc.worker import Control, State
from schemas.table import TableSchema

log = structlog.get_logger()

BATCH_BYTES: Final = 1 << 18
"""Bytes of the source's log decoded into one batch at most."""
CHUNK_SLICE_ROWS: Final = 2_000
"""Rows of a chunk per batch."""

FILL_SECONDS: Final = 0.02
"""How long to wait before a row that is not visible yet is read again."""


class DatabaseStream(Stream, Generic[C]):
    """See :class:`cdc.capture.Stream`. One life per connection: after an error it is closed and a new one made."""

    block: ClassVar[SourceBlock]
    """The envelope's ``source`` block."""

    def __init__(self, name: str, tables: SourceTables[Any], control: Control) -> None:
        self._name = name
        self._captured = tables
        self._control = control
        self.incomplete = False
        self.more = False
        self.splittable = True
        self._items: list[Item] = []
        # What `read` returned last; what of it did not fit into a portion, and the position before that.
        self._batch: list[Item] = []
        self._rest: list[Item] = []
        self._rest_from: Any = None
        self._append: Callable[[Produced], None]
        self._version = 0
        self._dirty = False
        self._request: str | None = None
        self._plan: dict[str, TableSnapshot] = {}
        self._schemas: Schemas
        self._reselect: Reselect | None = None
        # The chunk whose rows go to the log now. Marks of an earlier run, which may still come, are not ours.
        self._snapshots: Snapshots[C] | None = None
        self._run = uuid.uuid4().hex
        self._emitting: tuple[C, set[bytes], int] | None = None
        self._progress = SnapshotProgress()

    @abstractmethod
    def _schema(self, table: Any) -> TableSchema:
        """The schema of a table's rows as the catalogue has it."""

    @abstractmethod
    def _compiled(self, chunk: C, schema: TableSchema) -> CompiledRead:
        """The function that renders the rows that were read, which are of `schema`."""

    @abstractmethod
    def _reading(self, chunk: C) -> TransactionParts:
        """The envelope's parts for them."""

    @abstractmethod
    def _changed(self, chunk: C, schema: TableSchema) -> str:
        """Why the rows of the chunk's table that are on the log must be read again; empty when they need not be."""

    # -- items ---------------------------------------------------------------------------------------------------------

    def _new_run(self) -> None:
        """What follows is appended after everything so far."""
        run: list[Produced] = []
        self._items.append(run)
        self._append = run.append

    def _put(self, item: Item) -> None:
        """`item` comes next."""
        self._items.append(item)
        self._new_run()
        self._dirty = True

    def _mark(self, topic: str, key: bytes, header: bytes) -> None:
        self._put(Marker(topic, key, header))

    def _taken_items(self) -> Sequence[Item]:
        """What there is by now, without runs that nothing came into."""
        self._batch = [item for item in self._items if item != []]
        return self._batch

    # -- rows that lack values -----------------------------------------------------------------------------------------

    def _records(self, row: Incomplete, *, read: bool) -> Sequence[Produced]:
        """What comes into the run for `row`: its records; or itself, to be filled, if values are missing and `read`."""
        if not row.missing():
            return row.records()
        if read:
            self.incomplete = True
            return [cast(Produced, row)]
        self._broken(row.table, "a row changed without all its values")
        return row.records()

    def fill(self) -> bool:
        """See :class:`cdc.capture.Stream`."""
        assert self._reselect is not None
        filled = self._reselect.fill(self._batch)
        if filled is None:
            self._control.wait(FILL_SECONDS)
            return False
        self._batch[:], self._rest, self._rest_from = filled
        self._items = []  # nor are the rows kept there
        self._new_run()
        self.incomplete = False
        self.more = self.more or bool(self._rest)
        return True

    def _take_rest(self) -> Sequence[Item]:
        """What did not fit into the portion that was filled last; of that, another portion."""
        self._batch, self._rest = self._rest, []
        self.incomplete = True
        return self._batch

    # -- the snapshot --------------------------------------------------------------------------------------------------

    def _broken(self, table: str, why: str) -> None:
        if self._snapshots is not None:
            self._snapshots.broken(table, why)

    def _schedule(self, name: str) -> None:
        """Read a table again from its beginning; the number of the sweep that follows is drawn now."""
        self._plan[name] = TableSnapshot(self._version)
        self._version += 1
        self._dirty = True
        self._broken(name, "the table is read from its beginning")

    def _emit(self, ready: tuple[C, set[bytes]]) -> None:
        """The rows of a chunk come next, all of them in one append."""
        self._emitting = (*ready, 0)
        self.splittable = False

    def _emit_chunk(self) -> Sequence[Item]:
        """The next rows of the chunk that is due; after the last ones the progress, in one append."""
        assert self._emitting is not None
        chunk, skip, start = self._emitting
        self.more = True  # the next `read` tells
        name = chunk.table.full_name
        self._items = []
        self._new_run()
        schema = self._schema(chunk.table)
        compiled = self._compiled(chunk, schema)
        resync = self._changed(chunk, schema) if not start else ""
        if resync and self._plan[name].begun:
            log.warning("table is read from its beginning: DDL changed its rows", table=name, why=resync)
            self._schedule(name)
            self._emitting, self.splittable = None, True
            return []
        gone = self._gone(chunk, compiled, skip) if not start else {}
        if gone is None:
            self._emitting, self.splittable = None, True
            return []
        if self._schemas.first_use(schema):
            self._put(schema)
        self._delete(chunk, schema, gone)
        end = start + CHUNK_SLICE_ROWS
        lines = chunk.lines[start:end]
        self._version = compiled.read(self._append, lines, self._reading(chunk), self._version, skip)
        self._dirty = True
        if end < len(chunk.lines):
            self._emitting = (chunk, skip, end)
            return self._taken_items()
        self._emitting = None
        self.splittable = True
        progress = self._plan[name] = self._plan[name].advanced(chunk.range, chunk.rest, len(chunk.lines))
        self._progress.read(name, progress.rows, chunk.table_rows if chunk.keys is None else None)
        if not progress.ranges:
            del self._plan[name]
            self._progress.done(name, progress.rows)
            if progress.since is not None:
                self._mark(schema.topic, SWEEP_KEY, marker_header(b"s", progress.since))
        return self._taken_items()

    def _gone(self, chunk: C, compiled: CompiledRead, touched: Collection[bytes]) -> Keys | None:
        """The listed keys that no row has and the stream did not touch; None: the chunk is to be read again.

        A row may be equal to a listed key but for its bytes. Its record comes after the key's delete, or a store where
        they are equal as well would lose it; which can't be if the stream has had it before.
        """
        if chunk.keys is None:
            return {}
        rows: list[Produced] = []
        compiled.read(rows.append, chunk.lines, self._reading(chunk), 0, frozenset())
        found = {row.key for row in rows}
        if any(key in touched for key in found - chunk.keys.keys()):
            return None
        return {key: values for key, values in chunk.keys.items() if key not in found and key not in touched}

    def _delete(self, chunk: C, schema: TableSchema, keys: Keys) -> None:
        """The source has no such rows any more."""
        reading, not_null = self._reading(chunk), chunk.table.not_null
        for values in keys.values():
            row = [values.get(column.name, UNCHANGED) for column in schema.columns]
            records = plain_records(
                schema, Operation.DELETE, row, None, reading, None, self._version, 0, not_null, self.block
            )
            for record in records:
                self._append(record)
            self._version += 1

    # -- requests and report -------------------------------------------------------------------------------------------

    def _attend_snapshots(self) -> None:
        """Begin the chunks that are due, and take up what the operator asked for."""
        assert self._snapshots is not None
        self._snapshots.poll(self._plan, self._captured.captured, self._run, behind=self.more)
        request = self._control.request
        if request is not None and request["id"] != self._request and not ("keys" in request and self._has_list()):
            self._read_again(request)

    def _has_list(self) -> bool:
        """Whether listed keys are still to be read: one list at a time, which is stored with each position."""
        return any(one.keys is not None for progress in self._plan.values() for one in progress.ranges)

    def _read_again(self, request: Mapping[str, Any]) -> None:
        """``cdc snapshot`` asks for tables, or for listed keys of one."""
        for name in request["tables"] or self._captured.captured:
            if name not in self._captured.captured:
                log.error("a snapshot was asked for of a table that is not captured", table=name)
            elif "keys" in request:
                progress = self._plan.get(name, TableSnapshot(None, []))
                ranges = [KeyRange(keys=request["keys"]), *progress.ranges]
                self._plan[name] = msgspec.structs.replace(progress, ranges=ranges)
            else:
                self._schedule(name)
        self._request = request["id"]
        self._dirty = True

    def _nothing_asked(self) -> bool:
        """All that was asked for has been read."""
        return not self._plan and self._control.looked and self._control.request is None

    def _report(self, position: str, committed_at: float | None) -> None:
        """Tell state, position (printable), the last commit's time (seconds since 1970), and the snapshots."""
        state = State.SNAPSHOT if self._plan else State.STREAMING
        assert self._snapshots is not None
        waiting_for = self._snapshots.waiting_for
        progress = {
            "position": position,
            "committed_at": committed_at,
            "snapshots": {name: self._progress.of(name, table.rows) for name, table in self._plan.items()},
            "waiting_for": waiting_for,
        }
        self._progress.waits(waiting_for)
        self._control.report(state, progress=progress)
