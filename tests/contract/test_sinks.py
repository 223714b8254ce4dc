"""The sink contract: what every store must keep, whatever it is. See ``tests/contract/sinks`` for how one joins."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc.errors import FencedError, GapError, TransientError
from cdc.log import TopicPartition
from cdc.registry import known as known_sinks
from cdc.sink import Batch, Row, Sink, StoredOffset
from schemas.types import Kind, LogicalType
from tests.contract import sinks
from tests.contract.sinks import Store
from tests.contract.sinks._tables import INT, TEXT, Table, claim, table, write
from tests.contract.sinks._values import VALUES
from tests.servers import wait_until

ITEMS = table()
PROFILES = ("readable", "debezium")


@pytest.fixture(params=sinks.parameters(*sinks.known()))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = sinks.load(request.param)(request, tmp_path)
    yield store
    store.stop()


@pytest.fixture
def sink(store: Store) -> Iterator[Sink]:
    with_store = store.sink()
    with_store.open()
    yield with_store
    with_store.close()


def held(store: Store, which: Table = ITEMS) -> dict[bytes, dict[str, Any]]:
    return store.rows(which.schema)


def as_held(store: Store, which: Table, row: Row) -> dict[str, Any]:
    """What `held` must give for `row`."""
    types = which.schema.by_name
    return {name: store.held_as(types[name].type, value) for name, value in which.values(row).items()}


def by_cell(rows: dict[bytes, dict[str, Any]]) -> dict[tuple[bytes, str], Any]:
    """Each value by key and column: what differs is then seen at once."""
    return {(key, column): value for key, row in rows.items() for column, value in row.items()}


def test_every_sink_is_in_this_suite() -> None:
    assert set(known_sinks("sinks")) <= {sinks.load(name).type for name in sinks.known()}


# Rows come, change and go.


def test_insert(store: Store, sink: Sink) -> None:
    row = ITEMS.row(1, id=1, name="shoe", price="12.50", note="with 'quotes' and \"more\"\n")
    assert write(sink, ITEMS.batch(row)) == []
    assert held(store) == {row.key: {"id": 1, "name": "shoe", "price": "12.50", "note": "with 'quotes' and \"more\"\n"}}


def test_nothing_to_write(store: Store, sink: Sink) -> None:
    assert write(sink) == []
    assert write(sink, ITEMS.batch(next_offset=7)) == []
    assert held(store) == {}


def test_update_replaces_every_column(store: Store, sink: Sink) -> None:
    write(sink, ITEMS.batch(ITEMS.row(1, id=1, name="shoe", price="12.50", note="new")))
    newer = ITEMS.row(2, id=1, name="boot")
    write(sink, ITEMS.batch(newer))
    assert held(store) == {newer.key: {"id": 1, "name": "boot", "price": None, "note": None}}


def test_delete(store: Store, sink: Sink) -> None:
    kept = ITEMS.row(2, id=2, name="boot")
    write(sink, ITEMS.batch(ITEMS.row(1, id=1, name="shoe"), kept))
    write(sink, ITEMS.batch(ITEMS.deleted(3, id=1)))
    assert held(store) == {kept.key: ITEMS.values(kept)}


def test_delete_without_a_schema(store: Store, sink: Sink) -> None:
    """A record whose header has no schema id still deletes."""
    write(sink, ITEMS.batch(ITEMS.row(1, id=1, name="shoe")))
    write(sink, ITEMS.batch(ITEMS.deleted(2, id=1)._replace(schema=None)))
    assert held(store) == {}


def test_insert_after_delete(store: Store, sink: Sink) -> None:
    write(sink, ITEMS.batch(ITEMS.row(1, id=1, name="shoe")))
    write(sink, ITEMS.batch(ITEMS.deleted(2, id=1)))
    again = ITEMS.row(3, id=1, name="boot")
    write(sink, ITEMS.batch(again))
    assert held(store) == {again.key: ITEMS.values(again)}


def test_key_change(store: Store, sink: Sink) -> None:
    """Two records with two versions, the delete first; both keys may be in one partition or not."""
    write(sink, ITEMS.batch(ITEMS.row(1, id=1, name="shoe"), ITEMS.row(2, id=2, name="boot")))
    moved, far = ITEMS.row(4, id=10, name="shoe"), ITEMS.row(6, id=20, name="boot")
    write(
        sink,
        ITEMS.batch(ITEMS.deleted(3, id=1), moved, ITEMS.deleted(5, id=2)),
        ITEMS.batch(far, partition=1),
    )
    assert held(store) == {row.key: ITEMS.values(row) for row in (moved, far)}


def test_composite_key(store: Store, sink: Sink) -> None:
    pairs = table("pairs", {"a": TEXT, "b": INT, "v": TEXT}, key=("b", "a"))
    rows = [pairs.row(1, a="x", b=1, v="1"), pairs.row(2, a="y", b=1, v="2"), pairs.row(3, a="x", b=2, v="3")]
    write(sink, pairs.batch(*rows))
    write(sink, pairs.batch(pairs.deleted(4, a="y", b=1)))
    assert held(store, pairs) == {row.key: pairs.values(row) for row in (rows[0], rows[2])}


def test_several_tables_and_partitions_in_one_call(store: Store, sink: Sink) -> None:
    other = table("others")
    rows = [ITEMS.row(n, id=n, name=f"item {n}") for n in range(1, 7)]
    others = [other.row(n, id=n, name=f"other {n}") for n in range(7, 10)]
    write(
        sink,
        ITEMS.batch(*rows[:3], partition=0),
        other.batch(*others, partition=2),
        ITEMS.batch(*rows[3:], partition=4),
    )
    assert held(store) == {row.key: ITEMS.values(row) for row in rows}
    assert held(store, other) == {row.key: other.values(row) for row in others}


# The version decides, whatever comes twice, late or out of order.


def test_same_batch_twice(store: Store, sink: Sink) -> None:
    write(sink, ITEMS.batch(ITEMS.row(1, id=1, name="shoe"), ITEMS.row(2, id=2, name="boot")))
    row = ITEMS.row(4, id=3, name="hat")
    batch = ITEMS.batch(ITEMS.deleted(3, id=1), row)
    write(sink, batch)
    once = held(store)
    assert write(sink, batch) == []
    assert held(store) == once
    assert row.key in once


def older_after_newer(store: Store, sink: Sink) -> None:
    newer = ITEMS.row(5, id=1, name="newer")
    write(sink, ITEMS.batch(newer))
    write(sink, ITEMS.batch(ITEMS.row(4, id=1, name="older")))
    write(sink, ITEMS.batch(ITEMS.deleted(3, id=1)))
    assert held(store) == {newer.key: ITEMS.values(newer)}


def delete_then_older_insert(store: Store, sink: Sink) -> None:
    write(sink, ITEMS.batch(ITEMS.row(1, id=1, name="shoe")))
    write(sink, ITEMS.batch(ITEMS.deleted(5, id=1), ITEMS.deleted(6, id=2)))
    write(sink, ITEMS.batch(ITEMS.row(4, id=1, name="late"), ITEMS.row(3, id=2, name="never seen before")))
    write(sink, ITEMS.batch(ITEMS.row(2, id=1, partial=True, name="late and partial")))
    assert held(store) == {}


def test_older_after_newer(store: Store, sink: Sink) -> None:
    older_after_newer(store, sink)


def test_delete_then_older_insert(store: Store, sink: Sink) -> None:
    delete_then_older_insert(store, sink)


def test_older_delete_after_newer_delete(store: Store, sink: Sink) -> None:
    write(sink, ITEMS.batch(ITEMS.deleted(5, id=1)))
    write(sink, ITEMS.batch(ITEMS.deleted(2, id=1)))
    write(sink, ITEMS.batch(ITEMS.row(4, id=1, name="late")))
    assert held(store) == {}


def test_versions_of_a_late_epoch(store: Store, sink: Sink) -> None:
    """Versions use 63 bits, and are compared as numbers."""
    row = ITEMS.row((32767 << 48) | 9, id=1, name="last epoch")
    write(sink, ITEMS.batch(ITEMS.row((9 << 48) | 1, id=1, name="old epoch"), next_offset=1))
    write(sink, ITEMS.batch(row, next_offset=2))
    write(sink, ITEMS.batch(ITEMS.row((32767 << 48) | 8, id=1, name="one before"), next_offset=3))
    assert held(store) == {row.key: ITEMS.values(row)}


# Markers: nothing older than their version remains.


def test_truncate_then_older_insert(store: Store, sink: Sink) -> None:
    write(sink, ITEMS.batch(*(ITEMS.row(n, id=n, name="old") for n in range(1, 6))))
    write(sink, ITEMS.batch(floor=10))
    assert held(store) == {}
    write(sink, ITEMS.batch(*(ITEMS.row(5 + n, id=n, name="late, known key") for n in range(1, 5))))
    assert held(store) == {}
    newer = ITEMS.row(11, id=1, name="after the truncate")
    write(sink, ITEMS.batch(newer))
    assert held(store) == {newer.key: ITEMS.values(newer)}


def test_truncate_loses_against_keys_never_seen(store: Store, sink: Sink) -> None:
    """A key that came for the first time in the marker's own batch, or never: its late write is too old as well."""
    write(sink, ITEMS.batch(floor=10, superseded=[ITEMS.key(id=1)]))
    write(sink, ITEMS.batch(ITEMS.row(9, id=1, name="late"), ITEMS.row(8, id=2, name="late")))
    assert held(store) == {}


