"""A batch of records becomes one row per key: whatever the records are, a store ends up as if they came one by one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cdc.config.fields import SinkConfig
from cdc.log import Fetched, Record, TopicPartition
from cdc.record import LAYOUT, PARTIAL, SWEEP_KEY, TOMBSTONE, TRUNCATE_KEY, marker_header, pack_header
from cdc.reduce import history, reduce
from cdc.sink import Batch, Row
from cdc.testing import MemorySink
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType

TEXT = LogicalType(Kind.STRING)
TABLE = TableSchema("t", "public", "t", tuple(Column(name, TEXT, "text") for name in "abc"), ("a",))
TOPIC_IDS = {"t": "id"}
PLACE = TopicPartition("t", 0)

Change = tuple[Any, ...]
"""What happened, its key, and what else it takes."""

KEYS = st.sampled_from([b"1", b"2"])
COLUMNS = st.sets(st.sampled_from("abc"), min_size=1)
CHANGES = st.one_of(
    st.tuples(st.just("whole"), KEYS),
    st.tuples(st.just("partial"), KEYS, COLUMNS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("truncate")),
    st.tuples(st.just("message"), KEYS),
)
SWEPT_CHANGES = st.one_of(
    st.tuples(st.just("whole"), KEYS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("sweep"), st.integers(0, 8)),
)


def _row(key: bytes, names: set[str], version: int, operation: bytes, flags: int) -> Record:
    after = b"{" + b",".join(b'"%b":"%d"' % (name.encode(), version) for name in sorted(names)) + b"}"
    header = pack_header(LAYOUT, operation, flags, 0, version, TABLE.id, 9, len(after))
    return Record(version, key, b'{"after":' + after + b"}", header, 0)


def _records(changes: list[Change]) -> list[Record]:
    """Records as capture would write them, versions rising from 1."""
    records: list[Record] = []
    for version, change in enumerate(changes, 1):
        match change:
            case ("whole", key):
                records.append(_row(key, set("abc"), version, b"c", 0))
            case ("partial", key, names):
                flags = 0 if names == set("abc") else PARTIAL
                records.append(_row(key, set(names), version, b"u", flags))
            case ("delete", key):
                header = pack_header(LAYOUT, b"d", 0, 0, version, TABLE.id, 0, 0)
                records.append(Record(version, key, b'{"after":null}', header, 0))
                header = pack_header(LAYOUT, b"d", TOMBSTONE, 0, version, TABLE.id, 0, 0)
                records.append(Record(version, key, None, header, 0))
            case ("truncate",):
                records.append(Record(version, TRUNCATE_KEY, b"", marker_header(b"t", version), 0))
            case ("sweep", back):
                records.append(Record(version, SWEEP_KEY, b"", marker_header(b"s", max(version - back, 1)), 0))
            case ("message", key):
                header = pack_header(LAYOUT, b"m", 0, 0, version, TABLE.id, 0, 0)
                records.append(Record(version, key, b"{}", header, 0))
    return records


def _apply(
    parts: list[list[Record]], made: Callable[..., list[Batch]] = reduce
) -> dict[bytes, tuple[int, bytes | None]]:
    """What a store holds after `parts`, each `made` into batches of its own."""
    sink = MemorySink("memory", SinkConfig(type="memory"))
    sink.open()
    for records in parts:
        sink.write(made([Fetched("t", 0, records, 0)], {TABLE.id: TABLE}.__getitem__), TOPIC_IDS)
    return {key: (row.version, row.after) for key, row in sink.store.rows[PLACE].items()}


def _parts(records: list[Record], cuts: set[int]) -> list[list[Record]]:
    bounds = [0, *sorted(cut for cut in cuts if cut < len(records)), len(records)]
    return [records[start:end] for start, end in pairwise(bounds)]


CUTS = st.sets(st.integers(0, 25), max_size=5)


@given(st.one_of(st.lists(CHANGES, max_size=25), st.lists(SWEPT_CHANGES, max_size=25)), CUTS)
def test_batches_bring_what_single_records_bring(changes: list[Change], cuts: set[int]) -> None:
    records = _records(changes)
    assert _apply(_parts(records, cuts)) == _apply([[record] for record in records] or [[]])


@given(st.one_of(st.lists(CHANGES, max_size=25), st.lists(SWEPT_CHANGES, max_size=25)), CUTS)
def test_a_history_ends_where_a_reduced_batch_does(changes: list[Change], cuts: set[int]) -> None:
    parts = _parts(_records(changes), cuts)
    assert _apply(parts, history) == _apply(parts)


@given(st.lists(SWEPT_CHANGES, max_size=25), CUTS, st.randoms(use_true_random=False))
def test_batches_that_come_again_change_nothing(changes: list[Change], cuts: set[int], random: Random) -> None:
    records = _records(changes)
    parts = _parts(records, cuts)
    again = [parts[random.randrange(len(parts))] for _ in range(3)]
    assert _apply([*parts, *again]) == _apply(parts)


@given(st.lists(SWEPT_CHANGES, max_size=30), st.randoms(use_true_random=False))
def test_the_order_within_a_batch_does_not_matter(changes: list[Change], random: Random) -> None:
    records = _records(changes)
    shuffled = list(records)
    random.shuffle(shuffled)
    assert _apply([shuffled]) == _apply([records])


@given(st.one_of(st.lists(CHANGES, max_size=25), st.lists(SWEPT_CHANGES, max_size=25)))
def test_each_key_comes_once_and_above_the_floor(changes: list[Change]) -> None:
    (batch,) = reduce([Fetched("t", 0, _records(changes), 7)], {TABLE.id: TABLE}.__getitem__)
    rows: list[Row] = list(batch.rows)
    keys = [row.key for row in rows]
    assert len(keys) == len(set(keys))
    assert not set(keys) & set(batch.superseded)
    assert all(row.version >= batch.floor for row in rows)
    assert batch.next_offset == 7
