"""The generated functions: what they make of a row, and what they leave to the plain path."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest

from cdc.errors import DecodeError
from cdc.event import UNCHANGED, Operation, Value
from cdc.formats.envelope import Envelope, plain_records
from cdc.formats.json import decode as decode_row
from cdc.log import Produced
from cdc.record import KEY_CHANGE, PARTIAL, TOMBSTONE, unpack_header
from connectors.postgres.pgoutput import Relation, RelationColumn
from connectors.postgres.wire import compile_copy, compile_relation, unescape
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType

COLUMNS = (
    Column("id", LogicalType(Kind.INT32), "integer"),
    Column("note", LogicalType(Kind.STRING), "text"),
    Column("amount", LogicalType(Kind.DECIMAL, 12, 2), "numeric(12,2)"),
)
ENVELOPE = Envelope("postgresql", "shop", "inventory")
TRANSACTION = ENVELOPE.transaction(555, 1559033904863123, 24023119, 1559033904870456000)
LSN = 24023128
VERSION = 1 << 48 | 7


def table(profile: str = "readable", identity: str = "d") -> tuple[TableSchema, Relation]:
    schema = TableSchema("shop.public.orders", "public", "orders", COLUMNS, ("id",), profile)
    flags = [1, identity == "f", identity == "f"]
    columns = tuple(RelationColumn(int(flag), c.name, 0, -1) for flag, c in zip(flags, COLUMNS, strict=True))
    return schema, Relation(5, "public", "orders", identity, columns)


def image(kind: bytes, *values: bytes | str | None) -> bytes:
    parts = [kind + struct.pack(">H", len(values))]
    for value in values:
        if isinstance(value, bytes):
            parts.append(b"t" + struct.pack(">I", len(value)) + value)
        else:
            parts.append(b"n" if value is None else b"u")
    return b"".join(parts)


def run(
    operation: str, *images: bytes, profile: str = "readable", identity: str = "d", not_null: tuple[str, ...] = ()
) -> tuple[int, list[Produced]]:
    """Versions used, and records."""
    schema, relation = table(profile, identity)
    compiled = compile_relation(relation, schema, not_null)
    frame = b"w" + struct.pack(">QQQ", LSN, LSN, 0) + b"I\0\0\0\5" + b"".join(images)
    records: list[Produced] = []
    used = getattr(compiled, operation)(records.append, frame, 30, TRANSACTION, VERSION, 2)
    return used, records


def document(record: Produced) -> Any:
    assert record.value is not None
    return msgspec.json.decode(record.value)


def test_a_null_in_a_not_null_column_takes_the_plain_way() -> None:
    assert run("insert", image(b"N", b"1", b"a", None), not_null=("amount",)) == (0, [])
    used, (record,) = run("insert", image(b"N", b"1", b"a", b"1.10"), not_null=("amount",))
    assert (used, document(record)["after"]) == (1, {"id": 1, "note": "a", "amount": "1.10"})


def test_insert_is_debeziums_envelope() -> None:
    used, (record,) = run("insert", image(b"N", b"1", b"a", b"1.10"))
    assert used == 1
    assert (record.topic, record.key) == ("shop.public.orders", b'{"id":1}')
    assert document(record) == {
        "before": None,
        "after": {"id": 1, "note": "a", "amount": "1.10"},
        "source": {
            "version": "0.1.0",
            "connector": "postgresql",
            "name": "shop",
            "ts_ms": 1559033904863,
            "snapshot": "false",
            "db": "inventory",
            "sequence": '["24023119","24023128"]',
            "ts_us": 1559033904863123,
            "ts_ns": 1559033904863123000,
            "schema": "public",
            "table": "orders",
            "txId": 555,
            "lsn": 24023128,
            "xmin": None,
        },
        "transaction": None,
        "op": "c",
        "ts_ms": 1559033904870,
        "ts_us": 1559033904870456,
        "ts_ns": 1559033904870456000,
    }
    header = unpack_header(record.header)
    assert header[1:6] == (b"c", 0, 2, VERSION, table()[0].id)
    assert record.value is not None
    after = record.value[header.after_start :][: header.after_length]
    assert decode_row(table()[0], after) == {"id": 1, "note": "a", "amount": "1.10"}


def test_the_first_transaction_has_no_last_commit() -> None:
    transaction = ENVELOPE.transaction(1, 0, None, 0)
    (record,) = plain_records(table()[0], Operation.CREATE, None, [1, None, None], transaction, LSN, 1, 0)
    assert document(record)["source"]["sequence"] == '[null,"24023128"]'


def test_delete_is_followed_by_its_tombstone() -> None:
    used, (deleted, tombstone) = run("delete", image(b"K", b"1", None, None))
    assert used == 1
    assert document(deleted)["op"] == "d"
    assert document(deleted)["before"] == {"id": 1}
    assert document(deleted)["after"] is None
    assert unpack_header(deleted.header)[1:5] == (b"d", 0, 2, VERSION)
    assert (tombstone.key, tombstone.value) == (deleted.key, None)
    assert unpack_header(tombstone.header)[1:5] == (b"d", TOMBSTONE, 2, VERSION)


def test_a_key_change_is_delete_tombstone_create_with_two_versions() -> None:
    used, records = run("update", image(b"K", b"1", None, None), image(b"N", b"2", b"a", None))
    assert used == 2
    assert [(r.key, unpack_header(r.header)[1:5]) for r in records] == [
        (b'{"id":1}', (b"d", KEY_CHANGE, 2, VERSION)),
        (b'{"id":1}', (b"d", KEY_CHANGE | TOMBSTONE, 2, VERSION)),
        (b'{"id":2}', (b"c", KEY_CHANGE, 2, VERSION + 1)),
    ]
    assert records[1].value is None
    assert (document(records[2])["op"], document(records[2])["before"]) == ("c", None)


def test_updates_show_the_old_row_as_far_as_it_was_sent() -> None:
    new = image(b"N", b"1", b"b", None)
    assert document(run("update", new)[1][0])["before"] is None
    used, (record,) = run("update", image(b"O", b"1", b"a", None), new, identity="f")
    assert used == 1
    assert document(record)["before"] == {"id": 1, "note": "a", "amount": None}
    header = unpack_header(record.header)
    assert record.value is not None
    assert record.value[header.after_start :][: header.after_length] == b'{"id":1,"note":"b","amount":null}'


def test_the_debezium_profile_fabricates_what_an_old_row_lacks() -> None:
    old = image(b"K", b"1", None, None)
    _, (deleted, _) = run("delete", old, profile="debezium", not_null=("id", "amount"))
    assert document(deleted)["before"] == {"id": 1, "note": None, "amount": "AA=="}


@pytest.mark.parametrize(
    ("operation", "images"),
    [
        ("insert", [image(b"N", b"1", "unchanged", None)]),
        ("update", [image(b"N", b"1", "unchanged", None)]),
        ("insert", [image(b"N", None, b"a", None)]),
        ("insert", [image(b"N", b"1", b"\xff", None)]),
        ("insert", [image(b"N", b"1", b"a")]),
        ("insert", [image(b"N", b"1", b"a", None, None)]),
        ("insert", [image(b"N", b"1", b"a", None) + b"\0"]),
        ("insert", [image(b"N", b"1", b"a", None)[:-1]]),
        ("insert", [image(b"N", b"1", b"a", b"1.10")[:-1]]),
        ("insert", [image(b"O", b"1", b"a", None)]),
        ("update", [image(b"O", b"1", b"a", None), image(b"N", b"1", b"a", None)]),
        ("delete", [image(b"K", b"1", b"not in the identity", None)]),
        ("delete", [image(b"K", None, None, None)]),
    ],
)
def test_the_odd_is_left_to_the_plain_path(operation: str, images: list[bytes]) -> None:
    assert run(operation, *images) == (0, [])


@pytest.mark.parametrize("profile", ["readable", "debezium"])
def test_a_value_that_was_not_sent_is_listed(profile: str) -> None:
    schema, _ = table(profile)
    row: list[Value] = [1, UNCHANGED, None]
    (record,) = plain_records(schema, Operation.UPDATE, None, row, TRANSACTION, LSN, VERSION, 0)
    assert document(record)["source"]["unchanged"] == ["note"]
    after = {"id": 1, "amount": None}
    sent = after if profile == "readable" else {**after, "note": "__debezium_unavailable_value"}
    assert document(record)["after"] == sent
    header = unpack_header(record.header)
    assert header.flags == PARTIAL
    assert record.value is not None
    image_ = record.value[header.after_start :][: header.after_length]
    assert decode_row(schema, image_, partial=True) == after
    assert decode_row(schema, image_, partial=False) == sent


@pytest.mark.parametrize("key", [None, UNCHANGED])
def test_a_row_without_its_key_is_refused(key: Value) -> None:
    with pytest.raises(DecodeError, match="without its key column id"):
        plain_records(table()[0], Operation.CREATE, None, [key, "a", None], TRANSACTION, LSN, VERSION, 0)


@pytest.mark.parametrize(
    ("type_", "native", "same", "key"),
    [
        (LogicalType(Kind.DECIMAL), "numeric", [b"1", b"1.0", b"1.00"], b'{"k":"1"}'),
        (LogicalType(Kind.DECIMAL), "numeric", [b"100"], b'{"k":"100"}'),
        (LogicalType(Kind.FLOAT64), "double precision", [b"0", b"-0"], b'{"k":0}'),
        (LogicalType(Kind.STRING), "citext", [b"Ab", b"aB"], b'{"k":"ab"}'),
        (LogicalType(Kind.STRING), "public.citext", [b"Ab", b"aB"], b'{"k":"ab"}'),
        (LogicalType(Kind.STRING), "bpchar", [b"a ", b"a"], b'{"k":"a"}'),
        (LogicalType(Kind.STRING), "text", [b"A "], b'{"k":"A "}'),
    ],
)
def test_equal_keys_are_equal_bytes(type_: LogicalType, native: str, same: list[bytes], key: bytes) -> None:
    schema = TableSchema("t", "public", "t", (Column("k", type_, native),), ("k",))
    records: list[Produced] = []
    compile_copy(schema).read(records.append, same, ENVELOPE.reading(0, 0), VERSION, set())
    assert {record.key for record in records} == {key}


def test_the_order_of_the_key_is_the_schemas() -> None:
    columns = tuple(Column(name, LogicalType(Kind.INT32), "integer") for name in "abc")
    schema = TableSchema("t", "public", "t", columns, ("c", "a"))
    records: list[Produced] = []
    compile_copy(schema).read(records.append, [b"1\t2\t3"], TRANSACTION, VERSION, set())
    assert records[0].key == b'{"c":3,"a":1}'


def test_a_line_that_does_not_fit_is_an_error_without_its_values() -> None:
    schema, _ = table()
    for line in (b"1\tsecret", b"\\N\tsecret\t1.00", b"1\tsecret\xff\t1.00"):
        with pytest.raises(DecodeError) as raised:
            compile_copy(schema).read([].append, [line], TRANSACTION, VERSION, set())
        assert "secret" not in str(raised.value)


def test_copys_escapes() -> None:
    assert unescape(b"\\N") is None
    assert unescape(rb"a\tb\\N\n\101\x41\q") == b"a\tb\\N\nAAq"


def test_the_key_must_be_in_the_old_image() -> None:
    schema, relation = table()
    columns = tuple(RelationColumn(0, column.name, 0, -1) for column in relation.columns)
    with pytest.raises(ValueError, match="key"):
        compile_relation(Relation(5, "public", "orders", "d", columns), schema)


def test_generated_source_can_be_read() -> None:
    schema, relation = table()
    source = compile_relation(relation, schema).source
    assert source.count("\ndef ") + source.startswith("def ") == 3
    assert "c2 = b'\"%b\"' % v" in source
    assert "\n\n\n\n" not in source