def test_truncate_of_a_table_without_rows(store: Store, sink: Sink) -> None:
    write(sink, ITEMS.batch(floor=10))
    row = ITEMS.row(11, id=1, name="first")
    write(sink, ITEMS.batch(row))
    assert held(store) == {row.key: ITEMS.values(row)}


def test_sweep_keeps_what_is_not_older(store: Store, sink: Sink) -> None:
    ghost, at, above = (ITEMS.row(9, id=1), ITEMS.row(10, id=2), ITEMS.row(11, id=3))
    write(sink, ITEMS.batch(ghost, at, above))
    write(sink, ITEMS.batch(floor=10))
    assert held(store) == {row.key: ITEMS.values(row) for row in (at, above)}


def test_floor_and_rows_in_one_batch(store: Store, sink: Sink) -> None:
    """The floor comes first; what the batch brings above it stays."""
    write(sink, ITEMS.batch(*(ITEMS.row(n, id=n, name="old") for n in range(1, 4))))
    new = ITEMS.row(11, id=1, name="new")
    write(sink, ITEMS.batch(new, ITEMS.deleted(12, id=5), floor=10, superseded=[ITEMS.key(id=4)]))
    assert held(store) == {new.key: ITEMS.values(new)}


def test_floor_concerns_its_partition_and_table_only(store: Store, sink: Sink) -> None:
    other = table("others")
    rows = [ITEMS.row(n, id=n, name="row") for n in range(1, 4)]
    spared = other.row(4, id=4, name="other table")
    write(sink, *(ITEMS.batch(row, partition=n) for n, row in enumerate(rows)), other.batch(spared, partition=1))
    write(sink, ITEMS.batch(floor=10, partition=1))
    assert held(store) == {row.key: ITEMS.values(row) for row in (rows[0], rows[2])}
    assert held(store, other) == {spared.key: other.values(spared)}
    late = ITEMS.row(5, id=5, name="not late here")
    write(sink, ITEMS.batch(late, partition=2))
    assert late.key in held(store)


