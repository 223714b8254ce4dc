"""Connecting to real servers: TLS, passwords, what a session is set to, and what errors mean."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pydantic import SecretStr

from cdc.errors import CdcError, ConfigurationError, PermanentError, TransientError, UnreachableError
from connectors.mysql import client
from connectors.mysql.client import Server, address, check_server, connect, identify, query
from tests.servers import free_port
from tests.servers.mariadb import MariaDbServer
from tests.servers.mysql import MySqlServer
from tests.servers.tls import certificate

pytestmark = pytest.mark.xdist_group("mysql")

PASSWORD = "canary-pä$€ '\\"
ELSEWHERE = "db.example"


@pytest.fixture(params=["mariadb", "mysql"])
def server(request: pytest.FixtureRequest) -> MariaDbServer:
    server: MariaDbServer = request.getfixturevalue(f"{request.param}_source")
    return server


@contextmanager
def user(server: MariaDbServer) -> Iterator[str]:
    """A new user's URL."""
    server.execute("DROP USER IF EXISTS probe@localhost")
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE USER probe@localhost IDENTIFIED BY %s", (PASSWORD,))
    yield f"mysql://probe@127.0.0.1:{server.port}"
    server.execute("DROP USER probe@localhost")


def attempt(url: str, password: str = PASSWORD, ca: Path | None = None) -> list[tuple[Any, ...]]:
    """Who we are to the server, and how the connection is encrypted."""
    with closing(connect(address(url, SecretStr(password), ca))) as connection:
        (_, cipher), *_ = query(connection, "SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        return [(*query(connection, "SELECT CURRENT_USER()")[0], bool(cipher))]


def error_of(url: str, kind: type[CdcError], password: str = PASSWORD, ca: Path | None = None) -> CdcError:
    with pytest.raises(kind) as caught:
        attempt(url, password, ca)
    assert type(caught.value) is kind
    assert "canary" not in str(caught.value)
    assert caught.value.hint
    return caught.value


# The URL.


def test_url() -> None:
    full = address("mariadb://a%40b:canary@[::1]:3307/sh%20op?unix_socket=/run/my%20sql", None, Path("/ca.pem"))
    assert "canary" not in repr(full)
    assert full == client.Address("::1", 3307, "a@b", "canary", "sh op", "/run/my sql", Path("/ca.pem"))
    least = client.Address("db", 3306, "cdc", "other", None, None, None)
    assert address("mysql://cdc:canary@db/", SecretStr("other"), None) == least


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://cdc:canary@db/shop",
        "mysql://db/shop",
        "mysql://cdc:canary@/shop",
        "mysql://cdc:canary@db:x/shop",
        "mysql://cdc:canary@db/shop?ssl_disabled=true",
        "mysql://cdc:canary@db/shop?unix_socket",
        "mysql://cdc:canary@db/shop#x",
        "mysql://cdc:canary@db/shop?tls=maybe",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        address(url, None, None)
    assert "canary" not in str(caught.value)
    assert "mysql://" in caught.value.hint


# Passwords and TLS.


def test_passwords(server: MariaDbServer) -> None:
    """caching_sha2_password over TLS, which MySQL offers by itself, and mysql_native_password, on MariaDB."""
    mysql = server.name == "MySQL"
    with user(server) as url:
        ((plugin,),) = server.execute("SELECT plugin FROM mysql.user WHERE user = 'probe'")
        assert plugin == ("caching_sha2_password" if mysql else "mysql_native_password")
        assert attempt(url) == attempt(url) == [("probe@localhost", server.offers_tls())], (
            "then from the server's cache"
        )
        assert "Access denied" in str(error_of(url, UnreachableError, "canary"))


@contextmanager
def mysql_tls(server: MySqlServer, **settings: str) -> Iterator[None]:
    """The server with other settings of TLS."""
    names = list(settings)
    (before,) = server.execute("SELECT " + ", ".join(f"@@GLOBAL.{name}" for name in names))

    def change(values: Any) -> None:
        pairs = [f"{name} = '{value}'" for name, value in zip(names, values, strict=True)]
        server.execute("SET GLOBAL " + ", ".join(pairs), "ALTER INSTANCE RELOAD TLS NO ROLLBACK ON ERROR")

    change(settings.values())
    try:
        yield
    finally:
        change(before)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """A host that is not this machine, as far as the name tells."""
    real = socket.getaddrinfo

    def resolved(host: Any, *arguments: Any, **options: Any) -> Any:
        return real("127.0.0.1" if host == ELSEWHERE else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    return ELSEWHERE


def test_tls_is_verified(mysql_source: MySqlServer, elsewhere: str, tmp_path: Path) -> None:
    pem, key = certificate(tmp_path, elsewhere)
    other, _ = certificate(tmp_path, "other.example")
    settings = {"ssl_ca": str(pem), "ssl_cert": str(pem), "ssl_key": str(key)}
    with user(mysql_source) as local, mysql_tls(mysql_source, **settings):
        url = local.replace("127.0.0.1", elsewhere)
        assert attempt(url, ca=pem) == [("probe@localhost", True)]
        for ca in (None, other):
            error = error_of(url, UnreachableError, ca=ca)
            assert "could not prove who it is" in str(error)
            assert "ca names the file" in error.hint
        assert "could not prove who it is" in str(error_of(local, UnreachableError, ca=pem)), "its name is another"
        assert attempt(local) == [("probe@localhost", True)], "unverified on this machine"
        assert attempt(f"{url}?tls=encrypt") == [("probe@localhost", True)]
        error_of(f"{url}?tls=verify", UnreachableError)
    with pytest.raises(PermanentError, match="no certificate to trust"):
        attempt(url, ca=tmp_path / "absent.pem")


def test_tls_can_be_left_out(mysql_source: MySqlServer, elsewhere: str) -> None:
    with user(mysql_source) as local:
        attempt(local)  # the password is remembered
        assert attempt(f"{local.replace('127.0.0.1', elsewhere)}?tls=off") == [("probe@localhost", False)]
    with pytest.raises(ConfigurationError, match="where ca is set"):
        address("mysql://cdc@db?tls=off", None, Path("/ca.pem"))


def test_a_server_without_tls(mysql_source: MySqlServer, elsewhere: str, tmp_path: Path) -> None:
    """It is refused if it is on another machine; on this one it is not told a password that can be listened to."""
    pem, _ = certificate(tmp_path, elsewhere)
    with user(mysql_source) as local, mysql_tls(mysql_source, tls_version=""):
        for url, ca in ((local.replace("127.0.0.1", elsewhere), None), (local, pem)):
            assert "does not offer TLS" in str(error_of(url, UnreachableError, ca=ca))
        assert "does not offer TLS" in str(error_of(f"{local}?tls=encrypt", UnreachableError))
        ((path,),) = mysql_source.execute("SELECT @@socket")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("pymysql._auth._have_cryptography", False)
            error = error_of(local, PermanentError)
        assert "over TLS only" in str(error)
        assert "unix_socket" in error.hint
        assert attempt(f"{local}?unix_socket={path}") == [("probe@localhost", False)]
        assert attempt(local) == [("probe@localhost", False)], "the server remembers it now"


# Sessions.


def test_a_session_does_not_depend_on_the_servers_defaults(server: MariaDbServer) -> None:
    longest = "max_execution_time" if server.name == "MySQL" else "max_statement_time"
    isolation = "transaction_isolation" if server.name == "MySQL" else "tx_isolation"
    strange: dict[str, Any] = {
        "sql_mode": "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH",
        "time_zone": "+03:00",
        "sql_select_limit": 1,
        "sql_quote_show_create": 0,
        "autocommit": 0,
        "net_write_timeout": 7,
        longest: 1000,
        isolation: "READ-COMMITTED",
    }
    (before,) = server.execute("SELECT " + ", ".join(f"@@GLOBAL.{name}" for name in strange))
    defaults = dict(zip(strange, before, strict=True))
    with server.connect() as connection, connection.cursor() as cursor:
        try:
            for name, value in strange.items():
                cursor.execute(f"SET GLOBAL {name} = %s", (value,))
            with closing(connect(address(server.url, None, None))) as ours:
                (found,) = query(ours, "SELECT " + ", ".join(f"@@SESSION.{name}" for name in strange))
                assert query(ours, "SELECT 1 UNION SELECT 2 UNION SELECT 3 ORDER BY 1") == [(1,), (2,), (3,)]
                assert query(ours, "SELECT %s, %s", "'\\\"ä😀", b"\0'") == [("'\\\"ä😀", b"\0'")]
        finally:
            for name, value in defaults.items():
                cursor.execute(f"SET GLOBAL {name} = %s", (value,))
    assert found == ("", "+00:00", (1 << 64) - 1, 1, 1, 300, 0, "REPEATABLE-READ")


# Who answers.


def test_who_answers(server: MariaDbServer) -> None:
    with closing(connect(address(server.url, None, None))) as connection:
        found = identify(connection)
        ((text,),) = query(connection, "SELECT VERSION()")
    assert text.startswith(".".join(map(str, found.version)))
    assert (found.version_text, found.server_id, found.gtid_mode) == (text, 1, "ON")
    assert found.mariadb == (server.name == "MariaDB") == (found.uuid is None) == (found.domain == 0)
    check_server(found)


@pytest.mark.parametrize(
    ("mariadb", "version", "needed"), [(False, (5, 7, 44), "MySQL 8.0"), (True, (10, 5, 28), "MariaDB 10.6")]
)
def test_old_servers_are_refused(mariadb: bool, version: tuple[int, int, int], needed: str) -> None:
    with pytest.raises(PermanentError, match="too old") as caught:
        check_server(Server(mariadb, version, "old", 1, None, None, "ON"))
    assert needed in caught.value.hint


# Errors.


def test_who_cannot_come_in(server: MariaDbServer) -> None:
    assert "does not answer" in str(error_of(f"mysql://probe@127.0.0.1:{free_port()}", UnreachableError))
    with user(server) as url:
        server.execute("ALTER USER probe@localhost WITH MAX_USER_CONNECTIONS 1")
        assert "'mysql'" in str(error_of(f"{url}/mysql", UnreachableError)), "a database that it may not see"
        with closing(connect(address(url, SecretStr(PASSWORD), None))):
            assert "max_connections" in error_of(url, UnreachableError).hint
        server.execute("ALTER USER probe@localhost ACCOUNT LOCK")
        assert "ALTER USER" in error_of(url, UnreachableError).hint
    assert "absent" in str(error_of(f"{server.url.rsplit('/', 1)[0]}/absent", UnreachableError, ""))


def test_what_statements_fail_of(server: MariaDbServer) -> None:
    server.execute("CREATE DATABASE IF NOT EXISTS shop", "DROP TABLE IF EXISTS shop.item")
    server.execute("CREATE TABLE shop.item (id int PRIMARY KEY)", "INSERT INTO shop.item VALUES (1)")
    with closing(connect(address(server.url, None, None))) as connection:
        with pytest.raises(PermanentError, match="1064") as caught:
            query(connection, "SELECT %s FRM item", "canary")
        assert "canary" not in str(caught.value)
        with pytest.raises(PermanentError, match=r"shop\.absent"):
            query(connection, "SELECT * FROM shop.absent")
        with server.connect() as other, other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT * FROM shop.item FOR UPDATE")
            with pytest.raises(TransientError) as transient:
                query(connection, "SELECT * FROM shop.item FOR UPDATE NOWAIT")
            assert type(transient.value) is TransientError
            other.rollback()
        server.execute(f"KILL {connection.thread_id()}")
        with pytest.raises(UnreachableError):
            query(connection, "SELECT 1")
        with pytest.raises(UnreachableError):
            query(connection, "SELECT 1")
    with user(server) as url, closing(connect(address(url, SecretStr(PASSWORD), None))) as connection:
        for statement in ("SELECT * FROM shop.item", "SHOW BINARY LOGS"):
            with pytest.raises(PermanentError) as denied:
                query(connection, statement)
            assert "GRANT" in denied.value.hint
    server.execute("DROP TABLE shop.item")


@pytest.mark.parametrize("greeting", [b"", b"\5\0\0\0\x0b\x08\x05\x1a\0", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_is_no_mysql(monkeypatch: pytest.MonkeyPatch, greeting: bytes) -> None:
    """It says nothing, or what MySQL says on the port of its X protocol, or something else."""
    monkeypatch.setattr(client, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            with listening.accept()[0] as accepted:
                accepted.sendall(greeting)
                accepted.recv(1)  # until it is closed

        thread = threading.Thread(target=greet)
        thread.start()
        error_of(f"mysql://probe@127.0.0.1:{listening.getsockname()[1]}", UnreachableError)
        thread.join()


def test_a_server_that_does_not_answer_any_more(server: MariaDbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "STATEMENT_SECONDS", 0.5)
    with closing(connect(address(server.url, None, None))) as connection:
        server.pause()
        try:
            with pytest.raises(UnreachableError, match="timed out"):
                query(connection, "SELECT 1")
        finally:
            server.resume()


def test_pymysql_has_what_is_used_of_it() -> None:
    """Private parts: a version without them must not come in unseen."""
    for name in ("_force_close", "_execute_command", "_read_ok_packet", "_read_timeout"):
        assert hasattr(pymysql.connections.Connection(defer_connect=True), name)
