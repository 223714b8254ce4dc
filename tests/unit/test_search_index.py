"""Names and mappings of search indices."""

from __future__ import annotations

import pytest

from cdc.sink import Row
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType
from sinks._bulk import document_id, insertion
from sinks._search_index import MAX_NAME_BYTES, field_names, index_name, mapping


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shop.public.customer", "shop.public.customer"),
        ("shop.Public.Order Items", "shop.public.order=20items"),
        ("shop.public.é#*", "shop.public.=c3=a9=23=2a"),
        ("_x", "=5fx"),
        ("..", "=2e."),
    ],
)
def test_index_name(text: str, expected: str) -> None:
    assert index_name(text) == expected


def test_long_index_names_stay_apart() -> None:
    first, second = index_name("x" * 300 + "1"), index_name("x" * 300 + "2")
    assert first != second
    assert len(first.encode()) <= MAX_NAME_BYTES


def test_columns_with_names_that_the_index_has_a_meaning_for_get_others() -> None:
    names = {"id": "id", "a.b": "a=2eb", "_id": "=5fid", "a=b": "a=3db", "a_b": "a_b", " ": "=20", "é x": "é x"}
    columns = tuple(Column(name, LogicalType(Kind.STRING), "text") for name in names)
    assert field_names(TableSchema("t", "public", "t", columns, ("id",))) == names


@pytest.mark.parametrize("profile", ["readable", "debezium"])
def test_every_kind_has_a_mapping(profile: str) -> None:
    kinds = [kind for kind in Kind if kind is not Kind.ARRAY]
    types = [LogicalType(kind) for kind in kinds] + [
        LogicalType(Kind.ARRAY, element=LogicalType(kind)) for kind in kinds
    ]
    columns = tuple(Column(f"c{n}", each, "x") for n, each in enumerate(types))
    fields = mapping(TableSchema("t", "public", "t", columns, ("c0",), profile))
    assert list(fields) == [column.name for column in columns]
    assert all(fields[f"c{n}"] == fields[f"c{n + len(kinds)}"] for n in range(len(kinds)))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b'{"id":1}', b'"1"'),
        (b'{"id":"a\\"b"}', b'"a\\"b"'),
        (b'{"id":true}', b'"true"'),
        (b'{"a":1,"b":"x"}', b'"[1,\\"x\\"]"'),
        (b'{"id":"' + b"x" * 512 + b'"}', b'"' + b"x" * 512 + b'"'),
    ],
)
def test_document_id(key: bytes, expected: bytes) -> None:
    assert document_id(key) == expected


@pytest.mark.parametrize(
    "key", [b'{"id":""}', b'{"id":"' + b"x" * 513 + b'"}', b'{"id":"' + "é".encode() * 257 + b'"}']
)
def test_id_that_the_index_does_not_allow_is_hashed(key: bytes) -> None:
    assert document_id(key).startswith(b'"sha256:')
    assert document_id(key) != document_id(key.replace(b"}", b',"b":1}'))


def test_line_ends_between_tokens_do_not_end_the_entry() -> None:
    entry = insertion(b'"i"', 0, Row(b'{"id":1}', 5, None, None, False, 0), b'{"id":1,\n "j":2}')
    assert entry.count(b"\n") == 2
