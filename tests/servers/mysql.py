"""A real MySQL 9 server: Debian sid's."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import sid
from tests.servers.mariadb import BINLOG, MariaDbServer


class MySqlServer(MariaDbServer):
    """As :class:`MariaDbServer`; the binary is the root folder of the unpacked packages."""

    name = "MySQL"

    def _program(self) -> list[str]:
        root = Path(self._binary)
        usr, share = root / "usr", root / "usr/share/mysql"
        options = ["--no-defaults", f"--basedir={usr}", f"--lc-messages-dir={share}", "--mysqlx=OFF"]
        options += [f"--character-sets-dir={share / 'charsets'}", f"--plugin-dir={usr / 'lib/mysql/plugin'}"]
        options += ["--secure-file-priv=NULL", f"--pid-file={self._folder / 'pid'}"]
        return [*sid.program(root, "mysqld"), *options]

    def variables(self, *options: str) -> dict[str, str]:
        """What its variables are when it is started with `options`, as it says itself; fails if it knows one not."""
        command = [*self._program(), "--user=root", *options, "--verbose", "--help"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        table = re.findall(r"^(\w[\w-]+) +(\S*)$", said.rpartition("\n---")[2], re.MULTILINE)
        return {name.replace("-", "_"): value for name, value in table}

    def _initialise(self, cluster: Path) -> list[str]:
        return [*self._program(), f"--datadir={cluster}", "--user=root", "--initialize-insecure"]


def mysql_root() -> str:
    """The folder that MySQL's packages are unpacked in. Skips the test where they cannot be had."""
    return str(sid.unpacked("MySQL", "mysql-server-core"))


@pytest.fixture(scope="session")
def mysql_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySqlServer]:
    """A MySQL server of our own that writes a binlog. Modules that use it share the xdist group ``mysql``."""
    options = [*BINLOG, "--gtid-mode=ON", "--enforce-gtid-consistency=ON"]
    server = MySqlServer(mysql_root(), tmp_path_factory.mktemp("mysql-source"), options=options)
    try:
        yield server.start()
    finally:
        server.stop()
