"""Binlog events, byte by byte: what servers seldom or never send in tests, and what is refused."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from io import BytesIO
from uuid import UUID

import pytest
import zstandard

from cdc.errors import DecodeError
from cdc.event import Operation
from connectors.mysql.binlog import MAGIC, read_file, unpack
from connectors.mysql.decoding import decode_event
from connectors.mysql.events import (
    BinlogEvent,
    EventType,
    GtidEvent,
    Heartbeat,
    Incident,
    MariadbGtidEvent,
    MariadbGtidList,
    Passed,
    Payload,
    PreviousGtids,
    Query,
    Rotate,
    Rows,
    XaId,
    XaPrepare,
    Xid,
)
from connectors.mysql.gtid import Gtid, GtidSet, MariadbGtid, MariadbPosition, Source
from tests.property.test_mysql import event

UUID_BYTES = bytes.fromhex("ff4afe30eaa311f1bc7c02fc00000001")
SOURCE = Source(UUID(bytes=UUID_BYTES))
STATUS = b"\1" + struct.pack("<Q", 0x20) + b"\4" + struct.pack("<HHH", 8, 8, 33)

EXAMPLES: list[tuple[int, bytes, BinlogEvent]] = [
    (EventType.ROTATE, struct.pack("<Q", 4) + b"bin.000002", Rotate(4, "bin.000002")),
    (EventType.XID, struct.pack("<Q", 77), Xid(77)),
    (
        EventType.QUERY,
        struct.pack("<IIBHH", 9, 1, 4, 0, len(STATUS)) + STATUS + b"shop\0DROP TABLE `\xe4`",
        Query(9, 1, 0, "shop", "DROP TABLE `ä`", 0x20),
    ),
    (
        EventType.EXECUTE_LOAD_QUERY,
        struct.pack("<IIBHHIIIB", 9, 1, 4, 0, len(STATUS), 1, 9, 20, 0) + STATUS + b"shop\0LOAD DATA",
        Query(9, 1, 0, "shop", "LOAD DATA", 0x20),
    ),
    (
        EventType.GTID,
        b"\1" + UUID_BYTES + struct.pack("<Q", 5) + b"\2" + struct.pack("<qq", 3, 4) + (10**15).to_bytes(7, "little"),
        GtidEvent(Gtid(SOURCE, 5), 1, 3, 4, 10**15, 10**15),
    ),
    (
        EventType.GTID,
        b"\1"
        + UUID_BYTES
        + struct.pack("<Q", 5)
        + b"\2"
        + struct.pack("<qq", 3, 4)
        + (1 << 55 | 7).to_bytes(7, "little")
        + (6).to_bytes(7, "little")
        + b"\xfc\1\1",
        GtidEvent(Gtid(SOURCE, 5), 1, 3, 4, 7, 6),
    ),
    (EventType.ANONYMOUS_GTID, b"\0" + bytes(24), GtidEvent(None, 0, 0, 0, 0, 0)),
    (
        EventType.GTID_TAGGED,
        bytes.fromhex(
            "027600000002fd0394f90360a9038d0222c503f102f804f103000000020404060c6d795f74616708040a08"
            "0c7f188988434861061089041283120b"
        ),
        GtidEvent(Gtid(SOURCE._replace(tag="my_tag"), 1), 0, 1, 2, 1795812858824984, 1795812858824984),
    ),
    (EventType.PREVIOUS_GTIDS, bytes(8), PreviousGtids(GtidSet({}))),
    (
        EventType.MARIADB_GTID,
        struct.pack("<QIB", 100, 3, 1 | 2) + bytes(8),
        MariadbGtidEvent(MariadbGtid(3, 1, 100), True, False, False, None, 0),
    ),
    (
        EventType.MARIADB_GTID,
        struct.pack("<QIBIBB", 100, 0, 64, 1, 2, 1) + b"abc" + b"\x11\2" + struct.pack("<I", 9),
        MariadbGtidEvent(MariadbGtid(0, 1, 100), False, True, False, XaId(1, b"ab", b"c"), 9),
    ),
    (EventType.MARIADB_GTID_LIST, bytes(6), MariadbGtidList(MariadbPosition({}))),
    (
        EventType.MARIADB_GTID_LIST,
        struct.pack("<IIIQ", 1, 0, 1, 5),
        MariadbGtidList(MariadbPosition.parse("0-1-5")),
    ),
    (EventType.XA_PREPARE, struct.pack("<BIII", 1, 7, 1, 2) + b"abc", XaPrepare(True, XaId(7, b"a", b"bc"))),
    (EventType.INCIDENT, b"\1\0\4lost", Incident(1, "lost")),
    (EventType.HEARTBEAT_V2, b"\1\5bin.1\2\3\xfc\0\1\0", Heartbeat("bin.1", 256)),
    (
        EventType.WRITE_ROWS,
        struct.pack("<IHHH", 7, 0, 1, 3) + b"x\2\xffbody",
        Rows(Operation.CREATE, 7, True, 2, None, 3, False, b"body"),
    ),
    (
        EventType.UPDATE_ROWS_V1,
        struct.pack("<IHH", 7, 0, 0) + b"\2\1\3body",
        Rows(Operation.UPDATE, 7, False, 2, 1, 3, False, b"body"),
    ),
    (
        EventType.DELETE_ROWS_COMPRESSED_V1,
        struct.pack("<IHH", 7, 0, 0) + b"\2\3\x81\4" + zlib.compress(b"body"),
        Rows(Operation.DELETE, 7, False, 2, 3, None, False, b"body"),
    ),
    (
        EventType.QUERY_COMPRESSED,
        struct.pack("<IIBHH", 9, 1, 0, 0, 0) + b"\0\x82\0\4" + zlib.compress(b"text"),
        Query(9, 1, 0, "", "text", 0),
    ),
]


@pytest.mark.parametrize(("type_", "body", "expected"), EXAMPLES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("checksum", [True, False])
def test_decode(type_: int, body: bytes, expected: BinlogEvent, checksum: bool) -> None:
    header, decoded = decode_event(event(type_, body, checksum=checksum), checksum=checksum, mariadb=False)
    assert decoded == expected
    assert (header.type, header.server_id, header.timestamp) == (type_, 1, 1_700_000_000)


def test_a_heartbeats_position_is_in_its_header() -> None:
    assert decode_event(event(EventType.HEARTBEAT, b"bin.1"), checksum=False, mariadb=False)[1] == Heartbeat(
        "bin.1", 24
    )


@pytest.mark.parametrize("change", [0, 5, 20, -1])
def test_a_damaged_event_is_told_by_its_checksum(change: int) -> None:
    damaged = bytearray(event(EventType.XID, struct.pack("<Q", 77), checksum=True))
    damaged[change] ^= 1
    with pytest.raises(DecodeError, match="checksum"):
        decode_event(bytes(damaged), checksum=True, mariadb=False)


def test_unknown_events_stop_the_stream_unless_they_may_be_ignored() -> None:
    with pytest.raises(DecodeError, match="unknown binlog event of type 99"):
        decode_event(event(99, b""), checksum=False, mariadb=False)
    assert decode_event(event(99, b"", flags=0x80), checksum=False, mariadb=False)[1] == Passed(99)
    assert decode_event(event(EventType.ROWS_QUERY, b"x"), checksum=False, mariadb=False)[1] == Passed(29)


@pytest.mark.parametrize(
    ("type_", "body", "problem"),
    [
        (EventType.XID, b"", "bytes expected"),
        (EventType.XID, bytes(9), "left over"),
        (EventType.FORMAT_DESCRIPTION, struct.pack("<H50sIB", 3, b"4.1", 0, 19) + bytes(5), "binlog version 3"),
        (EventType.FORMAT_DESCRIPTION, struct.pack("<H50sIB", 4, b"9", 0, 19) + b"\2\0\0\0\0", "checksum algorithm 2"),
        (EventType.WRITE_ROWS_COMPRESSED_V1, struct.pack("<IHH", 7, 0, 0) + b"\1\1\x81\4xx", "damaged"),
        (EventType.WRITE_ROWS_COMPRESSED_V1, struct.pack("<IHH", 7, 0, 0) + b"\1\1\x01\4xx", "unknown compression"),
        (
            EventType.WRITE_ROWS_COMPRESSED_V1,
            struct.pack("<IHH", 7, 0, 0) + b"\1\1\x81\3" + zlib.compress(b"body"),
            "not the 3 bytes",
        ),
        (EventType.WRITE_ROWS_V1, struct.pack("<IHH", 7, 0, 0) + b"\xfe" + b"\xff" * 8, "18446744073709551615 columns"),
        (EventType.TRANSACTION_PAYLOAD, b"\2\1\1\1\1\0\3\1\0\0", "unknown compression 1"),
        (EventType.TRANSACTION_PAYLOAD, b"\2\1\0\1\1\5\3\1\5\0", "5 bytes of content"),
        (EventType.GTID_TAGGED, b"\4\0\0", "version 2"),
    ],
)
def test_what_is_wrong_is_said(type_: int, body: bytes, problem: str) -> None:
    with pytest.raises(DecodeError, match=problem):
        decode_event(event(type_, body), checksum=False, mariadb=False)


def test_a_compressed_transaction_is_unpacked_bit_by_bit() -> None:
    content = event(EventType.XID, struct.pack("<Q", 1)) * 30_000
    compressed = zstandard.ZstdCompressor(write_content_size=False).compress(content)
    assert [decoded for _, decoded in unpack(Payload(True, len(content), compressed))] == [Xid(1)] * 30_000
    for wrong in (compressed[:-1], compressed[: len(compressed) // 2], b"x" + compressed, compressed + b"x"):
        with pytest.raises(DecodeError):
            list(unpack(Payload(True, len(content), wrong)))
    for size in (len(content) - 27, len(content) + 27):
        with pytest.raises(DecodeError, match="instead of"):
            list(unpack(Payload(True, size, compressed)))
    nested = event(EventType.TRANSACTION_PAYLOAD, b"\2\3\xfc\xff\0\1\1\0\3\1\0\0")
    with pytest.raises(DecodeError, match="within another"):
        list(unpack(Payload(False, len(nested), nested)))


def test_a_compressed_transaction_is_not_copied() -> None:
    size = 1 << 20
    whole = event(
        EventType.TRANSACTION_PAYLOAD, b"\2\1\0\1\4\xfd" + size.to_bytes(3, "little") + b"\3\1\0\0" + bytes(size)
    )
    tracemalloc.start()
    try:
        _, payload = decode_event(whole, checksum=False, mariadb=False)
        assert tracemalloc.get_traced_memory()[1] < size / 2
    finally:
        tracemalloc.stop()
    assert isinstance(payload, Payload)
    assert len(payload.content) == size


def test_a_compressed_transaction_takes_no_more_memory_than_an_event() -> None:
    content = event(EventType.XID, struct.pack("<Q", 1)) * 60_000
    payload = Payload(True, len(content), zstandard.ZstdCompressor().compress(content))
    tracemalloc.start()
    try:
        assert sum(1 for _ in unpack(payload)) == 60_000
        assert tracemalloc.get_traced_memory()[1] < len(content) / 2
    finally:
        tracemalloc.stop()


def test_files() -> None:
    xid = event(EventType.XID, struct.pack("<Q", 1))
    assert [decoded for _, decoded in read_file(BytesIO(MAGIC + xid + xid))] == [Xid(1), Xid(1)]
    with pytest.raises(DecodeError, match="does not begin"):
        list(read_file(BytesIO(xid)))
    with pytest.raises(DecodeError, match="ends after"):
        list(read_file(BytesIO(MAGIC + xid[:-1])))
    with pytest.raises(DecodeError, match="claims"):
        list(read_file(BytesIO(MAGIC + struct.pack("<IBIIIH", 0, 16, 1, 5, 0, 0))))
