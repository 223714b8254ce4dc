"""Exactly once, through kill -9 of any process at any moment: log × stores × fault points."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cdc.log import Log
from cdc.registry import load as load_sink
from tests.contract import sinks as stores
from tests.faults.compare import assert_equal, database_rows
from tests.faults.pipeline import Attack
from tests.faults.workload import TABLES, TOTAL, Workload
from tests.servers.postgres import Database, Server, create_database, drop_database

SEEDS = [int(seed) for seed in os.environ.get("CDC_TORTURE_SEEDS", "1").split(",")]
DEATHS = int(os.environ.get("CDC_TORTURE_DEATHS", "20"))
BIG = int(os.environ.get("CDC_TORTURE_BIG", "30000"))
TIMEOUT = int(os.environ.get("CDC_TORTURE_TIMEOUT", "600"))
STORES = tuple(os.environ.get("CDC_TORTURE_STORES", "duckdb,tantivy,redis,opensearch,sql_postgres").split(","))
OWNING = tuple(name for name in STORES if load_sink("sinks", stores.load(name).type).owns_offsets)


@pytest.fixture(
    params=[
        pytest.param("embedded", marks=pytest.mark.xdist_group("torture")),
        pytest.param("kafka", marks=pytest.mark.xdist_group("kafka")),
    ]
)
def log_config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """``log:`` of the pipeline; nothing is compacted away."""
    topics = {"partitions": 3, "cleanup": "keep"}
    if request.param == "embedded":
        return {"type": "embedded", "path": str(tmp_path / "log"), "topics": topics}
    return {"type": "kafka", "bootstrap": request.getfixturevalue("kafka"), "topics": topics}


@pytest.fixture
def new_database(postgres18: Server) -> Iterator[Database]:
    """A database of the test's own."""
    made = create_database(postgres18)
    yield made
    drop_database(made)


@pytest.fixture
def sinks(
    request: pytest.FixtureRequest, tmp_path: Path, log_config: dict[str, Any]
) -> Iterator[dict[str, stores.Store]]:
    """One empty store of each kind; on Kafka the SQL server only when asked for: the run is long enough."""
    made = {}
    for name in STORES:
        if name == "sql_postgres" and log_config["type"] == "kafka" and "CDC_TORTURE_STORES" not in os.environ:
            continue
        folder = tmp_path / name
        folder.mkdir()
        made[name] = stores.load(name)(request, folder)
    yield made
    for store in made.values():
        store.stop()


def write_config(
    path: Path, pipeline: str, database: Database, log_config: dict[str, Any], sinks: dict[str, stores.Store]
) -> Path:
    """The pipeline's YAML file."""
    document: dict[str, Any] = {
        "version": 1,
        "pipeline": pipeline,
        "log": log_config,
        "sources": {"db": {"type": "postgres", "url": database.dsn, "tables": list(TABLES)}},
        "sinks": {name: {"type": store.type, **store.config()} for name, store in sinks.items()},
    }
    if "opensearch" in sinks:  # where its adapter looks
        document["sinks"]["opensearch"]["index"] = f"{stores.PIPELINE}.{{schema}}.{{table}}"
    with path.open("w") as file:
        YAML(typ="safe", pure=True).dump(document, file)
    return path


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_change_arrives_exactly_once(
    seed: int,
    log_config: dict[str, Any],
    sinks: dict[str, stores.Store],
    new_database: Database,
    tmp_path: Path,
) -> None:
    pipeline = f"t{os.getpid()}{seed}"
    file = write_config(tmp_path / "cdc.yaml", pipeline, new_database, log_config, sinks)
    with new_database.connect() as connection:
        workload = Workload(connection, seed)
        workload.prepare()
        attack = Attack(
            file, new_database, workload, seed, list(sinks), tuple(name for name in OWNING if name in sinks)
        )
        try:
            attack.run(DEATHS, BIG)
            attack.catch_up(BIG)
            log = attack.check_log()
            check_stores(log, new_database, sinks)
        finally:
            attack.close()


def check_stores(log: Log, database: Database, sinks: dict[str, stores.Store]) -> None:
    """Every table of every store equals the database."""
    schemas = list(log.schemas().values())
    assert {f"{schema.schema}.{schema.table}" for schema in schemas} == set(TABLES)
    for schema in schemas:
        expected = database_rows(database, schema)
        for name, store in sinks.items():
            assert_equal(name, schema, expected, store.rows(schema))
        if schema.table == "accounts":
            assert sum(int(str(row["balance"])) for row in expected.values()) == TOTAL
