"""Where in the binlog the stream stands: what headers, rotations and heartbeats tell of it."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from cdc.errors import GapError
from connectors.mysql.events import EventType
from connectors.mysql.position import BinlogPlace
from connectors.mysql.reader import EventReader
from tests.property.test_mysql import event

WRAP = 1 << 32
NOWHERE = BinlogPlace()


def reader(events: Iterable[bytes], passed: BinlogPlace = NOWHERE) -> EventReader:
    """Of a server that has sent `events`."""
    left = iter(events)
    connection: Any = SimpleNamespace(
        checksum=False, server=SimpleNamespace(mariadb=False), receive=lambda: next(left, None)
    )
    return EventReader(connection, passed)


def ending(position: int) -> bytes:
    """An event that ends there in its file."""
    made = event(EventType.XID, struct.pack("<Q", 1))
    return made[:13] + struct.pack("<I", position % WRAP) + made[17:]


def rotate(file: str, position: int = 4) -> bytes:
    return event(EventType.ROTATE, struct.pack("<Q", position) + file.encode())


def test_a_file_of_more_than_four_gigabytes() -> None:
    """A header has 32 bits for its place; a file grows beyond that by one huge transaction."""
    ends = [1 << 30, 3 << 30, 5 << 30, 7 << 30, 9 << 30]
    events = [rotate("bin.000001"), *(ending(end) for end in ends)]
    read = reader([*events, rotate("bin.000002"), ending(200)])
    assert read.read() is not None
    for end in ends:
        found = read.read()
        assert found is not None
        assert found[2] == end
        assert read.place == BinlogPlace("bin.000001", end)
    for place in (4, 200):
        assert read.read() is not None
        assert read.place == BinlogPlace("bin.000002", place)
    assert read.read() is None


def test_what_is_sent_again_lies_before_what_was_passed() -> None:
    passed = BinlogPlace("bin.000009", 500)
    read = reader([rotate("bin.000009"), ending(300), rotate("bin.000010")], passed)
    for place in (passed, passed, BinlogPlace("bin.000010", 4)):
        assert read.read() is not None
        assert read.place == place


def test_what_the_server_lost_is_a_gap() -> None:
    read = reader([event(EventType.INCIDENT, b"\1\0\4lost")])
    with pytest.raises(GapError, match=r"(?s)lost events .*: lost.*`cdc snapshot`"):
        read.read()
