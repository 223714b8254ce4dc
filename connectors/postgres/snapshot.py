"""What orders a chunk's read against the stream: the marks in the WAL, and the reader's own database snapshot.

A transaction is in the stream before it is visible, for an instant always and for ever under a lost synchronous
standby; so marks in the WAL alone do not order a read against the stream. What orders them is the reader's own
database snapshot (design, "Snapshot"):

- A chunk is discarded when a transaction that its snapshot does not see was streamed before the low mark: its rows
  would be older than what the log has.
- Rows whose key was touched between the marks are dropped.
- No chunk is read until each transaction that ran when the tracking of streamed transactions began has ended: it may
  have been streamed before that moment, and nobody remembers. (One that is streamed while we wait ends, too.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from cdc.errors import TransientError
from cdc.source.config import SnapshotConfig
from cdc.source.plan import KeyRange, TableSnapshot
from cdc.source.snapshot import Snapshots
from connectors.postgres.catalogue import CatalogTable
from connectors.postgres.chunk import ChunkReader, PostgresChunk
from connectors.postgres.visibility import DatabaseSnapshot
from schemas.table import TableSchema


class PostgresSnapshots(Snapshots[PostgresChunk]):
    """See :class:`cdc.source.snapshot.Snapshots`.

    `current` asks the database for ``pg_current_snapshot()``, `begun` for one that lacks nothing begun by then.
    """

    def __init__(
        self,
        config: SnapshotConfig,
        reader: ChunkReader,
        current: Callable[[], DatabaseSnapshot],
        begun: Callable[[], DatabaseSnapshot],
        active: Callable[[], int],
        watch: Callable[[Collection[str]], None],
        schema: Callable[[CatalogTable], TableSchema],
    ) -> None:
        super().__init__(config, reader, active, watch, schema)
        self._current = current
        self._begun_snapshot = begun
        self._tracking: DatabaseSnapshot | None = None
        self._streamed: set[int] = set()
        self._before: dict[str, frozenset[int]] = {}
        """By chunk whose low mark has come through the stream: the transactions (32-bit ids) that were streamed before
        it, as far as they may still be invisible."""

    def _idle(self) -> None:
        super()._idle()
        self._tracking = None
        self._streamed.clear()
        self._before.clear()

    def _chunk(self, table: CatalogTable, range_: KeyRange, limit: int, id_: str) -> PostgresChunk:
        return PostgresChunk(table, range_, limit, id_)

    def _may_read(self, progress: TableSnapshot) -> str:
        """Every transaction waited for must have ended. What is visible once is so to every later snapshot."""
        if self._tracking is None:
            self._tracking = self._begun_snapshot()
        current = self._current()
        self._streamed = {xid for xid in self._streamed if not current.sees(xid)}
        waited_for = set(self._tracking.running) | {current.full_xid(xid) for xid in self._streamed}
        if progress.fence is not None:
            waited_for |= DatabaseSnapshot.parse(progress.fence).running
        pending = [xid for xid in sorted(waited_for) if not current.ended(xid)]
        return f"transactions {pending[:5]} to end" if pending else ""

    def streamed(self, xid: int) -> None:
        """A transaction with row changes is being streamed."""
        if self._tracking is not None:
            self._streamed.add(xid)

    def mark(self, chunk_id: str, which: str) -> tuple[PostgresChunk, set[bytes]] | None:
        """A mark came through the stream. At the high mark of a good chunk: the chunk, and the keys to drop from it."""
        reading = self._readings.get(chunk_id)
        if reading is None:
            return None
        if which == "low":
            self._before[chunk_id] = frozenset(self._streamed)
            reading.watched = True
            self._watch_tables()
            return None
        before, snapshot = self._before.pop(chunk_id, None), reading.chunk.snapshot
        if before is None or snapshot is None:
            raise TransientError(f"a chunk of {reading.table} has a high mark without a low mark")
        unseen = any(not snapshot.sees(xid) for xid in before)
        why = "a transaction that is in the stream already was not visible to the read" if unseen else ""
        return self._passed(reading, why)
