"""Events as they come from a dump, compressed transactions unpacked, and the place in the binlog that they end at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cdc.source.plan import gap
from connectors.mysql.binlog import unpack
from connectors.mysql.decoding import decode_event
from connectors.mysql.dump import DumpConnection
from connectors.mysql.events import BinlogEvent, FormatDescription, Header, Heartbeat, Incident, Payload, Rotate
from connectors.mysql.position import BinlogPlace

_WRAP: Final = 1 << 32
"""Headers have the place in their file modulo this."""


class EventReader:
    """Reads a dump that has been started."""

    def __init__(self, connection: DumpConnection, passed: BinlogPlace) -> None:
        """`passed`: what this server sent before, and may send again in part, reaches at least to there."""
        self._connection = connection
        self._checksum = connection.checksum
        self._mariadb = connection.server.mariadb
        self._passed = passed
        self._place = BinlogPlace()
        self._inner: Iterator[tuple[Header, BinlogEvent]] | None = None
        self._outer = 0

    @property
    def place(self) -> BinlogPlace:
        """How far the binlog is known to have been passed. With an event that has been read, its end."""
        return max(self._passed, self._place)

    def read(self) -> tuple[Header, BinlogEvent, int] | None:
        """The next event with the position of its end, or of what it was packed in; None when there is none now.

        Raises DecodeError, GapError when the server says that events were lost, and what ``receive()`` raises.
        """
        if self._inner is not None:
            for header, event in self._inner:
                return header, event, self._outer
            self._inner = None
        data = self._connection.receive()
        if data is None:
            return None
        header, event = decode_event(data, checksum=self._checksum, mariadb=self._mariadb)
        if header.position:
            self._advance(header.position)
        match event:
            case Rotate():
                self._place = BinlogPlace(event.name, event.position)
            case FormatDescription():
                self._checksum = event.checksum
            case Heartbeat():
                if event.name == self._place.file:
                    self._advance(event.position)
            case Payload():
                self._outer = self._place.position
                self._inner = unpack(event)
            case Incident():
                raise gap(f"the server lost events that it should have written into its binlog: {event.message}")
        return header, event, self._place.position

    def _advance(self, position: int) -> None:
        whole = self._place.position - self._place.position % _WRAP + position % _WRAP
        if whole < self._place.position:
            whole += _WRAP  # a file may be greater than what headers can tell
        self._place = BinlogPlace(self._place.file, whole)
