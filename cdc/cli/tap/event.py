"""An event as ``cdc tap`` has it, and which events it is to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from cdc.config.patterns import selects
from cdc.errors import ConfigurationError
from cdc.record import TOMBSTONE, Header, key_columns

OPERATIONS: Final = "cudrtsm"
MARKERS: Final = b"ts"


class Place(NamedTuple):
    """Where an event lies on the log, and when it was appended (ms since 1970)."""

    topic: str
    partition: int
    offset: int
    timestamp: int


class Event(NamedTuple):
    """One event of ``schema.table``. `place` is None before it is on the log; its version then means nothing."""

    table: str
    header: Header
    key: bytes
    value: bytes | None
    place: Place | None = None


@dataclass(frozen=True)
class Filter:
    """Which events to show; empty means all. `key` holds the columns that must be equal, as text."""

    tables: Sequence[str]
    operations: frozenset[str]
    key: Mapping[str, str] | str | None

    @classmethod
    def of(cls, tables: Sequence[str], operations: Sequence[str], key: str | None) -> Filter:
        """From the options as they were typed. Raises ConfigurationError."""
        letters = frozenset("".join(operations).replace(",", ""))
        if unknown := letters - set(OPERATIONS):
            raise ConfigurationError(
                f"unknown operation {''.join(sorted(unknown))}", hint=f"the letters are {' '.join(OPERATIONS)}"
            )
        return cls(tables, letters, None if key is None else _key(key))

    def selects(self, table: str) -> bool:
        """Whether events of `table` are to be shown at all."""
        return not self.tables or selects(self.tables, table)

    def passes(self, header: Header, key: bytes) -> bool:
        """Whether an event of a selected table is to be shown. A tombstone is not: its delete was."""
        if header.flags & TOMBSTONE or (self.operations and header.operation.decode() not in self.operations):
            return False
        if self.key is None:
            return True
        if header.operation in MARKERS:
            return False
        columns = {name: _text(value) for name, value in key_columns(key).items()}
        if isinstance(self.key, str):
            return list(columns.values()) == [self.key]
        return columns == self.key


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _key(text: str) -> Mapping[str, str] | str:
    """``{"id":42}``, ``id=42,line=1``, or the value of a key of one column."""
    if text.startswith("{"):
        try:
            return {name: _text(value) for name, value in key_columns(text.encode()).items()}
        except Exception as error:
            raise ConfigurationError("--key is not a JSON object", hint="for example --key '{\"id\":42}'") from error
    if "=" in text:
        return dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    return text
