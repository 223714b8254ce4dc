"""Connections for SQL, to MySQL 8.0 or later and MariaDB 10.6 or later, and what their errors mean."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import UUID

import pymysql
from pydantic import SecretStr
from pymysql.connections import Connection
from pymysql.constants import COMMAND

from cdc.errors import CdcError, ConfigurationError, PermanentError, TransientError, UnreachableError
from cdc.tls import is_on_this_machine, trusting

TLS: Final = ("verify", "encrypt", "off")

OLDEST_MYSQL: Final = (8, 0, 0)
OLDEST_MARIADB: Final = (10, 6, 0)

CONNECT_SECONDS: Final = 10
STATEMENT_SECONDS: Final = 300
"""A statement whose next row takes longer is given up: a server may be there and answer nothing."""
SILENCE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}
"""A network that went silent is a lost connection after half a minute (seconds; the last one milliseconds)."""

_SESSION: Final = (
    "SET SESSION autocommit = 1, time_zone = '+00:00', sql_mode = '', sql_select_limit = 18446744073709551615, "
    "sql_big_selects = 1, sql_quote_show_create = 1, net_write_timeout = 300, wait_timeout = 28800"
    "/*!80000 , max_execution_time = 0 */ /*!80030 , show_gipk_in_create_table_and_information_schema = ON */"
    "/*M! , max_statement_time = 0 */",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
)
"""Whatever the server's defaults are: every row is read, as it was written and within one snapshot.

MariaDB passes over comments that are meant for MySQL 5.7 and later, MySQL over those with an M.
"""


@dataclass(frozen=True)
class Address:
    """Where a server is, who asks, and whom to trust. A `unix_socket` goes before host and port.

    `tls`: ``verify``, ``encrypt`` (whoever answers), ``off``; empty: verified unless the server is on this machine.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str | None
    unix_socket: str | None
    ca: Path | None
    tls: str = ""


def address(url: str, password: SecretStr | None, ca: Path | None) -> Address:
    """The address in a source's `url`, whose options are ``unix_socket`` and ``tls``.

    Raises ConfigurationError when it is no URL of MySQL or MariaDB, without what it holds.
    """

    def wrong(what: str) -> ConfigurationError:
        return ConfigurationError(f"the source's url {what}", hint="for example mysql://cdc@host:3306/database")

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 3306
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise wrong("is not a URL") from None
    unix_socket, tls = options.pop("unix_socket", None), options.pop("tls", "")
    if parts.scheme not in ("mysql", "mariadb"):
        raise wrong("must begin with mysql:// or mariadb://")
    if options or parts.fragment:
        raise wrong("has options that are not known; there are unix_socket=/path and tls=verify, encrypt or off")
    if tls not in ("", *TLS) or (tls in ("encrypt", "off") and ca is not None):
        raise wrong("must have tls=verify where ca is set; otherwise tls is verify, encrypt or off")
    if not parts.username or not (host or unix_socket):
        raise wrong("must name a user and a host")
    return Address(
        host or "localhost",
        port,
        unquote(parts.username),
        password.get_secret_value() if password else unquote(parts.password or ""),
        unquote(parts.path.strip("/")) or None,
        unix_socket,
        ca,
        tls,
    )


def connect(address: Address) -> Connection:
    """A connection in autocommit that prints values in UTC and UTF-8, and does not hang when the server does.

    TLS is verified by default, unless the server is on this machine and `ca` is not given. Raises UnreachableError;
    PermanentError when the file `ca` cannot be used.
    """
    try:
        connection = Connection(
            host=address.host,
            port=address.port,
            unix_socket=address.unix_socket,
            user=address.user,
            password=address.password.encode(),  # PyMySQL would encode it in Latin-1
            database=address.database,
            ssl=_context(address),
            ssl_disabled=address.tls == "off",
            charset="utf8mb4",
            autocommit=None,  # PyMySQL would believe the greeting
            program_name="cdc-service",
            connect_timeout=CONNECT_SECONDS,
            read_timeout=CONNECT_SECONDS,
            write_timeout=CONNECT_SECONDS,
        )
    except (pymysql.Error, RuntimeError, struct.error, IndexError, UnicodeError) as error:
        raise refused(error) from None
    try:
        connection._read_timeout = STATEMENT_SECONDS
        if address.unix_socket is None:
            for name, value in SILENCE.items():
                if hasattr(socket, name):  # Linux has all
                    connection._sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        for statement in _SESSION:
            query(connection, statement)
    except BaseException:
        connection._force_close()
        raise
    return connection