def test_floors_only_rise(store: Store, sink: Sink) -> None:
    write(sink, ITEMS.batch(floor=10))
    write(sink, ITEMS.batch(floor=5))
    write(sink, ITEMS.batch(ITEMS.row(7, id=1, name="late")))
    assert held(store) == {}


# Columns that the source did not send.


def test_partial_row_keeps_what_the_store_holds(store: Store, sink: Sink) -> None:
    write(sink, ITEMS.batch(ITEMS.row(1, id=1, name="shoe", price="1.00", note="long")))
    row = ITEMS.row(2, id=1, name="boot", price=None, partial=True)
    write(sink, ITEMS.batch(row))
    assert held(store) == {row.key: {"id": 1, "name": "boot", "price": None, "note": "long"}}


def test_partial_row_that_is_older(store: Store, sink: Sink) -> None:
    newer = ITEMS.row(2, id=1, name="newer", note="n")
    write(sink, ITEMS.batch(newer))
    write(sink, ITEMS.batch(ITEMS.row(1, id=1, name="older", partial=True)))
    assert held(store) == {newer.key: ITEMS.values(newer)}


def test_partial_row_of_a_key_that_is_not_there(store: Store, sink: Sink) -> None:
    """It is written without the columns that nobody knows; the next complete row mends them."""
    row = ITEMS.row(2, id=1, name="boot", partial=True)
    write(sink, ITEMS.batch(row))
    assert held(store) == {row.key: ITEMS.values(row)}


