"""A batch of records becomes one row per key: by example."""

from __future__ import annotations

import json

import pytest

from cdc.errors import DecodeError, PermanentError, TransientError
from cdc.formats.debezium import placeholder
from cdc.log import Fetched, Record
from cdc.record import (
    KEY_CHANGE,
    LAYOUT,
    PARTIAL,
    SWEEP_KEY,
    TOMBSTONE,
    TRUNCATE_KEY,
    marker_header,
    pack_header,
)
from cdc.reduce import filled, history, key_hash, reduce
from cdc.sink import Batch, Row
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType

INTEGER, TEXT = LogicalType(Kind.INT32), LogicalType(Kind.STRING)
ORDERS = TableSchema(
    "shop.public.orders",
    "public",
    "orders",
    (
        Column("id", INTEGER, "integer"),
        Column("note", TEXT, "text"),
        Column("price", LogicalType(Kind.DECIMAL), "numeric"),
    ),
    ("id",),
)
SCHEMAS = {ORDERS.id: ORDERS}


def key(number: int) -> bytes:
    return b'{"id":%d}' % number


def change(
    operation: bytes,
    number: int,
    version: int,
    after: bytes | None = None,
    *,
    flags: int = 0,
    schema: TableSchema = ORDERS,
    offset: int | None = None,
) -> Record:
    """A record as capture writes it; without `after` its value has none."""
    value = b'{"before":null,"after":' + (b"null" if after is None else after) + b',"op":"x"}'
    place = (23, len(after)) if after is not None else (0, 0)
    header = pack_header(LAYOUT, operation, flags, 0, version, schema.id, *place)
    return Record(version if offset is None else offset, key(number), value, header, 0)


def tombstone(number: int, version: int) -> Record:
    return Record(version, key(number), None, pack_header(LAYOUT, b"d", TOMBSTONE, 0, version, ORDERS.id, 0, 0), 0)


def truncate(version: int) -> Record:
    return Record(version, TRUNCATE_KEY, b"", marker_header(b"t", version), 0)


def sweep(version: int, offset: int) -> Record:
    return Record(offset, SWEEP_KEY, b"", marker_header(b"s", version), 0)


def one(*records: Record) -> Batch:
    """The only batch that `records` of one partition become."""
    (batch,) = reduce([Fetched(ORDERS.topic, 3, list(records), 1000)], SCHEMAS.__getitem__)
    assert batch[:2] == (ORDERS.topic, 3)
    assert batch.next_offset == 1000
    return batch


