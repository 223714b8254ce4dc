"""Configuration of a PostgreSQL source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from cdc.config.fields import ByteSize, Duration, Model, Secret, Url
from cdc.connector import SourceConfig
from cdc.log import LogConfig


class SlotConfig(Model):
    """The replication slot: the server-side cursor that keeps WAL for us."""

    name: str | None = Field(default=None, pattern=r"^[a-z0-9_]{1,63}$")
    """Default: ``cdc_{pipeline}_{source}``. One that exists is used, otherwise it is made."""


class PublicationConfig(Model):
    """The publication: the set of tables that the slot streams."""

    name: str | None = Field(default=None, min_length=1, max_length=63)
    """Default: the slot's name."""
    manage: Literal["tables", "none"] = "tables"
    """``tables``: made by us and kept exact with ALTER PUBLICATION; ``none``: a DBA owns it, we only check it."""


class SnapshotConfig(Model):
    """The first reading of rows that exist already."""

    mode: Literal["initial", "never"] = "initial"
    """``initial``: rows that exist are read when a table is captured first; ``never``: only changes are captured."""
    readers: int = Field(default=2, ge=1, le=16)
    """How many chunks are read side by side, of one large table or of several; each has a connection of its own."""
    chunk_bytes: ByteSize = 4 << 20
    """Most bytes that one chunk holds in memory; each reader has one."""
    chunk_time_target: Duration = 1.0
    """How long the database should take for one chunk; the number of rows per chunk follows."""
    max_active_sessions: int | None = Field(default=25, ge=1)
    """No chunk is begun while more sessions of others than this are running a statement in the database server; null
    reads on whatever its load."""
    max_lag: Duration = 10.0
    """No chunk is begun while changes reach us later than this and there are more of them to read."""


class TableConfig(Model):
    """Options of one captured table."""

    snapshot: Literal["initial", "never"] | None = None
    """Overrides ``snapshot.mode`` for this table."""


class PostgresConfig(SourceConfig):
    """A PostgreSQL database, version 14 to 18."""

    type: Literal["postgres"]
    url: Url
    """``postgresql://user@host:port/database?sslmode=verify-full``, libpq's parameters; without the password."""
    password: Secret | None = None
    """The role's password, unless the whole of ``url`` is a reference and has it."""
    tables: list[str] | dict[str, TableConfig | None]
    """``schema.table`` names and globs, ``!pattern`` leaves out. A named table that can't be captured is an error; one
    that only a glob matches is left out with a warning."""
    slot: SlotConfig = SlotConfig()
    publication: PublicationConfig = PublicationConfig()
    snapshot: SnapshotConfig = SnapshotConfig()
    toast: Literal["reselect", "absent"] = "reselect"
    """What becomes of a large column that an UPDATE did not touch, and which the server therefore does not send:
    ``reselect`` reads it by key; ``absent`` leaves it out, which needs ``log.topics.cleanup: keep``."""

    @field_validator("tables")
    @classmethod
    def _not_empty(cls, tables: list[str] | dict[str, TableConfig | None]) -> list[str] | dict[str, TableConfig | None]:
        if not any(not name.startswith("!") for name in tables):
            raise ValueError("names no table")
        for name in tables:
            if name.lstrip("!") != "*" and "." not in name:
                raise ValueError(f"{name!r} is not of the form schema.table")
        return tables

    def disagreements(self, log: LogConfig) -> Iterator[tuple[str, str]]:
        """Values left out are lost for ever on a log from which superseded records go."""
        if self.toast == "absent" and log.topics.cleanup != "keep":
            yield "toast", "`absent` needs `log.topics.cleanup: keep`: compaction would lose the values left out"

    def snapshot_mode(self, table: str) -> str:
        """``initial`` or ``never`` for ``schema.table``."""
        option = self.tables.get(table) if isinstance(self.tables, dict) else None
        return (option.snapshot if option else None) or self.snapshot.mode