def test_partial_rows_in_one_batch(store: Store, sink: Sink) -> None:
    """Partial and complete rows mix, and each partial row lacks other columns."""
    write(sink, ITEMS.batch(*(ITEMS.row(n, id=n, name=f"name {n}", note=f"note {n}") for n in range(1, 5))))
    complete = ITEMS.row(5, id=1, name="complete")
    write(
        sink,
        ITEMS.batch(
            complete,
            ITEMS.row(6, id=2, partial=True, name="new name"),
            ITEMS.row(7, id=3, partial=True, note="new note"),
            ITEMS.row(8, id=4, partial=True),
        ),
    )
    rows = held(store)
    assert rows[complete.key] == ITEMS.values(complete)
    assert [(rows[ITEMS.key(id=n)]["name"], rows[ITEMS.key(id=n)]["note"]) for n in (2, 3, 4)] == [
        ("new name", "note 2"),
        ("name 3", "new note"),
        ("name 4", "note 4"),
    ]


def test_partial_row_after_a_floor_keeps_nothing(store: Store, sink: Sink) -> None:
    write(sink, ITEMS.batch(ITEMS.row(1, id=1, name="shoe", note="gone with the truncate")))
    row = ITEMS.row(11, id=1, name="boot", partial=True)
    write(sink, ITEMS.batch(row, floor=10))
    assert held(store) == {row.key: ITEMS.values(row)}


# Values.


@pytest.mark.parametrize("profile", PROFILES)
def test_every_type(store: Store, sink: Sink, profile: str) -> None:
    """A column of each type; its first values in the first row, and so on; then rows of which most was not sent."""
    fitting: dict[str, list[Any]] = {
        name: [v for v in values if store.holds(type_, v)] for name, (type_, values) in VALUES.items()
    }
    wide = table(
        "wide", {"id": INT, "name": TEXT, **{name: type_ for name, (type_, _) in VALUES.items()}}, profile=profile
    )
    rows = [
        wide.row(n, id=n, **{name: one[n] for name, one in fitting.items() if n < len(one)})
        for n in range(max(map(len, fitting.values())) + 1)
    ]
    assert write(sink, wide.batch(*rows)) == []
    expected = by_cell({row.key: as_held(store, wide, row) for row in rows})
    assert by_cell(held(store, wide)) == expected
    write(sink, wide.batch(*(wide.row(100 + n, id=n, name="partial", partial=True) for n in range(len(rows)))))
    assert by_cell(held(store, wide)) == {**expected, **{(row.key, "name"): "partial" for row in rows}}


@pytest.mark.parametrize("profile", PROFILES)
def test_values_that_do_not_fit(store: Store, sink: Sink, profile: str) -> None:
    """A value that a column cannot hold costs its own row only."""
    for name, (type_, values) in VALUES.items():
        refused = {n for n, value in enumerate(values) if not store.holds(type_, value)}
        if not refused:
            continue
        narrow = table(f"narrow {name}", {"id": INT, "v": type_}, profile=profile)
        rows = [narrow.row(n, id=n, v=value) for n, value in enumerate([*values, None])]
        rejected = write(sink, narrow.batch(*rows))
        assert {one.key for one in rejected} == {rows[n].key for n in refused}, name
        taken = [row for n, row in enumerate(rows) if n not in refused]
        assert held(store, narrow) == {row.key: as_held(store, narrow, row) for row in taken}