def test_a_row_is_cut_out_of_its_envelope() -> None:
    assert one(change(b"c", 1, 7, b'{"id":1}', offset=70)).rows == [Row(key(1), 7, b'{"id":1}', ORDERS, False, 70)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_highest_version_wins_in_whatever_order(order: tuple[int, ...]) -> None:
    records = [change(b"c", 1, 1, b'{"id":1}'), change(b"u", 1, 2, b'{"id":2}'), change(b"u", 1, 1 << 62, b'{"id":3}')]
    (row,) = one(*(records[place] for place in order)).rows
    assert (row.version, row.after) == (1 << 62, b'{"id":3}')


def test_a_delete_and_its_tombstone_are_one_delete() -> None:
    batch = one(change(b"c", 1, 1, b"{}"), change(b"d", 1, 2), tombstone(1, 2))
    assert batch.rows == [Row(key(1), 2, None, ORDERS, False, 2)]


def test_a_tombstone_whose_delete_was_compacted_away_is_a_delete() -> None:
    assert one(tombstone(1, 2)).rows == [Row(key(1), 2, None, ORDERS, False, 2)]


def test_a_key_change_is_a_delete_and_a_row() -> None:
    batch = one(
        change(b"d", 1, 5, flags=KEY_CHANGE), tombstone(1, 5), change(b"c", 2, 6, b'{"id":2}', flags=KEY_CHANGE)
    )
    assert [(row.key, row.version, row.after) for row in batch.rows] == [(key(1), 5, None), (key(2), 6, b'{"id":2}')]


def test_messages_are_passed_over() -> None:
    assert one(change(b"m", 1, 5)) == Batch(ORDERS.topic, 3, 0, [], [], 1000)


def test_an_empty_fetch_still_moves_the_offset() -> None:
    assert one() == Batch(ORDERS.topic, 3, 0, [], [], 1000)


def test_partitions_are_kept_apart_and_fetches_of_one_joined() -> None:
    first, second, third = (change(b"c", 1, version, b"{}") for version in (1, 2, 3))
    batches = reduce(
        [Fetched("a", 1, [first], 2), Fetched("a", 0, [second], 3), Fetched("a", 1, [third], 4)], SCHEMAS.__getitem__
    )
    assert [(b.topic, b.partition, [row.version for row in b.rows], b.next_offset) for b in batches] == [
        ("a", 1, [3], 4),
        ("a", 0, [2], 3),
    ]


def test_a_marker_raises_the_floor_and_supersedes_what_is_older() -> None:
    batch = one(
        change(b"c", 1, 1, b"{}"),
        change(b"c", 2, 2, b"{}"),
        truncate(3),
        change(b"c", 2, 4, b'{"id":2}'),
        change(b"c", 3, 5, b"{}"),
    )
    assert batch.floor == 3
    assert [(row.key, row.version) for row in batch.rows] == [(key(2), 4), (key(3), 5)]
    assert batch.superseded == [key(1)]


def test_a_row_of_the_sweeps_own_version_stays() -> None:
    batch = one(change(b"c", 1, 4, b"{}"), change(b"r", 2, 5, b"{}"), sweep(5, offset=6))
    assert batch.floor == 5
    assert [row.key for row in batch.rows] == [key(2)]
    assert batch.superseded == [key(1)]


def test_the_highest_floor_counts_also_for_rows_behind_it() -> None:
    batch = one(truncate(9), sweep(5, offset=10), change(b"c", 1, 7, b"{}", offset=11))
    assert (batch.floor, batch.rows, batch.superseded) == (9, [], [key(1)])


def test_a_partial_row_is_filled_from_the_row_before_it() -> None:
    before = b'{"id":1,"note":"a\\u00e9b","price":1.10}'
    batch = one(change(b"c", 1, 1, before), change(b"u", 1, 2, b'{"id":1,"price":2e0}', flags=PARTIAL))
    assert batch.rows == [Row(key(1), 2, b'{"id":1,"note":"a\\u00e9b","price":2e0}', ORDERS, False, 2)]


def test_partial_rows_fill_each_other_and_stay_partial() -> None:
    batch = one(
        change(b"u", 1, 1, b'{"id":1,"price":1}', flags=PARTIAL),
        change(b"u", 1, 2, b'{"id":1}', flags=PARTIAL),
    )
    assert batch.rows == [Row(key(1), 2, b'{"id":1,"price":1}', ORDERS, True, 2)]


def test_partial_rows_that_have_all_columns_between_them_are_whole() -> None:
    batch = one(
        change(b"u", 1, 1, b'{"id":1,"note":"x"}', flags=PARTIAL),
        change(b"u", 1, 2, b'{"id":1,"price":1}', flags=PARTIAL),
    )
    assert batch.rows == [Row(key(1), 2, b'{"id":1,"note":"x","price":1}', ORDERS, False, 2)]


def test_a_partial_row_takes_nothing_from_behind_a_whole_one_or_a_delete() -> None:
    whole, partial = b'{"id":1,"note":"old","price":1}', b'{"id":1,"price":2}'
    batch = one(
        change(b"c", 1, 1, whole),
        change(b"d", 1, 2),
        change(b"u", 1, 3, partial, flags=PARTIAL),
    )
    # Nothing that the store holds from before the delete may come back: the row counts as whole.
    assert batch.rows == [Row(key(1), 3, partial, ORDERS, False, 3)]
    replaced = one(
        change(b"c", 1, 1, whole),
        change(b"u", 1, 2, b'{"id":1,"note":"older"}', flags=PARTIAL),
        change(b"u", 1, 3, b'{"id":1,"note":"new","price":3}'),
        change(b"u", 1, 4, b'{"id":1}', flags=PARTIAL),
    )
    assert [row.after for row in replaced.rows] == [b'{"id":1,"note":"new","price":3}']


def test_a_partial_row_takes_nothing_from_behind_a_truncate() -> None:
    partial = b'{"id":1,"price":2}'
    batch = one(
        change(b"c", 1, 1, b'{"id":1,"note":"old","price":1}'),
        truncate(2),
        change(b"u", 1, 3, partial, flags=PARTIAL),
    )
    assert [(row.after, row.partial) for row in batch.rows] == [(partial, True)]
    assert batch.superseded == []


def test_a_column_that_changed_its_type_or_went_is_not_carried_over() -> None:
    later = TableSchema(
        ORDERS.topic, "public", "orders", (ORDERS.columns[0], Column("note", INTEGER, "integer")), ("id",)
    )
    older = Row(key(1), 1, b'{"id":1,"note":"x","price":1}', ORDERS, False, 0)
    row = Row(key(1), 2, b'{"id":1}', later, True, 0)
    assert filled(row, older) == row
    dropped = TableSchema(ORDERS.topic, "public", "orders", ORDERS.columns[:2], ("id",))
    assert filled(row._replace(schema=dropped), older).after == b'{"id":1,"note":"x"}'


def test_a_column_that_no_older_row_can_have_does_not_make_a_row_partial() -> None:
    added = TableSchema(ORDERS.topic, "public", "orders", (*ORDERS.columns, Column("new", TEXT, "text")), ("id",))
    older = Row(key(1), 1, b'{"id":1,"note":"x","price":1}', ORDERS, False, 0)
    row = Row(key(1), 2, b'{"id":1}', added, True, 0)
    assert filled(row, older) == Row(key(1), 2, older.after, added, False, 0)
    assert filled(row, older._replace(partial=True)).partial


def test_placeholders_of_the_debezium_profile_are_not_values() -> None:
    schema = TableSchema(ORDERS.topic, "public", "orders", ORDERS.columns, ("id",), "debezium")
    after = b'{"id":1,"note":%b,"price":2}' % placeholder(TEXT)
    record = change(b"u", 1, 2, after, flags=PARTIAL, schema=schema)
    (batch,) = reduce([Fetched("a", 0, [record], 3)], {schema.id: schema}.__getitem__)
    assert batch.rows == [Row(key(1), 2, b'{"id":1,"price":2}', schema, True, 2)]
    complete = change(b"u", 1, 2, after, schema=schema)
    (batch,) = reduce([Fetched("a", 0, [complete], 3)], {schema.id: schema}.__getitem__)
    assert [row.after for row in batch.rows] == [after]


@pytest.mark.parametrize("header", [b"", b"\x01c", b"x" * 32, marker_header(b"?", 1), b"\x02" + bytes(31)])
def test_a_record_that_is_not_ours_stops_the_sink_and_is_named(header: bytes) -> None:
    record = Record(42, b'{"id":"secret"}', b"{}", header, 0)
    with pytest.raises(PermanentError, match=r"record 42 in partition 3 of topic 'shop.public.orders'") as caught:
        one(change(b"c", 1, 1, b"{}"), record)
    assert "secret" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("value", "start", "length"),
    [
        (None, 23, 2),
        (b"", 0, 0),
        (b'{"after":null}', 0, 0),
        (b'{"after":{}}', 8, 2),
        (b'{"after":{}}', 9, 1),
        (b'{"after":{}}', 9, 40),
        (b'{"after":{}}', 900, 2),
    ],
)
def test_a_value_without_a_row_where_the_header_says_is_an_error(value: bytes | None, start: int, length: int) -> None:
    header = pack_header(LAYOUT, b"c", 0, 0, 1, ORDERS.id, start, length)
    with pytest.raises(DecodeError, match=r"record 42 in partition 3") as caught:
        one(Record(42, b'{"id":"secret"}', value, header, 0))
    assert "secret" not in str(caught.value)
    assert key_hash(b'{"id":"secret"}') in str(caught.value)


