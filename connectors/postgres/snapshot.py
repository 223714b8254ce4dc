"""The snapshot of tables while the stream runs: which chunk is next, and which of its rows may go to the log.

A transaction is in the stream before it is visible, for an instant always and for ever under a lost synchronous
standby; so marks in the WAL alone do not order a read against the stream. What orders them is the reader's own
database snapshot (design, "Snapshot"):

- A chunk is discarded when a transaction that its snapshot does not see was streamed before the low mark: its rows
  would be older than what the log has.
- Rows whose key was touched between the marks are dropped: the stream has something newer, or will not say more.
- No chunk is read until each transaction that ran when the tracking of streamed transactions began has ended: it may
  have been streamed before that moment, and nobody remembers. (One that is streamed while we wait ends, too.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from cdc.errors import TransientError
from connectors.postgres.catalogue import CatalogTable
from connectors.postgres.chunk import Chunk, ChunkReader, LockNotAvailable
from connectors.postgres.config import SnapshotConfig
from connectors.postgres.position import TableSnapshot
from connectors.postgres.visibility import DatabaseSnapshot

log = structlog.get_logger()

FIRST_CHUNK_ROWS: Final = 2_000
CHUNK_ROWS: Final = (200, 500_000)
LOOK_EVERY_SECONDS: Final = 0.2
"""How often the database is asked whether the transactions waited for have ended."""


@dataclass
class Window:
    """What the stream showed between a chunk's marks."""

    before: frozenset[int]
    """Transactions (32-bit ids) that were streamed before the low mark, as far as they may still be invisible."""
    touched: set[bytes] = field(default_factory=set)
    size: int = 0
    broken: str = ""
    """Why the chunk must be read again; empty when it need not."""


class Snapshots:
    """Drives one chunk at a time. Called by the stream only, in its thread.

    `current` asks the database for ``pg_current_snapshot()``, `begun` for one that lacks nothing begun by then; `watch`
    is called with the table's name when its window opens and with None when it closes, so that the stream watches the
    keys of that table only then.
    """

    def __init__(
        self,
        config: SnapshotConfig,
        reader: ChunkReader,
        current: Callable[[], DatabaseSnapshot],
        begun: Callable[[], DatabaseSnapshot],
        watch: Callable[[str | None], None],
    ) -> None:
        self._config = config
        self._reader = reader
        self._current = current
        self._begun = begun
        self._watch = watch
        self._tracking: DatabaseSnapshot | None = None
        self._streamed: set[int] = set()
        self._chunk: Chunk | None = None
        self._window: Window | None = None
        self._rows = FIRST_CHUNK_ROWS
        self._number = 0
        self._look_at = 0.0
        self.waiting_for = ""
        """What keeps the next chunk from being read, for the operator; empty when nothing does."""

    def poll(self, plan: Mapping[str, TableSnapshot], tables: Mapping[str, CatalogTable], run: str) -> None:
        """Begin the next chunk when one is due. Raises what the chunk's reader raised."""
        if self._chunk is not None:
            self._check_reader()
            return
        now = time.monotonic()
        if not plan or now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_SECONDS
        if self._tracking is None:
            self._tracking = self._begun()
        name, progress = next(iter(plan.items()))
        if not self._may_read(progress):
            return
        self._number += 1
        self._look_at = 0.0
        self._chunk = Chunk(tables[name], progress.last_key, self._rows, f"{run}.{self._number}")
        self._reader.begin(self._chunk)

    def _may_read(self, progress: TableSnapshot) -> bool:
        """Whether every transaction waited for has ended. What is visible once is so to every later snapshot."""
        assert self._tracking is not None
        current = self._current()
        self._streamed = {xid for xid in self._streamed if not current.sees(xid)}
        waited_for = set(self._tracking.running) | {current.full_xid(xid) for xid in self._streamed}
        if progress.fence is not None:
            waited_for |= DatabaseSnapshot.parse(progress.fence).running
        pending = [xid for xid in sorted(waited_for) if not current.ended(xid)]
        self.waiting_for = f"transactions {pending[:5]} to end before rows are read" if pending else ""
        return not pending

    def _check_reader(self) -> None:
        """A chunk that failed is begun again later, or its error is raised."""
        chunk = self._chunk
        if chunk is None or chunk.error is None:
            return
        self._drop()
        if not isinstance(chunk.error, LockNotAvailable):
            raise chunk.error
        self.waiting_for = str(chunk.error)
        self._look_at = time.monotonic() + 1.0

    def streamed(self, xid: int) -> None:
        """A transaction with row changes is being streamed."""
        if self._tracking is not None:
            self._streamed.add(xid)

    def touched(self, keys: Collection[bytes]) -> None:
        """Keys of the watched table that the stream changed."""
        window = self._window
        if window is not None:
            window.touched.update(keys)
            window.size += sum(map(len, keys))
            if window.size > self._config.chunk_bytes:
                window.broken = "more keys were changed meanwhile than fit"
                window.touched.clear()
                window.size = 0

    def broken(self, table: str, why: str) -> None:
        """`table` was truncated, or its definition changed: a chunk of it that is being read is void."""
        if self._window is not None and self._chunk is not None and self._chunk.table.full_name == table:
            self._window.broken = why

    def mark(self, chunk_id: str, which: str) -> tuple[Chunk, set[bytes]] | None:
        """A mark came through the stream. At the high mark of a good chunk: the chunk, and the keys to drop from it."""
        chunk = self._chunk
        if chunk is None or chunk.id != chunk_id:
            return None
        if which == "low":
            self._window = Window(frozenset(self._streamed))
            self._watch(chunk.table.full_name)
            return None
        window = self._window
        snapshot = chunk.snapshot
        if window is None or snapshot is None:
            raise TransientError(f"a chunk of {chunk.table.full_name} has a high mark without a low mark")
        self._drop()
        why = window.broken
        if not why and any(not snapshot.sees(xid) for xid in window.before):
            why = "a transaction that is in the stream already was not visible to the read"
        self._adapt(chunk, smaller="fit" in why)
        if why:
            log.info("snapshot.chunk_discarded", table=chunk.table.full_name, why=why)
            self._look_at = time.monotonic() + LOOK_EVERY_SECONDS
            self.waiting_for = why
            return None
        self.waiting_for = ""
        return chunk, window.touched

    def _adapt(self, chunk: Chunk, *, smaller: bool) -> None:
        """Rows for the next chunk, from what this one cost."""
        rows = len(chunk.lines)
        if smaller:
            self._rows = self._rows // 2
        elif rows:
            by_time = rows * self._config.chunk_time_target / max(chunk.seconds, 0.001)
            by_size = rows * self._config.chunk_bytes * 0.8 / chunk.size
            self._rows = int(min(by_time, by_size, self._rows * 8))
        self._rows = max(CHUNK_ROWS[0], min(CHUNK_ROWS[1], self._rows))

    def _drop(self) -> None:
        self._chunk = None
        self._window = None
        self._watch(None)

    def close(self) -> None:
        """End a running read. Safe to call twice."""
        self._reader.close()