def test_added_column(store: Store, sink: Sink) -> None:
    first = ITEMS.row(1, id=1, name="before")
    write(sink, ITEMS.batch(first))
    later = ITEMS.with_columns(color=TEXT, weight=LogicalType(Kind.FLOAT64))
    second = later.row(2, id=2, name="after", color="red", weight="1.5")
    old_shape = ITEMS.row(3, id=3, name="another partition is behind")
    write(sink, later.batch(second), ITEMS.batch(old_shape, partition=1))
    without = {"color": None, "weight": None}
    assert held(store, later) == {
        first.key: {**ITEMS.values(first), **without},
        second.key: later.values(second),
        old_shape.key: {**ITEMS.values(old_shape), **without},
    }


def test_dropped_column(store: Store, sink: Sink) -> None:
    first, second = ITEMS.row(1, id=1, name="a", note="n"), ITEMS.row(2, id=2, name="b", note="m")
    write(sink, ITEMS.batch(first, second))
    later = ITEMS.without_column("note")
    write(sink, later.batch(later.row(3, id=1, name="c")))
    rows = held(store, later)
    assert {key: row["name"] for key, row in rows.items()} == {first.key: "c", second.key: "b"}


HOSTILE_NAMES = (
    'quo"te',
    "apo'strophe",
    "back`tick",
    "semi;colon -- comment",
    "$.path[0]",
    "a.b",
    "{brace}",
    "%s",
    "ключ 🔑",
    "select",
    "_id",
    "_cdc_version",
    "_cdc_partition",
    "_cdc_deleted",
    "_deleted",
    "_row",
    "row",
    "_cdc_key",
    "key",
    "version",
    "Mixed",
    "mixed",
    " ",
)


@pytest.mark.parametrize("profile", PROFILES)
def test_hostile_column_names(store: Store, sink: Sink, profile: str) -> None:
    odd = table("odd", {"id": INT, **dict.fromkeys(HOSTILE_NAMES, TEXT)}, profile=profile)
    texts: dict[str, Any] = {name: f"value of {name}" for name in HOSTILE_NAMES}
    row = odd.row(1, id=1, **texts)
    assert write(sink, odd.batch(row)) == []
    assert held(store, odd) == {row.key: odd.values(row)}
    partial = odd.row(2, id=1, partial=True, Mixed="new")
    write(sink, odd.batch(partial))
    assert held(store, odd) == {row.key: {**odd.values(row), "Mixed": "new"}}


def test_hostile_table_names(store: Store, sink: Sink) -> None:
    names = ['quo"te', "semi;colon -- ", "Ünï \N{KEY}", "sp ace", "UPPER", "_cdc_offsets_", "a.b", "%s", "{x}"]
    tables = [table(name) for name in names]
    rows = [odd.row(1, id=1, name=odd.schema.table) for odd in tables]
    assert write(sink, *(odd.batch(row, odd.row(2, id=2)) for odd, row in zip(tables, rows, strict=True))) == []
    write(sink, *(odd.batch(odd.deleted(3, id=2)) for odd in tables))
    for odd, row in zip(tables, rows, strict=True):
        assert held(store, odd) == {row.key: odd.values(row)}


KEYS = ("", " ", "it's", 'a"b', "a\\b", "*", "[x]?", "a:b", "%41", "A", "{x}", "line\nbreak", "é🔑", "-- ;", "k" * 300)


def test_hostile_keys(store: Store, sink: Sink) -> None:
    texts = table("texts", {"id": TEXT, "v": TEXT}, key=("id",))
    rows = [texts.row(n, id=key, v=key) for n, key in enumerate([*KEYS, *(f"{key}x" for key in KEYS)], start=1)]
    assert write(sink, texts.batch(*rows)) == []
    assert held(store, texts) == {row.key: texts.values(row) for row in rows}
    write(sink, texts.batch(*(texts.deleted(100 + n, id=key) for n, key in enumerate(KEYS))))
    assert held(store, texts) == {row.key: texts.values(row) for row in rows[len(KEYS) :]}