def _context(address: Address) -> ssl.SSLContext | None:
    """None: the driver encrypts where the server offers it, and verifies nothing."""
    local = address.unix_socket is not None or is_on_this_machine(address.host)
    if address.tls == "encrypt":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    if address.tls == "verify" or address.ca is not None or not (local or address.tls):
        return trusting(address.ca, "source")
    return None


def connect_reader(address: Address, lock_seconds: int) -> Connection:
    """The same for reading rows of tables: it waits for DDL for so many seconds only. Raises what :func:`connect` does.

    Keys may hold dates like 2024-02-30 where the mode that allows them was on when they were written.
    """
    connection = connect(address)
    try:
        query(connection, f"SET SESSION lock_wait_timeout = {lock_seconds}, sql_mode = 'ALLOW_INVALID_DATES'")
    except BaseException:
        connection._force_close()
        raise
    return connection


def query(connection: Connection, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Run one statement with `values` in the place of each ``%s``; its rows. Raises what :func:`refused` makes."""
    try:
        return execute(connection, sql, *values)
    except pymysql.Error as error:
        raise refused(error) from None


def execute(connection: Connection, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """The same. Raises the driver's errors."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        return list(cursor.fetchall())


def packets(connection: Connection, sql: str) -> Iterator[bytes]:
    """The rows of a statement as packets of the text protocol. Raises the driver's errors.

    Who stops before the last one must close the connection, which ends the statement.
    """
    connection._execute_command(COMMAND.COM_QUERY, sql)
    columns = connection._read_packet().read_length_encoded_integer()
    for _ in range(columns + 1):  # their descriptions, and the end of these
        connection._read_packet()
    packet = connection._read_packet
    while True:
        row: bytes = packet().get_all_data()
        if row[0] == 0xFE and len(row) < 9:
            return
        yield row


def account(user: str, host: str) -> str:
    """``'user'@'host'``, for GRANT."""
    return "@".join("'" + part.replace("\\", "\\\\").replace("'", "''") + "'" for part in (user, host))


def current_account(connection: Connection) -> str:
    """Whose privileges `connection` has."""
    ((current,),) = query(connection, "SELECT CURRENT_USER()")
    return account(*current.rsplit("@", 1))


class Server(NamedTuple):
    """Who answers. `gtid_mode` is MySQL's variable; MariaDB's GTIDs cannot be switched off."""

    mariadb: bool
    version: tuple[int, int, int]
    version_text: str
    server_id: int
    uuid: UUID | None
    """MySQL's identity of its data; MariaDB has none but `server_id` and `domain`."""
    domain: int | None
    """MariaDB: the replication domain that transactions are written in, unless a session chooses another."""
    gtid_mode: str


def identify(connection: Connection) -> Server:
    """Ask the server who it is; it may be one that is too old."""
    names = "'version', 'server_id', 'server_uuid', 'gtid_domain_id', 'gtid_mode'"
    found = dict(query(connection, f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})"))
    text = str(found["version"])
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    mariadb = "mariadb" in text.lower()
    return Server(
        mariadb,
        (int(numbers[1]), int(numbers[2]), int(numbers[3])) if numbers else (0, 0, 0),
        text,
        int(found["server_id"]),
        UUID(found["server_uuid"]) if "server_uuid" in found else None,
        int(found["gtid_domain_id"]) if mariadb else None,
        "ON" if mariadb else found.get("gtid_mode", "OFF"),
    )


def check_server(server: Server) -> None:
    """Refuse a server that is too old. Raises PermanentError."""
    name, oldest = ("MariaDB", OLDEST_MARIADB) if server.mariadb else ("MySQL", OLDEST_MYSQL)
    if server.version < oldest:
        needed = ".".join(map(str, oldest[:2]))
        raise PermanentError(
            f"the source's server is {name} {server.version_text}, which is too old",
            hint=f"{name} {needed} or later is needed: its binlog tells what columns are called",
        )


_ACCESS: Final = "check user, password and database of the source's url, and the hosts that the user may come from"
_CREDENTIALS: Final = "the user's password has expired or the account is locked: ALTER USER …"
_PRIVILEGE: Final = "GRANT what the server names to the user of the source's url"
_CROWDED: Final = "end connections that are not needed, or raise max_connections or the user's own limit"
_BLOCKED: Final = "TRUNCATE TABLE performance_schema.host_cache; (MariaDB: FLUSH HOSTS;) lets this machine in again"
_LOST: Final = "check that the server runs and can be reached at the source's url"
_AGAIN: Final = "tried again"

_MEANINGS: Final[Mapping[int, tuple[type[CdcError], str]]] = {
    **dict.fromkeys((1044, 1045, 1049, 1130, 1251, 1524, 1698, 2059), (UnreachableError, _ACCESS)),
    **dict.fromkeys((1820, 1862, 3118, 4151), (UnreachableError, _CREDENTIALS)),
    **dict.fromkeys((1040, 1203, 1226), (UnreachableError, _CROWDED)),
    1129: (UnreachableError, _BLOCKED),
    **dict.fromkeys((1142, 1143, 1227, 1370), (PermanentError, _PRIVILEGE)),
    **dict.fromkeys((1021, 1205, 1213, 1317, 1412, 1969, 3024, 3572), (TransientError, _AGAIN)),
    **dict.fromkeys((1053, 1077, 1078, 1079, 1080, 1152, 1158, 1159, 1160, 1161), (UnreachableError, _LOST)),
    **dict.fromkeys((1184, 1927, 2002, 2003, 2006, 2013, 2014, 4031), (UnreachableError, _LOST)),
}
_WITH_VALUES: Final = frozenset({1062, 1064, 1292, 1366, 1367, 1411, 1525})
"""Errors whose text repeats a part of the statement, which may be the key of a row."""


def refused(error: Exception, fix: str = "") -> CdcError:
    """What an error of the driver means; `fix` is the hint for a statement that the server refuses."""
    cause = getattr(error, "original_exception", error)
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = " ".join(str(error.args[-1] if error.args else "").split()) or "the connection is closed"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return UnreachableError(
            f"the source's server could not prove who it is: {cause.verify_message}",
            hint="ca names the file with the certificate of its authority, which must be for the url's host; or "
            "tls=encrypt in the url, which does not ask who answers",
        )
    if isinstance(cause, ssl.SSLError):
        return UnreachableError(
            f"TLS with the source's server failed: {cause.reason}", hint="see the server's ssl_ and tls_ variables"
        )
    if code == 2026:
        return UnreachableError(
            "the source's server does not offer TLS, and is on another machine or ca is set",
            hint="turn on TLS at the server (ssl_cert, ssl_key), or reach it through a tunnel on this machine",
        )
    if isinstance(cause, OSError):
        return UnreachableError(f"the source's server does not answer: {cause.strerror or cause}", hint=_LOST)
    if isinstance(error, RuntimeError):
        return PermanentError(
            "the source's server takes this user's password over TLS only, and does not offer TLS",
            hint="turn on TLS at the server, connect by unix_socket, or `pip install cryptography`",
        )
    if isinstance(error, struct.error | IndexError):
        return UnreachableError("what answers at the source's url is neither MySQL nor MariaDB", hint="is it the port?")
    if code in _MEANINGS:
        kind, hint = _MEANINGS[code]
        return kind(f"the source's server: {text} ({code})", hint=fix if fix and kind is PermanentError else hint)
    if code == 0:  # the driver's own: closed, or packets that make no sense
        return UnreachableError(f"the source's server: {text}", hint=_LOST)
    if code in _WITH_VALUES:
        text = "a statement is refused"
    return PermanentError(f"the source's server: {text} ({code})", hint=fix)