def test_what_the_schemas_say_is_passed_on() -> None:
    def unknown(_: bytes) -> TableSchema:
        raise TransientError("not yet")

    with pytest.raises(TransientError, match="not yet"):
        reduce([Fetched("a", 0, [change(b"c", 1, 1, b"{}")], 3)], unknown)


def test_values_are_not_parsed() -> None:
    """Neither large numbers nor odd spellings change on their way."""
    after = b'{"id":1,"note":"\\ud83d\\ude00","price":123456789012345678901234567890.10}'
    assert json.loads(after)["note"] == "\N{GRINNING FACE}"
    assert [row.after for row in one(change(b"c", 1, 1, after)).rows] == [after]


def test_history_keeps_every_row_and_a_marker_begins_a_new_batch() -> None:
    records = [
        change(b"c", 1, 1, b'{"id":1,"note":"x","price":1}')._replace(timestamp=1_000),
        change(b"u", 1, 2, b'{"id":1,"price":2}', flags=PARTIAL),
        change(b"d", 1, 3),
        tombstone(1, 3),
        change(b"m", 1, 4),
        change(b"c", 1, 5, b'{"id":1,"note":"y"}'),
        truncate(6)._replace(timestamp=2_000),
        change(b"u", 1, 7, b'{"id":1,"price":3}', flags=PARTIAL),
        tombstone(2, 8),
    ]
    place = (ORDERS.topic, 3)
    assert history([Fetched(*place, records[:2], 9), Fetched(*place, records[2:], 10)], SCHEMAS.__getitem__) == [
        Batch(
            *place,
            0,
            [
                Row(key(1), 1, b'{"id":1,"note":"x","price":1}', ORDERS, False, 1, 1_000),
                Row(key(1), 2, b'{"id":1,"note":"x","price":2}', ORDERS, False, 2),
                Row(key(1), 3, None, ORDERS, False, 3),
                Row(key(1), 5, b'{"id":1,"note":"y"}', ORDERS, False, 5),
            ],
            [],
            10,
        ),
        Batch(
            *place,
            6,
            [
                Row(key(1), 7, b'{"id":1,"price":3}', ORDERS, True, 7),  # nothing of what was before the truncate
                Row(key(2), 8, None, ORDERS, False, 8),
            ],
            [],
            10,
            2_000,
        ),
    ]
