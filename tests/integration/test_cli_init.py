"""``cdc init`` beside a real database: what it writes works as it is written."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from cdc.registry import known
from tests.integration.scripted import invoke
from tests.servers.postgres import Database, Server, create_database, drop_database

SECRET = "s3cret-of-the-admin"


@pytest.fixture
def shop(postgres18: Server) -> Iterator[Database]:
    made = create_database(postgres18)
    made.execute('CREATE TABLE customers (id int PRIMARY KEY, name text); CREATE SCHEMA "Sales dept"')
    made.execute('CREATE TABLE "Sales dept"."Order: lines" (id int PRIMARY KEY)')
    made.execute("CREATE TABLE audit (note text); CREATE VIEW names AS SELECT name FROM customers")
    made.execute("CREATE TABLE codes (code text NOT NULL UNIQUE)")
    made.execute("""INSERT INTO customers VALUES (1, 'Ada'); INSERT INTO "Sales dept"."Order: lines" VALUES (7), (8)""")
    yield made
    drop_database(made)


class Folder:
    """An empty folder of a user who is about to begin."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = folder, database
        self.role = f"{database.name}_role"
        self.environment = {**os.environ, "ADMIN_URL": database.dsn.replace("postgres@", f"postgres:{SECRET}@")}

    def cdc(self, *arguments: str, code: int = 0) -> str:
        """Run a command without a terminal; its output on both streams."""
        done = invoke(self.folder, self.environment, *arguments)
        assert done.exit_code == code, done.output
        return done.output

    def init(self, *arguments: str, code: int = 0) -> str:
        return self.cdc("init", "--role", self.role, *arguments, code=code)

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def listed(self) -> list[str]:
        """The tables that the file lists."""
        return re.findall(r"^      - (.*)$", self.text("cdc.yaml"), re.MULTILINE)

    def prepare(self) -> None:
        """Do what the files say: run the grants, set the environment."""
        self.database.execute(self.text("grants.sql"))
        shell = (
            f"set -a; . ./.env.example; exec {sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
        )
        said = subprocess.run(["sh", "-c", shell], cwd=self.folder, capture_output=True, text=True, check=True)
        self.environment = json.loads(said.stdout)


@pytest.fixture
def user(shop: Database, tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path, shop)
    yield folder
    if shop.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{folder.role}'"):
        shop.execute(f"DROP OWNED BY {folder.role}; DROP ROLE {folder.role}")


def test_from_an_empty_folder_to_rows_in_a_store(user: Folder) -> None:
    said = user.init("--from", user.environment["ADMIN_URL"], "--sink", "duckdb", "--yes")
    assert "not captured, with what mends it in cdc.yaml: public.audit, public.codes" in said
    assert user.listed() == ['"Sales dept.Order: lines"', "public.customers"]
    user.prepare()
    assert "is valid" in user.cdc("validate")
    found = user.cdc("validate", "--connect")
    assert "2 tables: Sales dept.Order: lines, public.customers" in found
    for role in ("source/db", "sink/duckdb"):
        user.cdc("run", "--only", role, "--until-caught-up")
    with duckdb.connect(str(user.folder / "warehouse.duckdb"), read_only=True) as warehouse:
        assert warehouse.execute("SELECT id, name FROM customers").fetchall() == [(1, "Ada")]
        assert warehouse.execute('SELECT count(*) FROM "Order: lines"').fetchall() == [(2,)]
    assert SECRET not in said + found + "".join(map(user.text, ("cdc.yaml", ".env.example", "grants.sql")))
    user.cdc("cleanup", "--yes")


def test_what_is_said_to_mend_a_table_mends_it(user: Folder) -> None:
    user.init("--from", "${ADMIN_URL}")
    fix = re.search(r"#   (ALTER TABLE .*codes.*;)\n      # - public.codes", user.text("cdc.yaml"))
    assert fix is not None
    assert 'url: "${ADMIN_URL}"' in user.text("cdc.yaml")
    user.database.execute(fix[1])
    user.init("--from", "${ADMIN_URL}", "--tables", "public.*", "--tables", "!public.cust*", "--dir", "again")
    user.folder /= "again"
    assert user.listed() == ["public.codes"]
    user.prepare()
    assert "1 tables: public.codes" in user.cdc("validate", "--connect")
    # The role and the publication are there now, which the grants that are written next take into account.
    user.init("--from", user.database.dsn, "--dir", "more")
    user.folder /= "more"
    user.prepare()
    assert "3 tables: " in user.cdc("validate", "--connect")


def test_every_kind_of_sink_is_valid_as_written(user: Folder) -> None:
    kinds = known("sinks")
    user.init("--from", user.database.dsn, *(word for kind in kinds for word in ("--sink", kind)))
    user.prepare()
    assert f"{len(kinds)} sink(s)" in user.cdc("validate")
    assert '    url: "${REDIS_URL}"\n    # password: "${REDIS_PASSWORD}"\n' in user.text("cdc.yaml")


def test_nothing_is_overwritten(user: Folder) -> None:
    (user.folder / "grants.sql").write_text("mine")
    said = user.init("--from", user.database.dsn, code=2)
    assert "grants.sql exists" in said
    assert [path.name for path in user.folder.iterdir()] == ["grants.sql"]
    assert user.text("grants.sql") == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "no database was named"),
        (["--from", "${NOPE}"], 2, "the environment variable NOPE is not set"),
        (["--from", "oracle://h/d"], 2, "no kind of database has URLs that begin with oracle:"),
        (["--from", "postgresql://127.0.0.1:1/d"], 3, "check that the server runs"),
        (["--from", "${ADMIN_URL}", "--tables", "customers"], 2, "is not of the form schema.table"),
        (["--from", "${ADMIN_URL}", "--tables", "public.audit"], 1, "it has no primary key"),
        (["--from", "${ADMIN_URL}", "--tables", "nowhere.*"], 1, "there is no table that can be captured"),
        (["--from", "${ADMIN_URL}", "--sink", "redi"], 2, "did you mean 'redis'?"),
    ],
)
def test_what_cannot_be(user: Folder, arguments: list[str], code: int, says: str) -> None:
    said = user.init(*arguments, code=code)
    assert says in said
    assert SECRET not in said
    assert list(user.folder.iterdir()) == []


def test_on_a_terminal_it_asks(user: Folder) -> None:
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cdc", "init", "--role", user.role],
        cwd=user.folder,
        env=user.environment,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    os.write(master, f"{user.database.dsn}\npublic.*\nduckdb, tantivy\n".encode())
    output, _ = process.communicate(timeout=60)
    os.close(terminal)
    os.close(master)
    assert process.returncode == 0, output
    assert user.listed() == ["public.customers"]
    assert "type: tantivy" in user.text("cdc.yaml")
