"""Configuration of a MySQL or MariaDB source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cdc.config.fields import Url
from cdc.log import LogConfig
from cdc.source.config import DatabaseConfig, Missing, left_out

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
    missing: Missing = "reselect"
    """What becomes of columns that did not change and that the server does not send, where ``binlog_row_image`` is
    MINIMAL or NOBLOB: ``reselect`` reads them by key; ``absent`` leaves them out, which needs ``log.topics.cleanup:
    keep``. What may have changed is read in any case: defaults of an insert, and everything on MariaDB."""

    def disagreements(self, log: LogConfig) -> Iterator[tuple[str, str]]:
        """See :class:`cdc.connector.SourceConfig`."""
        return left_out("missing", self.missing, log)
