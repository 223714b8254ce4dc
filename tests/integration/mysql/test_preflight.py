"""What is looked at before the start: a finding comes when its reason is there, and goes by the SQL that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cdc.connector import Finding, Severity
from cdc.errors import UnreachableError
from connectors.mysql.config import MysqlConfig
from connectors.mysql.preflight import preflight
from connectors.mysql.settings import check_order
from tests.integration.mysql.conftest import Binlog, needs_image
from tests.servers import free_port
from tests.servers.mariadb import MariaDbServer

pytestmark = pytest.mark.xdist_group("mysql")

DURABLE = {"sync_binlog": "1", "innodb_flush_log_at_trx_commit": "1"}
"""What the servers of the tests lack."""


@contextmanager
def changed(binlog: Binlog, **settings: str) -> Iterator[None]:
    """Global variables, put back at the end."""
    before = dict(binlog.execute("SHOW GLOBAL VARIABLES"))

    def put(name: str, value: str) -> None:
        number = value.replace(".", "").isdigit()
        binlog.execute(f"SET GLOBAL {name} = {value}" if number else f"SET GLOBAL {name} = '{value}'")

    try:
        for name, value in settings.items():
            put(name, value)
        yield
    finally:
        for name in settings:
            put(name, before[name])
            if binlog.mysql:
                binlog.execute(f"RESET PERSIST IF EXISTS {name}")


@pytest.fixture
def source(binlog: Binlog) -> Iterator[Binlog]:
    """A server with nothing to find fault with, and a table."""
    binlog.execute("CREATE TABLE item (id int PRIMARY KEY)")
    with changed(binlog, **DURABLE):
        yield binlog


def look(source: Binlog, *tables: str, url: str = "", **settings: Any) -> list[Finding]:
    config = {"type": "mysql", "url": url or source.server.url, "tables": list(tables or ["shop.item"]), **settings}
    return preflight(MysqlConfig.model_validate(config))


def wrong(findings: list[Finding]) -> dict[str, Finding]:
    """Those that are not OK, by the name of the check; each has what mends it."""
    found = [finding for finding in findings if finding.severity is not Severity.OK]
    assert all(finding.fix for finding in found)
    by_name = {finding.check.removeprefix("mysql."): finding for finding in found}
    assert len(by_name) == len(found)
    return by_name


def mend(source: Binlog, finding: Finding) -> None:
    """Run the SQL that it names."""
    statements = re.findall(r"(?:SET|GRANT|ALTER) [^;]+(?=;)", finding.fix)
    assert statements
    source.execute(*statements)


# A server as it should be.


def test_nothing_is_wrong(source: Binlog) -> None:
    def state() -> object:
        return source.execute("SHOW GLOBAL VARIABLES"), source.execute(
            "SELECT user, host FROM mysql.user ORDER BY 1, 2"
        )

    before = state()
    findings = look(source)
    assert [finding.check for finding in findings] == [
        f"mysql.{name}" for name in ("server", "retention", "tables", "replication")
    ]
    assert wrong(findings) == {}
    assert source.server.name in findings[0].message
    assert ("TLSv1" in findings[0].message) == source.server.offers_tls()
    assert state() == before


def test_nobody_answers(source: Binlog) -> None:
    with pytest.raises(UnreachableError):
        look(source, url=f"mysql://cdc@127.0.0.1:{free_port()}")


# Settings.

SETTINGS = {
    "binlog_format": {"STATEMENT": Severity.ERROR, "MIXED": Severity.ERROR},
    "binlog_row_image": {"MINIMAL": Severity.WARNING, "NOBLOB": Severity.WARNING},
    "binlog_row_metadata": {"MINIMAL": Severity.ERROR},
    "sync_binlog": {"0": Severity.WARNING},
    "innodb_flush_log_at_trx_commit": {"2": Severity.WARNING, "0": Severity.WARNING},
}
OF_MYSQL = {
    "binlog_row_value_options": {"PARTIAL_JSON": Severity.WARNING},
    "gtid_mode": {"ON_PERMISSIVE": Severity.ERROR},
    "server_id": {"0": Severity.ERROR},
}


def test_settings(source: Binlog) -> None:
    for name, values in {**SETTINGS, **(OF_MYSQL if source.mysql else {})}.items():
        for value, severity in values.items():
            with changed(source, **{name: value}):
                found = wrong(look(source))
                assert {check: finding.severity for check, finding in found.items()} == {name: severity}
                assert value in found[name].message
                mend(source, found[name])
                assert wrong(look(source)) == {}


def test_full_nodup(source: Binlog) -> None:
    needs_image(source.server, "FULL_NODUP")
    with changed(source, binlog_row_image="FULL_NODUP"):
        found = wrong(look(source))
        assert {check: finding.severity for check, finding in found.items()} == {"binlog_row_image": Severity.WARNING}
        assert "is FULL_NODUP: rows in the binlog lack generated columns" in found["binlog_row_image"].message
        mend(source, found["binlog_row_image"])
        assert wrong(look(source)) == {}


def test_retention(source: Binlog) -> None:
    with changed(source, binlog_expire_logs_seconds="7200"):
        found = wrong(look(source))
        assert found.keys() == {"retention"}
        assert "2.0 hours" in found["retention"].message
        mend(source, found["retention"])
        (kept,) = (finding for finding in look(source) if finding.check == "mysql.retention")
        assert kept.severity is Severity.OK
        assert "168 hours" in kept.message
    forever = "binlog_expire_logs_auto_purge" if source.mysql else "binlog_expire_logs_seconds"
    with changed(source, **{forever: "OFF" if source.mysql else "0"}):
        assert any("does not purge" in finding.message for finding in look(source))
    if not source.mysql:
        with changed(source, expire_logs_days="1"):
            assert "24.0 hours" in wrong(look(source))["retention"].message


@pytest.mark.parametrize(
    ("state", "strict", "warned"),
    [
        ("", "OFF", False),
        ("0-1-6", "OFF", False),
        ("0-1-6,1-2-7", "OFF", False),
        ("0-1-6,0-2-7", "OFF", True),
        ("0-1-6,0-2-7", "ON", False),
    ],
)
def test_several_writers_of_a_domain(state: str, strict: str, *, warned: bool) -> None:
    findings = list(check_order({"gtid_binlog_state": state, "gtid_strict_mode": strict}))
    assert [finding.check for finding in findings] == ["mysql.gtid_strict_mode"] * warned


# What the user may do.


def test_privileges(source: Binlog) -> None:
    """All that lack are found at once, and the grants that the findings name are all that is needed."""
    source.execute("DROP USER IF EXISTS probe@localhost", "CREATE USER probe@localhost")
    url = f"mysql://probe@127.0.0.1:{source.server.port}"
    try:
        found = wrong(look(source, "shop.*", url=url))
        assert "SELECT" in found["table"].fix
        source.execute("GRANT INSERT ON shop.item TO probe@localhost")  # so that it knows of the table
        found = wrong(look(source, url=url))
        assert {name: finding.fix for name, finding in found.items()} == {
            "select": "GRANT SELECT ON `shop`.`item` TO 'probe'@'localhost';",
            "privileges": "GRANT REPLICATION CLIENT ON *.* TO 'probe'@'localhost';",
            "replication": "GRANT REPLICATION SLAVE ON *.* TO 'probe'@'localhost';",
        }
        assert {finding.severity for finding in found.values()} == {Severity.ERROR}
        for finding in found.values():
            mend(source, finding)
        source.execute("REVOKE INSERT ON shop.item FROM probe@localhost")
        assert wrong(look(source, url=url)) == {}
    finally:
        source.execute("DROP USER probe@localhost")


def test_a_server_id_that_another_has(source: Binlog) -> None:
    found = wrong(look(source, server_id=1))
    assert found.keys() == {"replication"}
    assert "server_id 1 is in use" in found["replication"].message


# Tables.


def test_tables(source: Binlog) -> None:
    source.execute("CREATE TABLE note (text int NOT NULL)")
    found = wrong(look(source, "shop.*"))
    assert {name: finding.severity for name, finding in found.items()} == {"table": Severity.WARNING}
    assert "shop.note" in found["table"].message
    found = wrong(look(source, "shop.absent"))
    assert {name: finding.severity for name, finding in found.items()} == {"table": Severity.ERROR}


def family(source: Binlog) -> None:
    source.execute(
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE child (id int PRIMARY KEY, p int, q int, "
        "CONSTRAINT `f``p` FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE ON UPDATE SET NULL, "
        "CONSTRAINT loud FOREIGN KEY (q) REFERENCES parent (id) ON DELETE RESTRICT)",
    )


def in_binlog_after_cascade(source: Binlog) -> set[str]:
    """The tables of which rows are in the binlog when a row goes by its foreign key."""
    source.execute("DELETE FROM child", "REPLACE INTO parent VALUES (1)", "INSERT INTO child VALUES (1, 1, NULL)")
    source.rotate()
    source.execute("DELETE FROM parent")
    assert source.execute("SELECT * FROM child") == []
    return {table.table for table, _ in source.rows()}


def test_silent_cascades(source: Binlog) -> None:
    """MariaDB's engine follows foreign keys behind the binlog's back; MySQL 9.6 and later do not."""
    family(source)
    assert wrong(look(source, "shop.parent")) == {}
    found = wrong(look(source, "shop.parent", "shop.child"))
    if source.mysql:
        assert in_binlog_after_cascade(source) == {"parent", "child"}
        assert found == {}
        return
    assert in_binlog_after_cascade(source) == {"parent"}
    assert {name: finding.severity for name, finding in found.items()} == {"cascade": Severity.WARNING}
    for part in ("shop.child", "`f``p`", "DELETE CASCADE", "UPDATE SET NULL"):
        assert part in found["cascade"].message
    assert "loud" not in found["cascade"].message
    source.execute("CREATE DATABASE IF NOT EXISTS elsewhere", "USE elsewhere")
    mend(source, found["cascade"])
    source.execute("USE shop", "DROP DATABASE elsewhere")
    assert wrong(look(source, "shop.parent", "shop.child")) == {}
    assert "REFERENCES `parent`" in source.execute("SHOW CREATE TABLE child")[0][1]


# What takes a restart.


@contextmanager
def restarted(source: Binlog, *options: str) -> Iterator[None]:
    """The server with further options."""

    def restart(*options: str) -> None:
        source.connection.close()
        source.server.kill()  # MySQL takes 6 s to say good-bye to those that have read its binlog
        source.server.start(*options)
        source.connection = source.server.connect("shop")

    restart(*options)
    try:
        yield
    finally:
        restart()


def test_filter_replica_and_cascades_of_the_engine(source: Binlog) -> None:
    family(source)
    source.execute("CREATE DATABASE IF NOT EXISTS hidden", "CREATE TABLE hidden.item (id int PRIMARY KEY)")
    durable = [f"--{name.replace('_', '-')}={value}" for name, value in DURABLE.items()]
    if source.mysql:
        options = ["--binlog-ignore-db=hidden", "--log-replica-updates=OFF", "--innodb-native-foreign-keys=ON"]
        updates, filtered = "log_replica_updates", "binlog_ignore_db"
        begin = ["CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT=1"]
        end = ["RESET REPLICA ALL"]
    else:
        options = ["--binlog-do-db=shop", "--log-slave-updates=OFF"]
        updates, filtered = "log_slave_updates", "binlog_do_db"
        begin = ["CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_USER='x', MASTER_PORT=1", "START SLAVE SQL_THREAD"]
        end = ["STOP SLAVE", "RESET SLAVE ALL"]
    with restarted(source, *options, *durable):
        assert wrong(look(source)) == {}
        found = wrong(look(source, "shop.item", "hidden.item"))
        assert {name: finding.severity for name, finding in found.items()} == {"filter": Severity.ERROR}
        assert "hidden.item" in found["filter"].message
        assert filtered in found["filter"].fix
        assert wrong(look(source, "shop.child")).keys() == {"cascade"}
        assert in_binlog_after_cascade(source) == {"parent"}
        source.execute(*begin)
        found = wrong(look(source))
        source.execute(*end)
        assert {name: finding.severity for name, finding in found.items()} == {"replica": Severity.ERROR}
        assert updates in found["replica"].fix
    source.execute("DROP DATABASE hidden")


def test_no_binlog_on_mariadb(mariadb_source: MariaDbServer) -> None:
    source = Binlog(mariadb_source, "shop")
    source.execute("CREATE TABLE item (id int PRIMARY KEY)")
    with restarted(source, "--skip-log-bin", *(f"--{name}={value}" for name, value in DURABLE.items())):
        found = wrong(look(source))
        assert {name: finding.severity for name, finding in found.items()} == {"log_bin": Severity.ERROR}
        assert "log_bin = ON" in found["log_bin"].fix
    source.connection.close()
