"""Configuration that every source that is a database has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from cdc.config.fields import ByteSize, Duration, Model, Secret, Url
from cdc.connector import SourceConfig
from cdc.log import LogConfig

Missing = Literal["reselect", "absent"]
"""What becomes of values that the source did not send: they are read by key, or left out."""


def left_out(setting: str, missing: Missing, log: LogConfig) -> Iterator[tuple[str, str]]:
    """See :meth:`cdc.connector.SourceConfig.disagreements`: values left out are lost for ever on a log from which
    superseded records go."""
    if missing == "absent" and log.topics.cleanup != "keep":
        yield setting, "`absent` needs `log.topics.cleanup: keep`: compaction would lose the values left out"


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


class DatabaseConfig(SourceConfig):
    """A database whose tables are captured."""

    url: Url
    password: Secret | None = None
    """The role's password, unless the whole of ``url`` is a reference and has it."""
    tables: list[str] | dict[str, TableConfig | None]
    """``schema.table`` names and globs, ``!pattern`` leaves out. A named table that can't be captured is an error; one
    that only a glob matches is left out with a warning."""
    snapshot: SnapshotConfig = SnapshotConfig()

    @field_validator("tables")
    @classmethod
    def _not_empty(cls, tables: list[str] | dict[str, TableConfig | None]) -> list[str] | dict[str, TableConfig | None]:
        if not any(not name.startswith("!") for name in tables):
            raise ValueError("names no table")
        for name in tables:
            if name.lstrip("!") != "*" and "." not in name:
                raise ValueError(f"{name!r} is not of the form schema.table")
        return tables

    def snapshot_mode(self, table: str) -> str:
        """``initial`` or ``never`` for ``schema.table``."""
        option = self.tables.get(table) if isinstance(self.tables, dict) else None
        return (option.snapshot if option else None) or self.snapshot.mode
