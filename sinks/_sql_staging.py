"""Where rows and deletes of a transaction are staged in an SQL database, and what is asked about them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, Table, Text, false, func, select
from sqlalchemy.dialects.mysql import DATETIME, VARBINARY
from sqlalchemy.sql.expression import ColumnElement

from cdc.sink import Rejected, Row
from schemas.table import TableSchema

MOST_KEY_BYTES: Final = 2000
"""Longer keys fit no index of PostgreSQL's or InnoDB's."""

KEY_TYPE: Final = Text(collation="C").with_variant(VARBINARY(MOST_KEY_BYTES), "mysql")
TIME_TYPE: Final = DateTime(timezone=True).with_variant(DATETIME(fsp=6), "mysql")

TABLE_OPTIONS: Final[Mapping[str, Any]] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

INCOMING: Final = Table(
    "_cdc_incoming",
    MetaData(),
    Column("number", Integer),
    Column("key", KEY_TYPE),
    Column("version", BigInteger),
    Column("partition", Integer),
    Column("since", TIME_TYPE),
    Column("until", TIME_TYPE),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DELETE ROWS",
)
"""A session's own table: deletes, numbered in the transaction, and rows as far as the server wants them there."""


def is_newer(new: ColumnElement[int], held: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether a version is written over the one that is held."""
    return new > held


def is_late(topic: str, tombstones: Table) -> ColumnElement[bool]:
    """Whether what is in :data:`INCOMING` comes too late after a delete.

    A look into the index for each row: without statistics, a join with few rows that have become many takes for ever.
    """
    held, new = tombstones.c, INCOMING.c
    deleted = select(held.version).where(held.topic == topic, held.key == new.key).correlate(INCOMING)
    return func.coalesce(deleted.scalar_subquery() >= new.version, false())


def moment(milliseconds: int | None) -> datetime | None:
    """A time of the log, UTC."""
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


@dataclass(slots=True)
class Changes:
    """Rows of one schema that bring the same columns (`sent`), or deletes of one topic (no schema)."""

    topic: str
    schema: TableSchema | None = None
    sent: frozenset[str] | None = None
    """Names of the columns that the rows bring, None: all of them."""
    rows: list[Row] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    until: dict[int, int] = field(default_factory=dict)
    """For rows that are superseded by later ones of the same write: when, by their number here."""
    late: bool = False
    """Whether there is one among the rows that a delete which came before may be newer than."""

    def add(self, row: Row, partition: int) -> int:
        """Add a row; returns its number."""
        self.rows.append(row)
        self.partitions.append(partition)
        return len(self.rows) - 1

    def staged_from(self, first: int) -> ColumnElement[bool]:
        """What of :data:`INCOMING` these are, if they were numbered from `first`."""
        return INCOMING.c.number.between(first, first + len(self.rows) - 1)

    def rejected(self, refused: Sequence[tuple[int, str]]) -> list[Rejected]:
        """Rows with these numbers, rejected for these reasons."""
        return [
            Rejected(self.topic, self.partitions[number], self.rows[number].offset, self.rows[number].key, reason)
            for number, reason in refused
        ]
