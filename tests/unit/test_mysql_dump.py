"""How the bytes of a binlog stream are cut into events."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import suppress

import pytest

from connectors.mysql.dump import LONGEST_PACKET, READ_BYTES, events


def packets(*contents: bytes) -> bytes:
    """As a server sends them: numbered, long ones in parts."""
    sent, number = bytearray(), 1
    for content in contents:
        while True:
            part, content = content[:LONGEST_PACKET], content[LONGEST_PACKET:]
            sent += len(part).to_bytes(3, "little") + bytes([number % 256]) + part
            number += 1
            if len(part) < LONGEST_PACKET:
                break
    return bytes(sent)


def reading(pieces: Iterable[bytes]) -> Callable[[int], bytes | None]:
    """A socket that has one piece after the other, and nothing in between."""
    left, waiting = list(pieces)[::-1], False

    def read(count: int) -> bytes | None:
        nonlocal waiting
        assert 0 < count <= READ_BYTES
        waiting = not waiting
        if waiting:
            return None
        if not left:
            raise EOFError
        data = left.pop()
        if data[count:]:
            left.append(data[count:])
        return data[:count]

    return read


def cut(pieces: list[bytes]) -> list[bytes]:
    """All events up to the end of `pieces`."""
    found: list[bytes] = []
    source = events(reading(pieces), lambda packet: ValueError(packet.hex()))
    with suppress(EOFError):
        found.extend(event for event in source if event is not None)
    return found


@pytest.mark.parametrize("most", [1, 2, 7, 1000])
def test_events_are_the_same_in_whatever_pieces_they_come(most: int) -> None:
    some = random.Random(most)
    sent = [some.randbytes(some.choice([1, 2, 3, 19, 200])) for _ in range(600)]  # numbers begin anew after 256
    stream, pieces = packets(*(b"\0" + event for event in sent)), []
    while stream:
        size = some.randint(1, most)
        pieces.append(stream[:size])
        stream = stream[size:]
    assert cut(pieces) == sent


@pytest.mark.parametrize("size", [READ_BYTES, LONGEST_PACKET - 2, LONGEST_PACKET - 1, LONGEST_PACKET, 34_000_000])
def test_large_events(size: int) -> None:
    large = random.Random(size).randbytes(size)
    stream = packets(b"\0before", b"\0" + large, b"\0after")
    pieces = [stream[i : i + 100_000] for i in range(0, len(stream), 100_000)]
    assert cut(pieces) == [b"before", large, b"after"]


@pytest.mark.parametrize("size", [1, 100])
def test_what_is_no_event_is_an_error(size: int) -> None:
    error = b"\xff\xd4\x04#HY000purged"
    stream = packets(b"\0event", error)
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    with pytest.raises(ValueError, match=error.hex()):
        cut(pieces)
    with pytest.raises(ValueError, match=b"\xfe\0\0\0\0".hex()):
        cut([packets(b"\xfe\0\0\0\0")])


def test_packets_are_counted() -> None:
    first, second, third = (packets(*[b"\0event"] * 3)[i : i + 10] for i in (0, 10, 20))
    with pytest.raises(ValueError, match=r"^$"):
        cut([first, third])
    large = packets(b"\0" * (LONGEST_PACKET + 9))
    with pytest.raises(ValueError, match=r"^$"):
        cut([large[: LONGEST_PACKET + 7] + b"\3" + large[LONGEST_PACKET + 8 :]])
    ended = (7).to_bytes(3, "little") + b"\0\xff" + b"ending"  # MariaDB's last word has the number 0
    with pytest.raises(ValueError, match=b"\xffending".hex()):
        cut([first, second, ended])
