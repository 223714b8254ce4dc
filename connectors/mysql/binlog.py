"""Binlog files, and the transactions that MySQL compresses: streams of events, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, Final

import zstandard

from cdc.errors import DecodeError
from connectors.mysql.decoding import HEADER_SIZE, decode_event, decode_header
from connectors.mysql.events import BinlogEvent, FormatDescription, Header, Payload

MAGIC: Final = b"\xfebin"
_PIECE: Final = 1 << 20
"""How much is read at once: an event that claims to be huge takes no memory for what is not there."""


class _Source:
    """Bytes that are read in pieces."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, count: int) -> bytes:
        """`count` bytes, fewer at the end."""
        parts = []
        while count > 0 and (part := self._stream.read(min(count, _PIECE))):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def event(self) -> bytes:
        """The next event, empty at the end."""
        head = self.read(HEADER_SIZE)
        if not head:
            return b""
        rest = decode_header(head).size - HEADER_SIZE
        event = head + self.read(rest)
        if len(event) - HEADER_SIZE != rest:
            raise DecodeError(f"a binlog event ends after {len(event)} of {rest + HEADER_SIZE} bytes")
        return event


def read_file(file: BinaryIO) -> Iterator[tuple[Header, BinlogEvent]]:
    """The events of a binlog file, compressed transactions unpacked. Raises DecodeError, whatever the bytes."""
    if file.read(len(MAGIC)) != MAGIC:
        raise DecodeError("a file that does not begin as binlog files do")
    source = _Source(file)
    checksum = mariadb = False
    while event := source.event():
        header, decoded = decode_event(event, checksum=checksum, mariadb=mariadb)
        if isinstance(decoded, FormatDescription):
            checksum, mariadb = decoded.checksum, decoded.mariadb
        yield header, decoded
        if isinstance(decoded, Payload):
            yield from unpack(decoded)


def unpack(payload: Payload) -> Iterator[tuple[Header, BinlogEvent]]:
    """The events of a compressed transaction, in memory for one event. Raises DecodeError, whatever the bytes."""
    if not payload.compressed:
        yield from _unpacked(BytesIO(payload.content), payload.size)
        return
    with zstandard.ZstdDecompressor().stream_reader(payload.content, read_across_frames=True) as reader:
        yield from _unpacked(reader, payload.size)


def _unpacked(stream: BinaryIO, size: int) -> Iterator[tuple[Header, BinlogEvent]]:
    source = _Source(stream)
    place = 0
    try:
        while event := source.event():
            header, decoded = decode_event(event, checksum=False, mariadb=False)
            if isinstance(decoded, Payload):
                raise DecodeError("a compressed transaction within another")
            place += len(event)
            yield header, decoded
    except zstandard.ZstdError as error:
        raise DecodeError("a compressed transaction is damaged") from error
    if place != size:  # the end of what is compressed may be missing without an error
        raise DecodeError(f"a compressed transaction of {place} bytes instead of {size}")
