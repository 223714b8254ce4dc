"""Configuration of a PostgreSQL source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from cdc.config.fields import Model, Url
from cdc.log import LogConfig
from cdc.source.config import DatabaseConfig, Missing, left_out


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


class PostgresConfig(DatabaseConfig):
    """A PostgreSQL database, version 14 to 18."""

    type: Literal["postgres"]
    url: Url
    """``postgresql://user@host:port/database?sslmode=verify-full``, libpq's parameters; without the password."""
    slot: SlotConfig = SlotConfig()
    publication: PublicationConfig = PublicationConfig()
    toast: Missing = "reselect"
    """What becomes of a large column that an UPDATE did not touch, and which the server therefore does not send:
    ``reselect`` reads it by key; ``absent`` leaves it out, which needs ``log.topics.cleanup: keep``."""

    def disagreements(self, log: LogConfig) -> Iterator[tuple[str, str]]:
        """See :class:`cdc.connector.SourceConfig`."""
        return left_out("toast", self.toast, log)
