"""The snapshot of tables while the stream runs: which chunk is next, and which of its rows may go to the log.

A transaction is in the stream before it is visible, for an instant always and for ever under a lost synchronous
standby; so marks in the WAL alone do not order a read against the stream. What orders them is the reader's own
database snapshot (design, "Snapshot"):

- A chunk is discarded when a transaction that its snapshot does not see was streamed before the low mark: its rows
  would be older than what the log has.
- Rows whose key was touched between the marks are dropped: the stream has something newer, or will not say more.
- No chunk is read until each transaction that ran when the tracking of streamed transactions began has ended: it may
  have been streamed before that moment, and nobody remembers. (One that is streamed while we wait ends, too.)

Several chunks are read side by side, of one table or of several; each has its own marks. A table's first chunk finds
out whether the rest is worth dividing; its ranges are then independent of each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from cdc.errors import TransientError
from connectors.postgres.catalogue import CatalogTable
from connectors.postgres.chunk import Chunk, ChunkReader, LockNotAvailable
from connectors.postgres.config import SnapshotConfig
from connectors.postgres.position import KeyRange, TableSnapshot
from connectors.postgres.visibility import DatabaseSnapshot

log = structlog.get_logger()

FIRST_CHUNK_ROWS: Final = 2_000
CHUNK_ROWS: Final = (200, 500_000)
RANGES_PER_READER: Final = 4
"""Into how many ranges a large table is divided: more than there are readers, so that they end at about one time."""
LOOK_EVERY_SECONDS: Final = 0.2
"""How often the database is asked whether what is waited for has come about."""


@dataclass
class Reading:
    """A chunk that is being read, and what the stream showed of its table meanwhile."""

    chunk: Chunk
    before: frozenset[int] | None = None
    """Transactions (32-bit ids) that were streamed before the low mark, as far as they may still be invisible; None
    until that mark has come through the stream."""
    touched: set[bytes] = field(default_factory=set)
    size: int = 0
    broken: str = ""
    """Why the chunk must be read again; empty when it need not."""

    @property
    def table(self) -> str:
        """``schema.table``."""
        return self.chunk.table.full_name


class Snapshots:
    """Drives the chunks. Called by the stream only, in its thread.

    `current` asks the database for ``pg_current_snapshot()``, `begun` for one that lacks nothing begun by then,
    `active` for the number of sessions of others that run a statement. `watch` is called with the names of the tables
    that are read between their marks now, so that the stream watches the keys of those only.
    """

    def __init__(
        self,
        config: SnapshotConfig,
        reader: ChunkReader,
        current: Callable[[], DatabaseSnapshot],
        begun: Callable[[], DatabaseSnapshot],
        active: Callable[[], int],
        watch: Callable[[Collection[str]], None],
    ) -> None:
        self._config = config
        self._reader = reader
        self._current = current
        self._begun = begun
        self._active = active
        self._watch = watch
        self._tracking: DatabaseSnapshot | None = None
        self._streamed: set[int] = set()
        self._readings: dict[str, Reading] = {}
        self._rows: dict[str, int] = {}
        self._locked: dict[str, float] = {}
        self._number = 0
        self._look_at = 0.0
        self._late = False
        self.waiting_for = ""
        """What the next chunk waits for, for the operator; empty when it is being read."""

    def poll(
        self, plan: Mapping[str, TableSnapshot], tables: Mapping[str, CatalogTable], run: str, *, behind: bool
    ) -> None:
        """Begin the chunks that are due; `behind`: there is more to read of the stream now.

        Raises what a chunk's reader raised.
        """
        self._check_readers()
        if not plan and not self._readings:
            self._tracking, self.waiting_for = None, ""
            self._streamed.clear()
            return
        now = time.monotonic()
        if now < self._look_at:
            return
        self._late = self._late and behind
        for name, progress, range_ in self._due(plan, now):
            if len(self._readings) == self._config.readers:
                return
            if self._tracking is None:
                self._tracking = self._begun()
            if self._throttled() or not self._may_read(progress):
                self._look_at = now + LOOK_EVERY_SECONDS
                return
            self._number += 1
            chunk = Chunk(tables[name], range_, self._rows.get(name, FIRST_CHUNK_ROWS), f"{run}.{self._number}")
            if not progress.rows and self._config.readers > 1:
                chunk.divide = self._config.readers * RANGES_PER_READER
            self._readings[chunk.id] = Reading(chunk)
            self._reader.begin(chunk)

    def _due(self, plan: Mapping[str, TableSnapshot], now: float) -> Iterator[tuple[str, TableSnapshot, KeyRange]]:
        """Ranges of which the next chunk may be read, in order."""
        taken = [(reading.table, reading.chunk.range) for reading in self._readings.values()]
        for name, progress in plan.items():
            if self._locked.get(name, now) <= now:
                yield from ((name, progress, one) for one in progress.ranges if (name, one) not in taken)

    def _throttled(self) -> bool:
        """Whether the database has more important things to do than to be read, or we have."""
        self.waiting_for = ""
        most = self._config.max_active_sessions
        if self._late:
            self.waiting_for = "the stream, whose changes come late"
        elif most is not None and (active := self._active()) > most:
            self.waiting_for = f"the database: {active} sessions are active, more than max_active_sessions ({most})"
        return bool(self.waiting_for)

    def _may_read(self, progress: TableSnapshot) -> bool:
        """Whether every transaction waited for has ended. What is visible once is so to every later snapshot."""
        assert self._tracking is not None
        current = self._current()
        self._streamed = {xid for xid in self._streamed if not current.sees(xid)}
        waited_for = set(self._tracking.running) | {current.full_xid(xid) for xid in self._streamed}
        if progress.fence is not None:
            waited_for |= DatabaseSnapshot.parse(progress.fence).running
        pending = [xid for xid in sorted(waited_for) if not current.ended(xid)]
        self.waiting_for = f"transactions {pending[:5]} to end" if pending else ""
        return not pending

    def _check_readers(self) -> None:
        """A chunk that failed is begun again later, or its error is raised."""
        for reading in [one for one in self._readings.values() if one.chunk.error is not None]:
            error = reading.chunk.error
            assert error is not None
            self._drop(reading)
            if not isinstance(error, LockNotAvailable):
                raise error
            self.waiting_for = f"{reading.table}, which DDL has locked"
            self._locked[reading.table] = time.monotonic() + 1.0

    def streamed(self, xid: int) -> None:
        """A transaction with row changes is being streamed."""
        if self._tracking is not None:
            self._streamed.add(xid)

    def touched(self, table: str, keys: Collection[bytes]) -> None:
        """Keys of a watched table that the stream changed."""
        for reading in self._readings.values():
            if reading.table != table or reading.before is None:
                continue
            reading.touched.update(keys)
            reading.size += sum(map(len, keys))
            if reading.size > self._config.chunk_bytes:
                reading.broken = "more keys were changed meanwhile than fit"
                reading.touched.clear()
                reading.size = 0

    def broken(self, table: str, why: str) -> None:
        """`table` was truncated, or its definition changed: chunks of it that are being read are void."""
        for reading in self._readings.values():
            if reading.table == table:
                reading.broken = why

    def mark(self, chunk_id: str, which: str) -> tuple[Chunk, set[bytes]] | None:
        """A mark came through the stream. At the high mark of a good chunk: the chunk, and the keys to drop from it."""
        reading = self._readings.get(chunk_id)
        if reading is None:
            return None
        if which == "low":
            reading.before = frozenset(self._streamed)
            self._watch_tables()
            return None
        chunk, snapshot = reading.chunk, reading.chunk.snapshot
        if reading.before is None or snapshot is None:
            raise TransientError(f"a chunk of {reading.table} has a high mark without a low mark")
        self._drop(reading)
        self._late = time.monotonic() - chunk.marked_at > self._config.max_lag
        why = reading.broken
        if not why and any(not snapshot.sees(xid) for xid in reading.before):
            why = "a transaction that is in the stream already was not visible to the read"
        self._adapt(chunk, smaller="fit" in why)
        if why:
            log.info("snapshot.chunk_discarded", table=reading.table, why=why)
            self._look_at = time.monotonic() + LOOK_EVERY_SECONDS
            self.waiting_for = f"{reading.table} to be read again: {why}"
            return None
        return chunk, reading.touched

    def _adapt(self, chunk: Chunk, *, smaller: bool) -> None:
        """Rows for the table's next chunk, from what this one cost."""
        rows = chunk.limit
        if smaller:
            rows = rows // 2
        elif chunk.lines:
            by_time = len(chunk.lines) * self._config.chunk_time_target / max(chunk.seconds, 0.001)
            by_size = len(chunk.lines) * self._config.chunk_bytes * 0.8 / chunk.size
            rows = int(min(by_time, by_size, rows * 8))
        self._rows[chunk.table.full_name] = max(CHUNK_ROWS[0], min(CHUNK_ROWS[1], rows))

    def _drop(self, reading: Reading) -> None:
        del self._readings[reading.chunk.id]
        self._watch_tables()

    def _watch_tables(self) -> None:
        self._watch({reading.table for reading in self._readings.values() if reading.before is not None})

    def close(self) -> None:
        """End running reads. Safe to call twice."""
        self._reader.close()
