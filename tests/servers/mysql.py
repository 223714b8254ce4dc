"""A real MySQL 9 server: Debian sid's, unpacked with all it needs into the cache. No root, no change of the system."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import CACHE, unavailable
from tests.servers.mariadb import BINLOG, MariaDbServer

_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_APT = """
Dir::Etc "{folder}/etc"; Dir::Etc::Parts "{folder}/etc/apt.conf.d"; Dir::Etc::sourceparts "/dev/null";
Dir::State "{folder}/state"; Dir::State::status "{folder}/status"; Dir::Cache "{folder}/cache";
APT::Architecture "amd64"; APT::Install-Recommends "0"; Acquire::Languages "none"; Acquire::Check-Valid-Until "false";
Debug::NoLocking "1";
"""


class MySqlServer(MariaDbServer):
    """As :class:`MariaDbServer`; the binary is the root folder of the unpacked packages."""

    name = "MySQL"

    def _program(self) -> list[str]:
        usr = Path(self._binary) / "usr"
        share = usr / "share/mysql"
        loader = [str(usr / "lib64/ld-linux-x86-64.so.2"), "--library-path", str(usr / "lib/x86_64-linux-gnu")]
        options = ["--no-defaults", f"--basedir={usr}", f"--lc-messages-dir={share}", "--mysqlx=OFF"]
        options += [f"--character-sets-dir={share / 'charsets'}", f"--plugin-dir={usr / 'lib/mysql/plugin'}"]
        options += ["--secure-file-priv=NULL", f"--pid-file={self._folder / 'pid'}"]
        return [*loader, str(usr / "sbin/mysqld"), *options]

    def _initialise(self, cluster: Path) -> list[str]:
        return [*self._program(), f"--datadir={cluster}", "--user=root", "--initialize-insecure"]


def mysql_root() -> str:
    """The folder that MySQL's packages are unpacked in; fetched once. Skips the test where that cannot be."""
    root = CACHE / "mysql-sid"
    if not root.exists():
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                unavailable("MySQL", f"{tool} is not installed")
        CACHE.mkdir(parents=True, exist_ok=True)
        draft = root.with_name(f"{root.name}.{os.getpid()}")
        _fetch(draft, "mysql-server-core")
        try:
            draft.rename(root)
        except OSError:  # another test process was faster
            shutil.rmtree(draft)
    return str(root)


def _fetch(root: Path, package: str) -> None:
    """Unpack `package` and all that it depends on, the C library too, into `root`."""
    folder = root.with_name(f"{root.name}.apt")
    try:
        for name in ("etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "etc/sources.list").write_text(f"deb [signed-by={_KEYS}] {_mirror()} sid main\n")
        (folder / "apt.conf").write_text(_APT.format(folder=folder))
        _run(folder, "apt-get", "-qq", "update")
        _run(folder, "apt-get", "-qq", "-y", "--download-only", "install", package)
        for name in ("lib", "lib64", "bin", "sbin"):
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
        for archive in sorted((folder / "cache/archives").glob("*.deb")):
            _run(folder, "dpkg-deb", "-x", str(archive), str(root))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, *command: str) -> None:
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        unavailable("MySQL", f"{' '.join(command[:2])} said: {done.stderr.strip()[-300:]}")


def _mirror() -> str:
    """The Debian mirror that apt uses here."""
    for path in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"):
        if Path(path).exists() and (
            found := re.search(r"^(?:URIs:|deb\b.*?) *(https?://\S+)", Path(path).read_text(), re.M)
        ):
            return found[1]
    return "http://deb.debian.org/debian"


@pytest.fixture(scope="session")
def mysql_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySqlServer]:
    """A MySQL server of our own that writes a binlog. Modules that use it share the xdist group ``mysql``."""
    options = [*BINLOG, "--gtid-mode=ON", "--enforce-gtid-consistency=ON"]
    server = MySqlServer(mysql_root(), tmp_path_factory.mktemp("mysql-source"), options=options)
    try:
        yield server.start()
    finally:
        server.stop()
