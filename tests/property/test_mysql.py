"""MySQL's and MariaDB's bytes: the algebra of GTID sets, and that arbitrary bytes raise one error or none."""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from io import BytesIO
from uuid import UUID

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdc.errors import DecodeError
from connectors.mysql import binary_json
from connectors.mysql.binlog import MAGIC, read_file, unpack
from connectors.mysql.decoding import decode_event
from connectors.mysql.events import EventType, Payload
from connectors.mysql.gtid import Gtid, GtidSet, MariadbGtid, MariadbPosition, Source
from connectors.mysql.statement import Ddl, Dropped, TableName
from connectors.mysql.statements import read_statement
from connectors.mysql.tablemap import decode_table_map
from tests.unit.test_mysql_statement import STATEMENTS

sources = st.builds(Source, st.sampled_from([UUID(int=1), UUID(int=2)]), st.sampled_from(["", "a", "tag_b"]))
numbers = st.integers(1, 12)
gtids = st.builds(Gtid, sources, numbers)
sets = st.lists(gtids, max_size=25)


def of(members: list[Gtid]) -> GtidSet:
    made = GtidSet({})
    for gtid in members:
        made = made.add(gtid)
    return made


@given(sets, sets)
def test_gtid_sets_are_sets(a: list[Gtid], b: list[Gtid]) -> None:
    left, right = of(a), of(b)
    assert left | right == of([*a, *b])
    assert left - right == of([gtid for gtid in a if gtid not in b])
    assert (left <= right) == (set(a) <= set(b))
    assert left <= left | right
    assert not left - left
    assert {gtid for gtid in {*a, *b} if gtid in left} == set(a)
    assert GtidSet.parse(str(left)) == left
    assert GtidSet.decode(left.encode()) == left
    assert hash(of(a[::-1])) == hash(left)
    assert (left == right) == (set(a) == set(b))


@given(st.lists(st.tuples(sources, numbers, numbers), max_size=10))
def test_intervals_in_any_order(intervals: list[tuple[Source, int, int]]) -> None:
    text = ",".join(
        f"{source.uuid}{f':{source.tag}' if source.tag else ''}:{min(a, b)}-{max(a, b)}" for source, a, b in intervals
    )
    members = [Gtid(source, n) for source, a, b in intervals for n in range(min(a, b), max(a, b) + 1)]
    assert GtidSet.parse(text) == of(members)


positions = st.lists(st.builds(MariadbGtid, st.integers(0, 2), st.integers(1, 2), numbers), max_size=8)


@given(positions, positions)
def test_mariadb_positions(a: list[MariadbGtid], b: list[MariadbGtid]) -> None:
    left, right = MariadbPosition.of(a), MariadbPosition.of(b)
    assert left <= left | right
    assert right <= left | right
    assert all(gtid in left for gtid in a)
    assert (left <= right) == (not left - right)
    assert (left - right) | right == left | right
    assert MariadbPosition.parse(str(left)) == left


def event(type_: int, body: bytes, flags: int = 0, checksum: bool = False) -> bytes:
    size = 19 + len(body) + 4 * checksum
    made = struct.pack("<IBIIIH", 1_700_000_000, type_, 1, size, size, flags) + body
    return made + struct.pack("<I", zlib.crc32(made)) if checksum else made


@given(st.one_of(st.sampled_from(EventType), st.integers(0, 255)), st.binary(max_size=200), st.booleans())
@settings(max_examples=1000)
def test_arbitrary_events_raise_one_error(type_: int, body: bytes, checksum: bool) -> None:
    with contextlib.suppress(DecodeError):
        decode_event(event(type_, body, checksum=checksum), checksum=checksum, mariadb=False)
    with contextlib.suppress(DecodeError):
        decode_event(body, checksum=checksum, mariadb=False)


@given(st.binary(max_size=300))
def test_arbitrary_files_raise_one_error(content: bytes) -> None:
    for start in (b"", MAGIC):
        with contextlib.suppress(DecodeError):
            list(read_file(BytesIO(start + content)))
    for compressed in (True, False):
        with contextlib.suppress(DecodeError):
            list(unpack(Payload(compressed, len(content), content)))


NAMES = struct.pack("<IHH", 7, 0, 0) + b"\1s\0\1t\0"


