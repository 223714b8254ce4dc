"""README keeps its word: its files, commands and programs are taken from it and run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.postgres import Database, Server, create_database, drop_database
from tests.servers.redis import RedisServer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[str]:
    """The commands of a shell block without their comments."""
    return [line.split("  #")[0].strip() for line in block.splitlines() if line.strip()]


@pytest.fixture
def shop(postgres18: Server) -> Iterator[Database]:
    """A database with the tables that README speaks of."""
    made = create_database(postgres18)
    made.execute("CREATE TABLE customers (id int PRIMARY KEY, name text, balance numeric(10,2))")
    made.execute("CREATE TABLE orders (id int PRIMARY KEY, customer_id int)")
    made.execute("INSERT INTO customers VALUES (7, 'Ada', 12.50), (8, 'Grace', 1)")
    made.execute("INSERT INTO orders VALUES (1, 7)")
    yield made
    drop_database(made)


def run(command: str, folder: Path, **environment: str) -> str:
    """Run a command of README; its standard output."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_the_two_commands_are_make_targets() -> None:
    assert commands(blocks("sh")[0]) == ["make demo", "make test"]
    for command in commands(blocks("sh")[0]):
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_first_screen(shop: Database, valkey_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "cdc.yaml").write_text(blocks("yaml")[0])
    install, *rest = commands(blocks("sh")[1])
    assert install.startswith("pip install -e ")
    run(f"{sys.executable} -m {install} --dry-run --no-deps --quiet", ROOT)
    output = {command: run(command, tmp_path, DATABASE_URL=shop.dsn, REDIS_URL=valkey_server.url) for command in rest}
    events = [json.loads(line) for line in output["cdc tap --from beginning --limit 3"].splitlines()]
    assert sorted(event["value"]["after"]["id"] for event in events) == [1, 7, 8]
    assert "shop_db" in output["cdc status"]
    run("cdc cleanup --yes", tmp_path, DATABASE_URL=shop.dsn, REDIS_URL=valkey_server.url)


@pytest.mark.xdist_group("kafka")
def test_beside_a_real_database(shop: Database, kafka: str, valkey_server: RedisServer, tmp_path: Path) -> None:
    pipeline = f"readme{uuid.uuid4().hex[:8]}"
    # The role is the server's, and may be there from an earlier run; the limit of WAL is for production.
    statements = [
        line for line in blocks("sql")[0].splitlines() if not line.startswith(("CREATE ROLE", "ALTER SYSTEM"))
    ]
    role = f"cdc_{uuid.uuid4().hex[:8]}"
    shop.execute(f"CREATE ROLE {role} LOGIN REPLICATION")
    for statement in statements:
        shop.execute(statement.replace(" cdc;", f" {role};"))
    (tmp_path / "cdc.yaml").write_text(blocks("yaml")[1].replace("pipeline: shop", f"pipeline: {pipeline}"))
    url = shop.dsn.replace("postgres@", f"{role}@")
    environment = {"DATABASE_URL": url, "REDIS_URL": valkey_server.url, "KAFKA": kafka}
    run("cdc validate --connect", tmp_path, **environment)
    run("cdc run --until-caught-up", tmp_path, **environment)
    program = tmp_path / "reader.py"
    program.write_text(blocks("python")[0])
    rows = json.loads(run(f"{sys.executable} {program} {kafka} {pipeline}.public.customers", tmp_path))
    assert sorted(row["name"] for row in rows) == ["Ada", "Grace"]
    run("cdc cleanup --yes", tmp_path, **environment)
    shop.execute(f"DROP OWNED BY {role}")
    shop.execute(f"DROP ROLE {role}")


def test_a_sink_of_ones_own(shop: Database, tmp_path: Path) -> None:
    package = tmp_path / "jsonfile_sink"
    package.mkdir()
    (package / "__init__.py").write_text(blocks("python")[1])
    metadata = tmp_path / "jsonfile_sink-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: jsonfile-sink\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[cdc.sinks]\njsonfile = jsonfile_sink:SINK\n")
    (tmp_path / "cdc.yaml").write_text(
        "version: 1\npipeline: shop\n"
        'sources: {db: {type: postgres, url: "${DATABASE_URL}", tables: [public.*]}}\n'
        "sinks: {files: {type: jsonfile, folder: out}}\n"
    )
    run("cdc run --until-caught-up", tmp_path, DATABASE_URL=shop.dsn)
    shop.execute("DELETE FROM customers WHERE id = 8")
    run("cdc run --until-caught-up", tmp_path, DATABASE_URL=shop.dsn)
    stored: dict[str, list[object]] = {}
    for path in (tmp_path / "out").glob("shop.public.customers.*.json"):
        stored |= json.loads(path.read_text())["rows"]
    assert {key: row[1] for key, row in stored.items()} == {
        '{"id":7}': {"id": 7, "name": "Ada", "balance": "12.50"},
        '{"id":8}': None,
    }


def test_envelope_on_the_page_is_json() -> None:
    assert json.loads(blocks("json")[0])["after"]["id"] == 7
