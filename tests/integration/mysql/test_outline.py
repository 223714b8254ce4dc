"""What ``cdc init`` writes about MySQL and MariaDB works as it is written."""

from __future__ import annotations

import re

import pytest
from pydantic import SecretStr

from cdc.connector import Severity
from cdc.errors import UnreachableError
from connectors.mysql.config import MysqlConfig
from connectors.mysql.outline import outline
from connectors.mysql.preflight import preflight
from tests.integration.mysql.conftest import Binlog

pytestmark = pytest.mark.xdist_group("mysql")

ROLE = "o'brien"
USER = r"'o''brien'@'%'"


def config(binlog: Binlog, url: str = "", password: str = "", tables: str = "shop.*") -> MysqlConfig:
    return MysqlConfig(type="mysql", url=url or binlog.server.url, password=SecretStr(password), tables=[tables])


def test_the_grants_are_what_is_needed(binlog: Binlog) -> None:
    binlog.execute(
        f"DROP USER IF EXISTS {USER}",
        "CREATE TABLE item (id int PRIMARY KEY)",
        "CREATE TABLE `order ``lines``` (id int PRIMARY KEY)",
        "CREATE TABLE note (text int)",
        "CREATE VIEW seen AS SELECT id FROM item",
    )
    made = outline(config(binlog), ROLE)
    assert {table.name: bool(table.problem) for table in made.tables} == {
        "shop.item": False,
        "shop.order `lines`": False,
        "shop.note": True,
    }
    assert all(bool(table.fix) == bool(table.problem) for table in made.tables)
    assert made.settings == {}
    url = f"mysql://o%27brien@127.0.0.1:{binlog.server.port}"
    try:
        binlog.execute(*re.findall(r"^(?!--).+(?=;$)", made.grants, re.MULTILINE))
        with pytest.raises(UnreachableError):  # until an administrator has chosen a password
            preflight(config(binlog, url))
        (password,) = re.findall(r"ALTER USER [^;]+", made.grants)
        binlog.execute(password.replace("…", "canary"))
        findings = preflight(config(binlog, url, "canary"))
    finally:
        binlog.execute(f"DROP USER {USER}")
    assert [finding for finding in findings if finding.severity is Severity.ERROR] == []
    assert any(finding.check == "mysql.replication" for finding in findings)


def test_what_the_server_lacks_is_a_comment(binlog: Binlog) -> None:
    binlog.execute("CREATE TABLE item (id int PRIMARY KEY)")
    ((durable, image),) = binlog.execute("SELECT @@GLOBAL.sync_binlog, @@GLOBAL.binlog_row_image")
    try:
        binlog.execute("SET GLOBAL sync_binlog = 0, GLOBAL binlog_row_image = 'MINIMAL'")
        grants = outline(config(binlog), ROLE).grants
    finally:
        binlog.execute(f"SET GLOBAL sync_binlog = {durable}, GLOBAL binlog_row_image = '{image}'")
    scope = "PERSIST" if binlog.mysql else "GLOBAL"
    assert "\n-- Advised: binlog_row_image is MINIMAL" in grants
    assert f"\n--   SET {scope} binlog_row_image = FULL;" in grants
    assert "\n-- Advised: sync_binlog is 0" in grants
    assert f"\n--   SET {scope} sync_binlog = 1;" in grants
    assert "binlog_row_image" not in outline(config(binlog), ROLE).grants