@given(st.binary(max_size=200))
@settings(max_examples=1000)
@example(b"\2\3\3\0\0\4\4\1a\1a")
def test_arbitrary_table_maps_raise_one_error(rest: bytes) -> None:
    for mariadb in (True, False):
        with contextlib.suppress(DecodeError):
            decode_table_map(NAMES + rest, mariadb=mariadb)


@given(st.binary(max_size=300))
@settings(max_examples=1000)
def test_arbitrary_documents_raise_value_error_only(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        binary_json.text(binary_json.parse(content))
    with contextlib.suppress(ValueError):
        binary_json.document_text(content)
    with contextlib.suppress(ValueError):
        binary_json.apply({"a": ["1", "2"]}, binary_json.parse_differences(content))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 31), 1 << 31) | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def binary(value: object, kind: list[int]) -> bytes:
    """A document as MySQL writes it, without its first byte, which `kind` is given: small objects and arrays."""
    match value:
        case None | bool():
            kind[:] = [4]
            return bytes([{None: 0, True: 1, False: 2}[value]])
        case int():
            kind[:] = [5] if -(1 << 15) <= value < 1 << 15 else [7] if -(1 << 31) <= value < 1 << 31 else [9]
            return value.to_bytes({5: 2, 7: 4, 9: 8}[kind[0]], "little", signed=True)
        case str():
            kind[:] = [12]
            content = value.encode()
            length = len(content)
            return (bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])) + content
        case list():
            kind[:] = [2]
            keys, values = [], value
        case dict():
            kind[:] = [0]
            ordered = sorted(value.items(), key=lambda item: (len(item[0].encode()), item[0].encode()))
            keys, values = [key.encode() for key, _ in ordered], [inner for _, inner in ordered]
    place = 4 + 4 * len(keys) + 3 * len(values)
    key_entries = entries = body = b""
    for key in keys:
        key_entries += struct.pack("<HH", place, len(key))
        place += len(key)
    for inner in values:
        of: list[int] = []
        encoded = binary(inner, of)
        inlined = of[0] in (4, 5)
        entries += bytes(of) + (encoded.ljust(2, b"\0") if inlined else struct.pack("<H", place))
        if not inlined:
            body += encoded
            place += len(encoded)
    return struct.pack("<HH", len(values), place) + key_entries + entries + b"".join(keys) + body


@given(JSON, st.data())
@settings(max_examples=300)
def test_documents_are_printed_alike_in_both_ways(value: object, data: st.DataObject) -> None:
    kind: list[int] = []
    body = binary(value, kind)
    document = bytes(kind) + body
    printed = binary_json.document_text(document)
    assert printed == binary_json.text(binary_json.parse(document))
    assert json.loads(printed) == value
    place = data.draw(st.integers(0, len(document) - 1))
    damaged = document[:place] + data.draw(st.binary(min_size=1, max_size=2)) + document[place + 1 :]
    with contextlib.suppress(ValueError):
        binary_json.document_text(damaged)


@st.composite
def spliced(draw: st.DrawFn) -> str:
    """The beginning of one statement and the end of another."""
    first, second = draw(st.sampled_from(STATEMENTS)), draw(st.sampled_from(STATEMENTS))
    return first[: draw(st.integers(0, len(first)))] + second[draw(st.integers(0, len(second))) :]


@given(st.one_of(st.text(), spliced()), st.sampled_from([0, 4, 1 << 20, 4 | 1 << 20]), st.booleans())
@settings(max_examples=2000)
def test_arbitrary_statements_raise_nothing(sql: str, sql_mode: int, mariadb: bool) -> None:
    read_statement(sql, "shop", sql_mode, mariadb=mariadb)


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(names, names, st.sampled_from('`"'), st.sampled_from([" ", "/* ` */", "\n-- ' \n"]))
def test_any_name_is_read_from_its_quotes(schema: str, table: str, quote: str, blank: str) -> None:
    first, second = (quote + name.replace(quote, quote * 2) + quote for name in (schema, table))
    for sql in (f"DROP TABLE {first}.{second}", f"DROP{blank}TABLE{blank}{first}{blank}.{blank}{second}{blank}"):
        assert read_statement(sql, "", 4, mariadb=True) == Ddl((Dropped(TableName(schema, table)),))
