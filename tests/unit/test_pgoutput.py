"""Messages of pgoutput, byte by byte as the manual has them."""

from __future__ import annotations

import struct

import pytest

from cdc.errors import DecodeError
from cdc.event import UNCHANGED
from connectors.postgres.pgoutput import (
    Begin,
    Commit,
    Delete,
    Insert,
    Keepalive,
    Message,
    Origin,
    PgoutputMessage,
    Relation,
    RelationColumn,
    Truncate,
    Type,
    Update,
    XLogData,
    decode,
    decode_begin,
    decode_commit,
    decode_frame,
)

LSN = struct.pack(">Q", 0x16_B374_D848)
TIME = struct.pack(">q", 1)
MICROSECONDS_2000 = 946_684_800_000_000

EXAMPLES: list[tuple[bytes, PgoutputMessage]] = [
    (b"B" + LSN + TIME + b"\0\0\0\7", Begin(0x16_B374_D848, MICROSECONDS_2000 + 1, 7)),
    (b"C\0" + LSN + LSN + TIME, Commit(0, 0x16_B374_D848, 0x16_B374_D848, MICROSECONDS_2000 + 1)),
    (b"M\1" + LSN + b"cdc\0\0\0\0\2\0x", Message(True, 0x16_B374_D848, "cdc", b"\0x")),
    (b"O" + LSN + b"other\0", Origin(0x16_B374_D848, "other")),
    (
        b"R\0\0\0\5public\0orders\0d\0\2\1id\0\0\0\0\x17\xff\xff\xff\xff\0n\xc3\xb6te\0\0\0\4\x13\0\0\0\x18",
        Relation(5, "public", "orders", "d", (RelationColumn(1, "id", 23, -1), RelationColumn(0, "nöte", 1043, 24))),
    ),
    (b"Y\0\0\0\5public\0mood\0", Type(5, "public", "mood")),
    (b"I\0\0\0\5N\0\3t\0\0\0\1anu", Insert(5, [b"a", None, UNCHANGED])),
    (b"U\0\0\0\5N\0\1t\0\0\0\0", Update(5, None, None, [b""])),
    (b"U\0\0\0\5K\0\1t\0\0\0\1aN\0\1t\0\0\0\1b", Update(5, b"K", [b"a"], [b"b"])),
    (b"U\0\0\0\5O\0\1nN\0\1n", Update(5, b"O", [None], [None])),
    (b"D\0\0\0\5K\0\1t\0\0\0\1a", Delete(5, b"K", [b"a"])),
    (b"T\0\0\0\2\3\0\0\0\5\0\0\0\6", Truncate((5, 6), 3)),
]


@pytest.mark.parametrize(("message", "expected"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_decode(message: bytes, expected: PgoutputMessage) -> None:
    assert decode(message) == expected


@pytest.mark.parametrize(("message", "expected"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_no_part_of_a_message_is_a_message(message: bytes, expected: PgoutputMessage) -> None:
    for length in range(len(message)):
        with pytest.raises(DecodeError):
            decode(message[:length])
    with pytest.raises(DecodeError, match=r"left over|announced"):
        decode(message + b"\0")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (b"", "unknown pgoutput message"),
        (b"S\0\0\0\1\1", "unknown pgoutput message"),
        (b"I\0\0\0\5X\0\0", "unknown kind of row"),
        (b"I\0\0\0\5N\0\1b\0\0\0\0", "unknown kind of value"),
        (b"I\0\0\0\5N\0\1t\xff\xff\xff\xff", "bytes expected"),
        (b"R\0\0\0\5public\0orders\0x\0\0", "unknown replica identity"),
        (b"Y\0\0\0\5\xff\0mood\0", "not UTF-8"),
        (b"O" + LSN + b"endless", "does not end"),
        (b"T\xff\xff\xff\xff\0", "announced"),
    ],
)
def test_what_is_wrong_is_said(message: bytes, problem: str) -> None:
    with pytest.raises(DecodeError, match=problem):
        decode(message)


def test_frames() -> None:
    assert decode_frame(b"w" + LSN + LSN + TIME + b"body") == XLogData(
        0x16_B374_D848, 0x16_B374_D848, MICROSECONDS_2000 + 1, b"body"
    )
    assert decode_frame(b"k" + LSN + TIME + b"\1") == Keepalive(0x16_B374_D848, MICROSECONDS_2000 + 1, True)
    for wrong in (b"", b"x", b"w" + LSN, b"k" + LSN + TIME, b"k" + LSN + TIME + b"\0\0"):
        with pytest.raises(DecodeError):
            decode_frame(wrong)


@pytest.mark.parametrize(("message", "expected"), EXAMPLES[:2], ids=["begin", "commit"])
def test_the_quick_ways_read_what_the_plain_one_reads(message: bytes, expected: PgoutputMessage) -> None:
    quick = decode_begin if isinstance(expected, Begin) else decode_commit
    frame = b"w" + bytes(24) + message
    assert quick(frame, 26) == expected
    for length in range(len(frame)):
        with pytest.raises(DecodeError):
            quick(frame[:length], 26)
    with pytest.raises(DecodeError):
        quick(frame + b"x", 26)
