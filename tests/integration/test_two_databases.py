"""examples/two_databases.yaml: PostgreSQL and MariaDB in one pipeline, into one search server and one warehouse."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import pytest
import urllib3

from cdc.config.load import load
from cdc.config.problems import InvalidConfiguration
from tests.integration.test_deploy import BILLING_ROLE, made_billing, shop
from tests.servers.mariadb import MariaDbServer
from tests.servers.opensearch import OpenSearchServer
from tests.servers.postgres import Database, Server, create_database, drop_database

__all__ = ["shop"]

pytestmark = pytest.mark.xdist_group("kafka")  # as test_deploy, whose role is the server's

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TEXT = (EXAMPLES / "two_databases.yaml").read_text()
ADDRESSES = {
    "SHOP_URL": "postgresql://cdc@localhost/shop",
    "BILLING_URL": "mysql://cdc@localhost",
    "SEARCH_URL": "http://localhost:9200",
    "WAREHOUSE_URL": "postgresql://cdc@localhost/warehouse",
}


@pytest.fixture
def warehouse(postgres18: Server) -> Iterator[Database]:
    made = create_database(postgres18)
    yield made
    drop_database(made)


@pytest.fixture
def billing(mariadb_source: MariaDbServer) -> Iterator[MariaDbServer]:
    yield from made_billing(mariadb_source)


def test_both_feed_the_same_stores(
    shop: Database, warehouse: Database, billing: MariaDbServer, opensearch: OpenSearchServer, tmp_path: Path
) -> None:
    pipeline = f"company{uuid.uuid4().hex[:8]}"
    (tmp_path / "cdc.yaml").write_text(TEXT.replace("pipeline: company\n", f"pipeline: {pipeline}\n"))
    password = quote("choose one")
    addresses = {
        "SHOP_URL": shop.dsn.replace("postgres@", "cdc@"),
        "BILLING_URL": f"mysql://{BILLING_ROLE}:{password}@127.0.0.1:{billing.port}",
        "SEARCH_URL": opensearch.url,
        "WAREHOUSE_URL": warehouse.dsn,
    }

    def cdc(*arguments: str) -> str:
        command = [sys.executable, "-m", "cdc", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **addresses}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def found(table: str) -> list[dict[str, object]]:
        """The documents of an index."""
        index = f"{opensearch.url}/{pipeline}.{table}"
        urllib3.request("POST", f"{index}/_refresh", retries=False)
        hits = urllib3.request("GET", f"{index}/_search?sort=id", retries=False).json()["hits"]["hits"]
        return [hit["_source"] for hit in hits]

    assert "mysql.replication" in cdc("validate", "--connect")
    cdc("run", "--until-caught-up")
    shop.execute("UPDATE customers SET name = 'Lovelace' WHERE id = 1")
    billing.execute("UPDATE billing.customers SET name = 'Lovelace Ltd' WHERE id = 1", "TRUNCATE billing.invoices")
    billing.execute("INSERT INTO billing.invoices (customer_id, total) VALUES (2, 12.5)")
    cdc("run", "--until-caught-up")

    assert [row["name"] for row in found("public.customers")] == ["Lovelace", "Grace"]
    assert [row["name"] for row in found("billing.customers")] == ["Lovelace Ltd", "Grace Inc"]
    assert warehouse.execute("SELECT id, name FROM public_customers ORDER BY id") == [(1, "Lovelace"), (2, "Grace")]
    assert warehouse.execute("SELECT count(*) FROM public_orders") == [(3,)]
    assert warehouse.execute("SELECT id, name, vat_id FROM billing_customers ORDER BY id") == [
        (1, "Lovelace Ltd", "GB1"),
        (2, "Grace Inc", None),
    ]
    assert warehouse.execute("SELECT customer_id, total FROM billing_invoices") == [(2, Decimal("12.50"))]
    cdc("cleanup", "--yes")


def test_sources_that_may_meet_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "cdc.yaml"
    file.write_text(TEXT.replace("billing.*", '"*.customers"'))
    load(file, ADDRESSES)  # {source} keeps their topics apart
    file.write_text(file.read_text().replace("{source}.", ""))
    with pytest.raises(InvalidConfiguration) as refused:
        load(file, ADDRESSES)
    assert [problem.code for problem in refused.value.problems] == ["shared_topic"]
