"""Reads fields from the front of a binlog event's bytes; whatever does not fit is a DecodeError."""

from __future__ import annotations

from cdc.errors import DecodeError

_LENGTH_ENCODED = {252: 2, 253: 3, 254: 8}


class Cursor:
    """Bytes, and the place from which the next field is read. `what` names the bytes in errors."""

    __slots__ = ("content", "end", "place", "what")

    def __init__(self, content: bytes, what: str, place: int = 0, end: int | None = None) -> None:
        self.content = content
        self.what = what
        self.place = place
        self.end = len(content) if end is None else end

    def error(self, problem: str) -> DecodeError:
        """What to raise: it names the bytes and the place."""
        return DecodeError(f"{self.what}, byte {self.place} of {self.end}: {problem}")

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return self.end - self.place

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self.place + count
        if count < 0 or end > self.end:
            raise self.error(f"{count} bytes expected, {self.left} left")
        taken = self.content[self.place : end]
        self.place = end
        return taken

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(self.left)

    def view(self) -> memoryview:
        """The same without a copy."""
        view = memoryview(self.content)[self.place : self.end]
        self.place = self.end
        return view

    def integer(self, size: int, signed: bool = False) -> int:
        """A little-endian integer."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def big(self, size: int, signed: bool = False) -> int:
        """A big-endian integer."""
        return int.from_bytes(self.take(size), "big", signed=signed)

    def length(self) -> int:
        """A length-encoded integer of the protocol."""
        first = self.take(1)[0]
        if first < 251:
            return first
        if first not in _LENGTH_ENCODED:
            raise self.error(f"{first} does not begin a length-encoded integer")
        return self.integer(_LENGTH_ENCODED[first])

    def text(self, count: int) -> str:
        """`count` bytes of UTF-8."""
        taken = self.take(count)
        try:
            return taken.decode()
        except UnicodeDecodeError as error:
            raise self.error("a name is not UTF-8") from error

    def bits(self, count: int) -> int:
        """A bitmap, bit 0 first."""
        return self.integer((count + 7) // 8)

    def finish(self) -> None:
        """Raises DecodeError when bytes are left."""
        if self.left:
            raise self.error(f"{self.left} bytes left over")
