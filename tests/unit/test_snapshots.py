"""Which chunk is begun when: without a database."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cdc.source.config import SnapshotConfig
from cdc.source.plan import KeyRange, TableSnapshot
from connectors.postgres.catalogue import CatalogTable
from connectors.postgres.chunk import PostgresChunk
from connectors.postgres.snapshot import PostgresSnapshots
from connectors.postgres.visibility import DatabaseSnapshot
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType

TABLE = CatalogTable(1, "public", "item", "d", (), ("id",))
SCHEMA = TableSchema("t", "public", "item", (Column("id", LogicalType(Kind.INT32), "integer"),), ("id",))
ALL = DatabaseSnapshot(1000, 1000, frozenset())


class Reader:
    """Reads nothing; the test says what was read."""

    def __init__(self) -> None:
        self.begun: list[PostgresChunk] = []

    def begin(self, chunk: PostgresChunk) -> None:
        self.begun.append(chunk)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def snapshots(reader: Reader) -> PostgresSnapshots:
    config = SnapshotConfig(readers=1, max_lag="5s")  # type: ignore[arg-type]
    anything: Any = reader
    return PostgresSnapshots(config, anything, lambda: ALL, lambda: ALL, lambda: 0, lambda _: None, lambda _: SCHEMA)


def _poll(snapshots: PostgresSnapshots, *, behind: bool) -> None:
    plan = {"public.item": TableSnapshot(None)}
    snapshots.poll(plan, {"public.item": TABLE}, "run", behind=behind)


@pytest.mark.parametrize("seconds", [0.0, 6.0])
def test_while_changes_come_late_no_chunk_is_begun(
    snapshots: PostgresSnapshots, reader: Reader, seconds: float
) -> None:
    _poll(snapshots, behind=True)
    [chunk] = reader.begun
    snapshots.mark(chunk.id, "low")
    chunk.snapshot, chunk.marked_at = ALL, time.monotonic() - seconds
    snapshots.mark(chunk.id, "high")
    _poll(snapshots, behind=True)
    assert len(reader.begun) == (1 if seconds else 2)
    assert ("changes come late" in snapshots.waiting_for) == bool(seconds)
    snapshots._look_at = 0.0
    _poll(snapshots, behind=False)
    assert len(reader.begun) == 2


def test_a_range_is_divided_into_ranges_that_are_the_whole() -> None:
    edges = [["b"], ["d"]]
    assert KeyRange(["a"], None).divided(edges) == [
        KeyRange(["a"], ["b"]),
        KeyRange(["b"], ["d"]),
        KeyRange(["d"], None),
    ]
    assert KeyRange(None, ["z"]).divided([]) == [KeyRange(None, ["z"])]


def test_progress_replaces_the_range_that_was_read() -> None:
    a, b, c = KeyRange(None, ["a"]), KeyRange(["a"], ["b"]), KeyRange(["b"], None)
    progress = TableSnapshot(7, [a, b, c], 10, "fence")
    part = KeyRange(["aa"], ["b"])
    assert progress.advanced(b, [part], 5) == TableSnapshot(7, [a, part, c], 15, "fence")
    assert progress.advanced(c, [], 5).ranges == [a, b]


def test_streamed_transactions_are_remembered_as_long_as_rows_are_read(
    snapshots: PostgresSnapshots, reader: Reader
) -> None:
    _poll(snapshots, behind=False)
    [chunk] = reader.begun
    snapshots.streamed(1001)
    snapshots.mark(chunk.id, "low")
    chunk.snapshot, chunk.marked_at = ALL, time.monotonic()
    assert snapshots.mark(chunk.id, "high") is None, "one that the read does not see was streamed before its low mark"
    snapshots.poll({}, {}, "run", behind=False)
    for xid in range(1002, 1100):
        snapshots.streamed(xid)
    assert snapshots._streamed == set(), "nobody needs them, and there is no end of them"
