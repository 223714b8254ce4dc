"""Configuration of a MySQL or MariaDB source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cdc.config.fields import Url
from cdc.source.config import DatabaseConfig

ServerId = Annotated[int, Field(ge=1, le=(1 << 32) - 1)]


class MysqlConfig(DatabaseConfig):
    """A MySQL server, version 8.0 or later, or a MariaDB server, version 10.6 or later."""

    type: Literal["mysql"]
    url: Url
    """``mysql://user@host:port``; without the password. TLS is verified unless the server is on this machine;
    ``?tls=encrypt`` verifies nothing, ``?tls=off`` is for a network that nobody else is on."""
    ca: Path | None = None
    """The certificate authority that TLS is verified against; by default those that the system trusts."""
    server_id: ServerId | Literal["auto"] = "auto"
    """The number by which the server knows those that read its binlog, each its own; ``auto`` picks a free one."""