def test_hostile_values(store: Store, sink: Sink) -> None:
    values = ["nul \0 inside", "null", '{"a":1}', "\u2028\ufffe\U0010ffff", "x" * 100_000, "\\u0000", "[", "\x1b[0m"]
    rows = [ITEMS.row(n, id=n, name=value, note=value[::-1]) for n, value in enumerate(values)]
    taken = [row for row, value in zip(rows, values, strict=True) if store.holds(TEXT, value)]
    rejected = {one.key for one in write(sink, ITEMS.batch(*rows))}
    assert rejected == {row.key for row in rows if row not in taken}
    assert held(store) == {row.key: ITEMS.values(row) for row in taken}


def test_very_long_key(store: Store, sink: Sink) -> None:
    """It is taken and can be deleted, or it is rejected; never half of it."""
    texts = table("texts", {"id": TEXT, "v": TEXT}, key=("id",))
    rows = [texts.row(n, id="k" * 5_000 + str(n), v=str(n)) for n in (1, 2)]
    rejected = {one.key for one in write(sink, texts.batch(*rows))}
    taken = {row.key: texts.values(row) for row in rows if row.key not in rejected}
    assert held(store, texts) == taken
    write(sink, texts.batch(texts.deleted(3, id="k" * 5_000 + "1")))
    taken.pop(rows[0].key, None)
    assert held(store, texts) == taken


def test_large_batch(store: Store, sink: Sink) -> None:
    def batches(rows: list[Row], next_offset: int) -> list[Batch]:
        parts = [[row for row in rows if zlib.crc32(row.key) % 4 == partition] for partition in range(4)]
        return [ITEMS.batch(*part, partition=n, next_offset=next_offset) for n, part in enumerate(parts)]

    rows = [ITEMS.row(n, id=n, name=f"name {n}", price=f"{n}.25", note=None) for n in range(1, 5_001)]
    write(sink, *batches(rows, 5_001))
    newer = [ITEMS.row(5_000 + n, id=n, name="changed") for n in range(1, 5_001, 2)]
    gone = [ITEMS.deleted(15_000 + n, id=n) for n in range(2, 5_001, 4)]
    write(sink, *batches([*newer, *gone], 20_001))
    expected = {row.key: ITEMS.values(row) for row in (*rows, *newer)}
    for row in gone:
        del expected[row.key]
    assert held(store) == expected


def test_rejected_row_among_good_ones(store: Store, sink: Sink) -> None:
    make = store.refused()
    if make is None:
        pytest.skip(f"{store.type} takes every row")
    bad = make(3)
    good = [ITEMS.row(n, id=n, name="good") for n in (1, 2, 4, 5)]
    rejected = write(sink, ITEMS.batch(*good[:2], bad, *good[2:], next_offset=9))
    assert [(one.topic, one.partition, one.offset, one.key) for one in rejected] == [
        (ITEMS.schema.topic, 0, bad.offset, bad.key)
    ]
    assert rejected[0].reason
    assert held(store) == {row.key: ITEMS.values(row) for row in good}
    if sink.owns_offsets:  # it is not passed over in silence by whoever starts the sink again
        assert TopicPartition(ITEMS.schema.topic, 0) not in sink.offsets()
    write(sink, ITEMS.batch(ITEMS.deleted(6, id=1)))
    assert len(held(store)) == 3


# Offsets, restarts, and processes that should be dead.


