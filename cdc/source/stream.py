"""What the streams of databases have in common: items, chunks on their way to the log, requests, report."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, cast

import structlog

from cdc.capture import Item, Marker, Stream
from cdc.compile import CompiledRead
from cdc.formats.envelope import TransactionParts
from cdc.log import Produced
from cdc.progress import SnapshotProgress
from cdc.record import SWEEP_KEY, marker_header
from cdc.source.incomplete import Incomplete, Reselect
from cdc.source.plan import TableSnapshot
from cdc.source.schemas import Schemas
from cdc.source.snapshot import C, Snapshots
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

    def __init__(self, name: str, tables: SourceTables[Any], control: Control) -> None:
        self._name = name
        self._captured = tables
        self._control = control
        self.incomplete = False
        self.more = False
        self.splittable = True
        self._items: list[Item] = []
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
    def _described(self, chunk: C) -> tuple[TableSchema, CompiledRead]:
        """The schema of the rows that were read, and the function that renders them."""

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
        return [item for item in self._items if item != []]

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
        runs = [cast(list[Produced | Incomplete], item) for item in self._items if isinstance(item, list)]
        assert self._reselect is not None
        if not self._reselect.fill(runs):
            self._control.wait(FILL_SECONDS)
            return False
        self.incomplete = False
        return True

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
        schema, compiled = self._described(chunk)
        resync = self._changed(chunk, schema) if not start else ""
        if resync and self._plan[name].rows:
            log.warning("table is read from its beginning: DDL changed its rows", table=name, why=resync)
            self._schedule(name)
            self._emitting, self.splittable = None, True
            return []
        if self._schemas.first_use(schema):
            self._put(schema)
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
        self._progress.read(name, progress.rows, chunk.table_rows)
        if not progress.ranges:
            del self._plan[name]
            self._progress.done(name, progress.rows)
            if progress.since is not None:
                self._mark(schema.topic, SWEEP_KEY, marker_header(b"s", progress.since))
        return self._taken_items()

    # -- requests and report -------------------------------------------------------------------------------------------

    def _attend_snapshots(self) -> None:
        """Begin the chunks that are due, and take up what the operator asked for."""
        assert self._snapshots is not None
        self._snapshots.poll(self._plan, self._captured.captured, self._run, behind=self.more)
        request = self._control.request
        if request is not None and request["id"] != self._request:
            self._read_again(request)

    def _read_again(self, request: Mapping[str, Any]) -> None:
        """``cdc snapshot`` asks for tables."""
        for name in request["tables"] or self._captured.captured:
            if name in self._captured.captured:
                self._schedule(name)
            else:
                log.error("a snapshot was asked for of a table that is not captured", table=name)
        self._request = request["id"]
        self._dirty = True

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
