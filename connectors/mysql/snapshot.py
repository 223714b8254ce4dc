"""What orders a chunk's read against the stream: executed GTIDs before the read, the binlog's end after it.

A transaction is in the binlog, and in the stream, before it is visible to readers; so a place in the binlog alone does
not order a read against the stream (design, "Snapshot"):

- A chunk is read only once everything that was streamed before its begin is visible: its reader sees to that.
- Rows whose key the stream touches from then on are dropped: their events may be newer than the read, and if they are
  not, the log has what the read saw, or will have something newer.
- It goes to the log when the stream has passed all that the read may have seen, so that no value comes before an older
  one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from cdc.source.config import SnapshotConfig
from cdc.source.plan import KeyRange, TableSnapshot
from cdc.source.snapshot import Snapshots
from connectors.mysql.catalogue import CatalogTable
from connectors.mysql.chunk import ChunkReader, MysqlChunk
from connectors.mysql.position import BinlogPlace, Executed, within
from schemas.table import TableSchema


class MysqlSnapshots(Snapshots[MysqlChunk]):
    """See :class:`cdc.source.snapshot.Snapshots`. `captured` tells what has been streamed."""

    def __init__(
        self,
        config: SnapshotConfig,
        reader: ChunkReader,
        captured: Callable[[], Executed],
        active: Callable[[], int],
        watch: Callable[[Collection[str]], None],
        schema: Callable[[CatalogTable], TableSchema],
    ) -> None:
        super().__init__(config, reader, active, watch, schema)
        self._captured = captured

    def _may_read(self, progress: TableSnapshot) -> str:  # noqa: ARG002 - each chunk's reader waits by itself
        return ""

    def _chunk(self, table: CatalogTable, range_: KeyRange, limit: int, id_: str) -> MysqlChunk:
        return MysqlChunk(table, range_, limit, id_, captured=self._captured())

    def _begun(self, chunk: MysqlChunk) -> None:
        super()._begun(chunk)
        self._readings[chunk.id].watched = True
        self._watch_tables()

    def passed(self, place: BinlogPlace, executed: Executed) -> tuple[MysqlChunk, set[bytes]] | None:
        """The stream has come to `place`, between two transactions. A chunk that is due now, and the keys to drop from
        it."""
        for reading in list(self._readings.values()):
            chunk = reading.chunk
            if not chunk.done.is_set() or chunk.error is not None or chunk.high is None:
                continue
            if place < chunk.high and not (chunk.seen is not None and within(chunk.seen, executed)):
                continue
            if (ready := self._passed(reading, "")) is not None:
                return ready
        return None