def test_offsets_are_kept(store: Store, sink: Sink) -> None:
    if not sink.owns_offsets:
        assert sink.offsets() == {}
        return
    assert sink.offsets() == {}
    other = table("others")
    write(
        sink,
        ITEMS.batch(ITEMS.row(1, id=1), partition=0, next_offset=10),
        ITEMS.batch(partition=3, next_offset=4),
        other.batch(other.row(2, id=1), partition=0, next_offset=20),
    )
    write(sink, ITEMS.batch(partition=0, next_offset=11))
    expected = {
        TopicPartition(ITEMS.schema.topic, 0): StoredOffset(11, f"id of {ITEMS.schema.topic}"),
        TopicPartition(ITEMS.schema.topic, 3): StoredOffset(4, f"id of {ITEMS.schema.topic}"),
        TopicPartition(other.schema.topic, 0): StoredOffset(20, f"id of {other.schema.topic}"),
    }
    assert dict(sink.offsets()) == expected
    sink.close()
    again = store.sink()
    again.open()
    again.claim(list(expected))
    assert dict(again.offsets()) == expected
    again.close()


def test_an_emptied_store_is_noticed(store: Store, sink: Sink) -> None:
    """By the next write, and by whoever opens it anew: it has no offsets, of partitions of which there were some."""
    batch = ITEMS.batch(ITEMS.row(1, id=1, name="shoe"))
    write(sink, batch)
    store.empty()
    with pytest.raises((GapError, TransientError)):
        write(sink, ITEMS.batch(ITEMS.row(2, id=2, name="boot")))
    sink.close()
    assert sink.owns_offsets, "where reading goes on is known without the store"
    again = store.sink()
    again.open()
    claim(again, batch)
    assert again.offsets() == {}
    again.close()


def test_a_dropped_table_is_noticed(store: Store, sink: Sink) -> None:
    """By the next write, and by whoever opens the store anew, before a row comes; other tables go on."""
    others = table("others")
    batch, other = ITEMS.batch(ITEMS.row(1, id=1, name="shoe")), others.batch(others.row(2, id=2, name="boot"))
    write(sink, batch, other)
    if not store.drop(ITEMS.schema):
        pytest.skip(f"{store.type} keeps all tables in one place")
    with pytest.raises(GapError):
        write(sink, ITEMS.batch(ITEMS.row(3, id=3, name="hat")))
    sink.close()
    again = store.sink()
    again.open()
    for _ in range(2):
        with pytest.raises(GapError, match="no longer holds") as caught:
            claim(again, batch)
        assert "another name" in caught.value.hint
    claim(again, other)
    write(again, others.batch(others.row(4, id=4, name="coat")))
    assert len(held(store, others)) == 2
    again.close()


def test_everything_survives_a_restart(store: Store, sink: Sink) -> None:
    """Versions, tombstones and floors are the store's, not the process's."""
    row = ITEMS.row(5, id=1, name="shoe")
    write(sink, ITEMS.batch(row, ITEMS.deleted(6, id=2)), ITEMS.batch(floor=10, partition=1))
    sink.close()
    sink.close()
    again = store.sink()
    again.open()
    write(
        again,
        ITEMS.batch(ITEMS.row(4, id=1, name="late"), ITEMS.row(3, id=2, name="late")),
        ITEMS.batch(ITEMS.row(9, id=3, name="late"), partition=1),
    )
    assert held(store) == {row.key: ITEMS.values(row)}
    again.close()


def test_zombie_is_fenced(store: Store, sink: Sink) -> None:
    row = ITEMS.row(1, id=1, name="shoe")
    write(sink, ITEMS.batch(row))
    if sink.single_worker:
        sink.close()  # an embedded store may be held by one process at a time: this one hung, and wakes up
    successor = store.sink()
    successor.open()
    newer = ITEMS.row(2, id=2, name="boot")
    write(successor, ITEMS.batch(newer))
    with pytest.raises(FencedError):
        write(sink, ITEMS.batch(ITEMS.row(3, id=1, name="zombie"), ITEMS.deleted(4, id=2)))
    with pytest.raises(FencedError):
        write(sink, ITEMS.batch(floor=100))
    assert held(store) == {row.key: ITEMS.values(row), newer.key: ITEMS.values(newer)}
    last = ITEMS.row(5, id=3, name="goes on")
    write(successor, ITEMS.batch(last))
    assert last.key in held(store)
    successor.close()


