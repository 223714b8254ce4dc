"""Tables and columns, and the schema record that describes them on the log."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from schemas.types import LogicalType


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its logical type, and the database's own name of the type (``numeric(12,2)``)."""

    name: str
    type: LogicalType
    native: str


@dataclass(frozen=True)
class TableSchema:
    """What the rows of one topic look like from some point of the log on.

    ``key`` names the columns of the record key, in key order. ``profile`` is the value profile (``readable`` or
    ``debezium``) in which the rows are rendered: a reader needs it to decode them.
    """

    topic: str
    schema: str
    table: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    profile: str = "readable"

    @cached_property
    def id(self) -> bytes:
        """Content hash, 8 bytes: equal schemas have equal ids on every machine."""
        return hashlib.blake2b(self.to_json(), digest_size=8).digest()

    def __hash__(self) -> int:
        return hash(self.id)  # cheap: schemas are keys of caches that are asked for each row

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """Columns by name."""
        return {column.name: column for column in self.columns}

    def to_json(self) -> bytes:
        """The value of the schema record: canonical JSON (sorted keys, no spaces)."""
        document = {
            "topic": self.topic,
            "schema": self.schema,
            "table": self.table,
            "columns": [{"name": c.name, "type": c.type.to_json(), "native": c.native} for c in self.columns],
            "key": list(self.key),
            "profile": self.profile,
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, value: bytes) -> TableSchema:
        """The reverse of :meth:`to_json`. Raises ValueError or KeyError when `value` is no schema record."""
        document: dict[str, Any] = json.loads(value)
        return cls(
            document["topic"],
            document["schema"],
            document["table"],
            tuple(Column(c["name"], LogicalType.from_json(c["type"]), c["native"]) for c in document["columns"]),
            tuple(document["key"]),
            document["profile"],
        )
