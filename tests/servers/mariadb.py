"""A real MariaDB server: Debian's, or with ``CDC_TEST_MARIADB=sid`` the newer one of Debian sid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pymysql
import pytest

from tests.servers import apt, free_port, sid, start, stop, unavailable, wait_until


class MariaDbServer:
    """A server on 127.0.0.1 in `folder`, with the user ``cdc`` who has no password and may do everything.

    With `url` it is somebody else's, which is neither started nor ended: a test that wants that is skipped.
    `options` are further ones of the server.
    """

    name = "MariaDB"
    users = "CREATE USER IF NOT EXISTS cdc@localhost;\nGRANT ALL ON *.* TO cdc@localhost WITH GRANT OPTION;\n"

    def __init__(self, binary: str, folder: Path, url: str = "", options: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.url = url or f"mariadb://cdc@127.0.0.1:{self.port}/mysql"
        self._theirs = bool(url)
        self._binary = binary
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> MariaDbServer:
        """Start it if it does not run, on the same port and files as before, and wait until it answers.

        `more` are options for this time.
        """
        if not self._theirs and not self.running():
            if not self.cluster.exists():
                self._make(self.cluster)
            (self._folder / "users.sql").write_text(f"SET sql_log_bin = 0;\n{self.users}")
            options = [f"--datadir={self.cluster}", f"--port={self.port}", f"--socket={self._folder / 'socket'}"]
            options += ["--bind-address=127.0.0.1", "--user=root", "--innodb-flush-log-at-trx-commit=2"]
            # A server that starts deletes the temporary tables that it finds, those of others in /tmp too.
            options += [f"--tmpdir={self._folder}"]
            options += [f"--init-file={self._folder / 'users.sql'}", "--innodb-buffer-pool-size=64M"]
            options += [*self._options, *more]
            self._process = start([*self._program(), *options], self._folder / "server.log")
        wait_until(self._answers, what=f"an answer of {self.url}")
        return self

    def beside(self, folder: Path, *options: str) -> Self:
        """Another server of its kind, with `options` beside the same ones, that is not started yet."""
        return type(self)(self._binary, folder, options=[*self._options, *options])

    @property
    def cluster(self) -> Path:
        """The folder of its files, made at the first start."""
        return self._folder / "cluster"

    def running(self) -> bool:
        """Whether the server process is there."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it as an operator does."""
        if self._process is not None:
            stop(self._process)

    def kill(self) -> None:
        """End it as a power switch does, as far as a process can tell."""
        if self._theirs:
            pytest.skip(f"{self.url} is not ours to kill")
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Stop answering without closing a connection (SIGSTOP)."""
        if self._theirs:
            pytest.skip(f"{self.url} is not ours to stop")
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Go on after `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def connect(self, database: str | None = None) -> Any:
        """An autocommit connection of the driver."""
        url = urlsplit(self.url)
        return pymysql.connect(
            host=url.hostname,
            port=url.port or 3306,
            user=url.username,
            password=url.password or "",
            database=database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=5,
        )

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements in a connection of their own; the rows of the last, if it has any."""
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def version(self) -> tuple[int, ...]:
        """Major and minor."""
        return tuple(map(int, str(self.execute("SELECT VERSION()")[0][0]).split(".")[:2]))

    def offers_tls(self) -> bool:
        """Whether it encrypts, as MySQL and newer MariaDB do by themselves."""
        return self.name == "MySQL" or self.execute("SELECT @@have_ssl") == [("YES",)]

    def binlog(self) -> Path:
        """The binlog file that is being written; what has been committed is in it."""
        if self._theirs:
            pytest.skip(f"the files of {self.url} are not ours to read")
        command = "SHOW BINARY LOG STATUS" if self.name == "MySQL" else "SHOW MASTER STATUS"
        name = self.execute(command)[0][0]
        return self.cluster / str(name)

    def _program(self) -> list[str]:
        return [self._binary, "--no-defaults"]

    def _initialise(self, cluster: Path) -> list[str]:
        return ["mariadb-install-db", "--no-defaults", f"--datadir={cluster}", "--user=root", "--skip-test-db"]

    def _make(self, cluster: Path, statements: bytes = b"") -> None:
        made = subprocess.run(self._initialise(cluster), input=statements, capture_output=True, check=False)
        if made.returncode != 0:
            pytest.fail(f"{self.name} in {self._folder} could not be made: {made.stderr.decode(errors='replace')}")

    def _answers(self) -> bool:
        if not self._theirs and not self.running():
            log = (self._folder / "server.log").read_text(errors="replace")
            pytest.fail(f"{self.name} in {self._folder} ended: {log[-2000:]}")
        try:
            self.connect().close()
        except pymysql.err.OperationalError:
            return False
        return True


class SidMariaDbServer(MariaDbServer):
    """As :class:`MariaDbServer`; the binary is the root folder of the unpacked packages."""

    def _program(self) -> list[str]:
        root = Path(self._binary)
        share = root / "usr/share/mariadb"
        options = ["--no-defaults", f"--basedir={root / 'usr'}", f"--lc-messages-dir={share}"]
        return [*sid.program(root, "mariadbd"), *options, f"--character-sets-dir={share / 'charsets'}"]

    def _initialise(self, cluster: Path) -> list[str]:
        return [*self._program(), f"--datadir={cluster}", "--user=root", "--bootstrap", "--log-warnings=0"]

    def _make(self, cluster: Path, statements: bytes = b"") -> None:
        """As ``mariadb-install-db``, which knows no program with a loader of its own."""
        cluster.mkdir()
        names = ("mariadb_system_tables", "mariadb_performance_tables", "mariadb_system_tables_data")
        files = [Path(self._binary) / f"usr/share/mariadb/{name}.sql" for name in names]
        begin = b"CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;\n"
        super()._make(cluster, begin + b"".join(file.read_bytes() for file in files))


def mariadb_binary() -> str:
    """Path of Debian's mariadbd, installed if need be and possible; skips the test if not."""
    why = "" if shutil.which("mariadbd") else apt.install("mariadb-server")
    return shutil.which("mariadbd") or unavailable(
        "MariaDB", f"apt-get install mariadb-server, or set CDC_TEST_MARIADB{why}"
    )


BINLOG = (
    "--server-id=1",
    "--log-bin=bin",
    "--binlog-format=ROW",
    "--binlog-row-metadata=FULL",
    "--default-time-zone=+00:00",
)
"""Options of a server that is a source."""


_GIVEN = os.environ.get("CDC_TEST_MARIADB", "")


def _server(folder: Path, *options: str) -> MariaDbServer:
    """A server of our own."""
    if _GIVEN == "sid":
        return SidMariaDbServer(str(sid.unpacked("MariaDB", "mariadb-server-core")), folder, options=options)
    return MariaDbServer(mariadb_binary(), folder, options=options)


@pytest.fixture(scope="session")
def mariadb_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDbServer]:
    """A MariaDB server of our own that writes a binlog. Modules that use it share the xdist group ``mysql``."""
    server = _server(tmp_path_factory.mktemp("mariadb-source"), *BINLOG, "--binlog-checksum=CRC32")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDbServer]:
    """A MariaDB server: the one of ``CDC_TEST_MARIADB``, or one of our own."""
    folder = tmp_path_factory.mktemp("mariadb")
    server = MariaDbServer("", folder, _GIVEN) if "://" in _GIVEN else _server(folder)
    try:
        yield server.start()
    finally:
        server.stop()
