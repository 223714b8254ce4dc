"""The command line with MySQL and MariaDB, from an empty folder to nothing left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pytest

from cdc.connector import Severity
from connectors.mysql.client import Server
from connectors.mysql.settings import check_retention, check_settings
from tests.integration.mysql.conftest import Database, database
from tests.integration.scripted import invoke
from tests.servers import wait_until
from tests.servers.mariadb import MariaDbServer

__all__ = ["database"]

pytestmark = pytest.mark.xdist_group("mysql")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "mysql.md").read_text()
SECRET = "s3cret-of-the-role"


class User:
    """Somebody with a folder, and a role at the server that may do what the grants say."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = folder, database
        self.role = f"{database.schema}'s role"
        self.environment = {**os.environ, "ADMIN_URL": database.server.url}

    def cdc(self, *arguments: str, code: int = 0) -> str:
        """Run a command without a terminal; its output on both streams."""
        done = invoke(self.folder, self.environment, *arguments)
        assert done.exit_code == code, done.output
        assert SECRET not in done.output
        return done.output

    def source(self) -> dict[str, Any]:
        """What `cdc status` says of the source."""
        found = invoke(self.folder, self.environment, "status", "--json")
        status: dict[str, Any] = json.loads(found.stdout)["result"]["sources"]["db"]
        return status

    def catch_up(self) -> None:
        for role in ("source/db", "sink/duckdb"):
            self.cdc("run", "--only", role, "--until-caught-up")

    def init(self) -> None:
        """Have the files written, do what they say: run the grants, choose a password, set the environment."""
        self.cdc(
            *("init", "--role", self.role, "--from", "${ADMIN_URL}", "--sink", "duckdb"),
            *("--tables", f"{self.database.schema}.*"),
        )
        grants = (self.folder / "grants.sql").read_text()
        self.database.execute(*re.findall(r"^(?!--).+(?=;$)", grants, re.MULTILINE))
        (password,) = re.findall(r"ALTER USER [^;]+", grants)
        self.database.execute(password.replace("…", SECRET))
        variables = (self.folder / ".env.example").read_text()
        (self.folder / ".env.example").write_text(variables.replace("PASSWORD@", f"{SECRET}@"))
        shell = (
            f"set -a; . ./.env.example; exec {sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
        )
        said = subprocess.run(["sh", "-c", shell], cwd=self.folder, capture_output=True, text=True, check=True)
        self.environment = json.loads(said.stdout)

    def stored(self) -> dict[int, str]:
        with duckdb.connect(str(self.folder / "warehouse.duckdb"), read_only=True) as warehouse:
            return dict(warehouse.execute("SELECT id, name FROM customers").fetchall())

    def tap(self) -> subprocess.Popen[str]:
        """`cdc tap --at source` that has begun."""
        tap = subprocess.Popen(
            [sys.executable, "-m", "cdc", "tap", "--at", "source", "--limit", "5"],
            cwd=self.folder,
            env={**self.environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tap.stderr is not None
        assert any("tapping" in line for line in iter(tap.stderr.readline, ""))
        return tap


@pytest.fixture
def user(database: Database, tmp_path: Path) -> Iterator[User]:
    database.execute(
        "CREATE TABLE customers (id int PRIMARY KEY, name varchar(50))",
        "CREATE TABLE codes (id int PRIMARY KEY, code text)",
        "CREATE TABLE notes (note text)",
        "INSERT INTO customers VALUES (1, 'Ada'), (2, 'Grace')",
    )
    user = User(tmp_path, database)
    yield user
    database.execute(f'DROP USER IF EXISTS "{user.role}"')


def test_from_an_empty_folder_to_nothing_left(user: User) -> None:
    user.init()
    assert f"\npipeline: {user.database.schema}\n" in (user.folder / "cdc.yaml").read_text()
    assert urlsplit(user.environment["ADMIN_URL"]).path == ""  # where the administrator was, the role may not go
    found = user.cdc("validate", "--connect")
    assert "✓ mysql.replication" in found
    assert f"2 tables: {user.database.table('codes')}, {user.database.table('customers')}" in found

    user.catch_up()
    assert user.stored() == {1: "Ada", 2: "Grace"}
    source = user.source()
    assert (source["state"], source["database_error"], source["lag_bytes"]) == ("stopped", None, 0)
    assert source["retained_bytes"] > 0

    user.database.execute("UPDATE customers SET name = 'Hopper' WHERE id = 2", "DELETE FROM customers WHERE id = 1")
    user.catch_up()
    assert user.stored() == {2: "Hopper"}
    assert user.source()["lag_seconds"] == 0

    user.cdc("snapshot", user.database.table("customers"))
    user.catch_up()
    reads = user.cdc("tap", "--from", "beginning", "--op", "r", "--limit", "3").splitlines()
    assert sorted(json.loads(line)["key"]["id"] for line in reads if line.startswith("{")) == [1, 2, 2]
    assert "positions, offsets and states" in user.cdc("cleanup", "--yes")
    assert user.stored() == {2: "Hopper"}


def test_tap_shows_what_the_server_sends(user: User) -> None:
    user.init()
    with user.tap() as tap:
        try:
            user.database.execute(
                "TRUNCATE codes",
                "INSERT INTO customers VALUES (3, 'Barbara')",
                "INSERT INTO notes VALUES ('which is not captured')",
                "UPDATE customers SET name = 'Liskov' WHERE id = 3",
                "DELETE FROM customers WHERE id = 3",
                "TRUNCATE customers",
            )
            output, errors = tap.communicate(timeout=30)
        finally:
            tap.kill()
    assert tap.returncode == 0, errors
    shown = [json.loads(line) for line in output.splitlines()]
    table = user.database.table("customers")
    assert [(event["table"], event["op"]) for event in shown] == [
        (user.database.table("codes"), "t"),
        *((table, operation) for operation in "cudt"),
    ]
    assert [event["value"]["after"] for event in shown[1:4]] == [
        {"id": 3, "name": "Barbara"},
        {"id": 3, "name": "Liskov"},
        None,
    ]


def test_what_is_wrong_is_said_with_what_mends_it(user: User) -> None:
    user.init()
    account = re.search(r"TO ('.*');", (user.folder / "grants.sql").read_text())
    assert account is not None
    user.catch_up()
    user.database.execute(f"REVOKE SELECT ON customers FROM {account[1]}")
    said = user.cdc("validate", "--connect", code=5)
    assert f"table {user.database.table('customers')} does not exist on this server, or the user may not see it" in said

    right = user.environment["ADMIN_URL"]
    user.environment["ADMIN_URL"] = right.replace(SECRET, "wrong-one")
    said = user.cdc("validate", "--connect", code=3)
    assert "Access denied" in said
    assert "check user, password" in said
    assert "wrong-one" not in said
    assert "Access denied" in user.source()["database_error"]

    port = f":{urlsplit(right).port}"
    user.environment["ADMIN_URL"] = right.replace(port, ":1")
    assert "does not answer" in user.cdc("validate", "--connect", code=3)
    source = user.source()
    assert "does not answer" in source["database_error"]
    assert source["position"]  # what is on the log is told all the same


def test_the_page_has_the_grants(user: User) -> None:
    (grants,) = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert grants in (ROOT / "README.md").read_text().replace("IDENTIFIED BY '…'", "IDENTIFIED BY 'choose one'")
    role = user.role.replace("'s ", "_")
    for old, new in ((" cdc", f" {role}"), ("shop.", f"{user.database.schema}."), ("choose one", SECRET)):
        grants = grants.replace(old, new)
    user.database.execute(*filter(None, grants.split(";\n")))
    user.environment["DATABASE_URL"] = f"mysql://{role}:{SECRET}@127.0.0.1:{user.database.server.port}"
    tables = f"{user.database.schema}.*"
    (user.folder / "cdc.yaml").write_text(
        f'version: 1\nsources: {{db: {{type: mysql, url: "${{DATABASE_URL}}", tables: ["{tables}"]}}}}\n'
        "sinks: {duckdb: {type: duckdb, path: warehouse.duckdb}}\n"
    )
    try:
        assert "✓ mysql.replication" in user.cdc("validate", "--connect")
        user.catch_up()
    finally:
        user.database.execute(f"DROP USER {role}")
    assert user.stored() == {1: "Ada", 2: "Grace"}


@pytest.mark.parametrize("mariadb", [False, True])
def test_the_page_has_the_settings(mariadb: bool) -> None:
    (settings,) = re.findall(r"^```ini\n\[mysqld\]\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    written: dict[str, str] = dict(re.findall(r"^(\w+) = (\w+)", settings, re.MULTILINE))
    server = Server(mariadb, (11, 0, 0), "", int(written["server_id"]), None, None, written["gtid_mode"])
    variables = {**written, "log_bin": "ON"}
    assert [*check_settings(server, variables), check_retention(server, variables, 0).severity] == [Severity.OK]


def test_a_purged_binlog_is_a_gap_that_snapshot_mends(user: User) -> None:
    user.init()
    user.catch_up()
    user.database.execute("DELETE FROM customers WHERE id = 1", "FLUSH BINARY LOGS")
    (*_, (last, *_)) = user.database.execute("SHOW BINARY LOGS")

    def purged() -> bool:
        """Not while the server still holds a file open for a reader that has gone."""
        user.database.execute(f"PURGE BINARY LOGS TO '{last}'")
        return bool(user.database.execute("SHOW BINARY LOGS")[0][0] == last)

    wait_until(purged, what="the purge")
    assert "purged what was not captured yet: run `cdc snapshot`" in user.source()["warning"]
    said = user.cdc("run", "--only", "source/db", "--until-caught-up", code=6)
    assert "cdc snapshot" in said
    assert user.source()["state"] == "needs_snapshot"
    assert user.stored() == {1: "Ada", 2: "Grace"}
    user.cdc("snapshot")
    user.catch_up()
    assert user.stored() == {2: "Grace"}
    assert "warning" not in user.source()


def test_a_server_that_is_too_old_is_refused(mysql56: MariaDbServer, tmp_path: Path) -> None:
    mysql56.execute("CREATE DATABASE shop", "CREATE TABLE shop.items (id int PRIMARY KEY)")
    sentence = "the source's server is MySQL 5.6.24-log, which is too old"
    init = ("init", "--from", mysql56.url, "--tables", "shop.*", "--sink", "duckdb")
    done = invoke(tmp_path, os.environ, *init)
    assert (done.exit_code, sentence in done.output) == (1, True), done.output
    (tmp_path / "cdc.yaml").write_text(
        f"version: 1\nsources: {{db: {{type: mysql, url: '{mysql56.url}', tables: ['shop.*']}}}}\n"
        "sinks: {duckdb: {type: duckdb, path: warehouse.duckdb}}\n"
    )
    for command, code in ((("validate", "--connect"), 5), (("run", "--only", "source/db", "--until-caught-up"), 1)):
        done = invoke(tmp_path, os.environ, *command)
        assert (done.exit_code, sentence in done.output) == (code, True), done.output
        assert "MySQL 8.0 or later is needed" in done.output