def test_a_worker_takes_over_a_table_that_it_has_never_seen(store: Store, sink: Sink) -> None:
    """What the partition's former worker made since then is there for deletes and markers, too."""
    if sink.single_worker:
        pytest.skip("one process holds this store")
    others = table("others")
    write(sink, ITEMS.batch(ITEMS.row(1, id=1, name="shoe")))
    former = store.sink()
    former.open()
    write(former, others.batch(others.row(2, id=2, name="boot"), others.row(3, id=3, name="hat"), partition=1))
    former.close()
    write(sink, others.batch(others.deleted(4, id=2), partition=1))
    assert held(store, others).keys() == {others.key(id=3)}
    write(sink, others.batch(floor=9, partition=1))
    assert held(store, others) == {}


def test_two_workers_share_the_partitions(store: Store, sink: Sink) -> None:
    """Each feeds its own; one that was taken over is refused, and the rest of the batch with it may come again."""
    if sink.single_worker:
        pytest.skip("one process holds this store")
    first, second = ITEMS.row(1, id=1, name="shoe"), ITEMS.row(2, id=2, name="boot")
    write(sink, ITEMS.batch(first, partition=0), ITEMS.batch(second, partition=1))
    other = store.sink()
    other.open()
    third = ITEMS.row(3, id=3, name="hat")
    write(other, ITEMS.batch(third, partition=1))
    fourth = ITEMS.row(4, id=4, name="coat")
    assert write(sink, ITEMS.batch(fourth, partition=0)) == []
    with pytest.raises(FencedError):
        write(sink, ITEMS.batch(ITEMS.row(5, id=5, name="late"), partition=1))
    claim(sink, ITEMS.batch(partition=1))  # given back
    fifth = ITEMS.row(6, id=6, name="belt")
    write(sink, ITEMS.batch(fifth, partition=1))
    with pytest.raises(FencedError):
        write(other, ITEMS.batch(ITEMS.row(7, id=7, name="late"), partition=1))
    assert held(store) == {row.key: ITEMS.values(row) for row in (first, second, third, fourth, fifth)}
    other.close()


def _until_written(sink: Sink, *batches: Any) -> None:
    """Write as delivery does: what is transient is tried again with the same batches."""

    def written() -> bool:
        try:
            write(sink, *batches)
        except TransientError:
            return False
        return True

    wait_until(written, what="a write after the store came back")


def test_store_gone_then_back(store: Store, sink: Sink) -> None:
    first, second = ITEMS.row(1, id=1, name="first"), ITEMS.row(2, id=2, name="second")
    write(sink, ITEMS.batch(first))
    store.cut()
    with pytest.raises(TransientError):
        write(sink, ITEMS.batch(second))
    store.mend()
    _until_written(sink, ITEMS.batch(second))
    assert held(store) == {row.key: ITEMS.values(row) for row in (first, second)}


def test_store_gone_in_the_middle_of_a_write(store: Store, sink: Sink) -> None:
    """Nothing, part or all of the batches may have been applied; after the retry all of it is, once."""
    rows = [ITEMS.row(n, id=n % 700, name=f"name {n}") for n in range(1, 14_001)]
    calls = [(ITEMS.batch(*rows[start : start + 700]),) for start in range(0, 14_000, 700)]
    failed: list[BaseException] = []
    written = 0

    def work() -> None:
        nonlocal written
        try:
            for call in calls:
                write(sink, *call)
                written += 1
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            failed.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    wait_until(lambda: written >= 2 or not worker.is_alive(), what="the first writes")
    store.cut()
    worker.join()
    store.mend()
    assert all(isinstance(error, TransientError) for error in failed), failed
    for call in calls[written:]:
        _until_written(sink, *call)
    assert held(store) == {row.key: ITEMS.values(row) for row in rows[-700:]}


# The suite can fail.


@pytest.mark.parametrize("case", [older_after_newer, delete_then_older_insert], ids=lambda case: str(case.__name__))
def test_a_sink_without_its_guard_fails(
    store: Store, case: Callable[[Store, Sink], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.without_guard(monkeypatch)
    broken = store.sink()
    broken.open()
    try:
        with pytest.raises(AssertionError):
            case(store, broken)
    finally:
        broken.close()
