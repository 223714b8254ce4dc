"""Exactly once, through kill -9 of any process at any moment: log × stores × fault points."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cdc.log import Log
from cdc.registry import load as load_sink
from schemas.table import TableSchema
from tests.contract import sinks as stores
from tests.faults import mysql
from tests.faults.compare import Rows, assert_equal, database_rows
from tests.faults.pipeline import Attack
from tests.faults.workload import TABLES, TOTAL, Workload
from tests.servers.mariadb import MariaDbServer
from tests.servers.postgres import Database, Server, create_database, drop_database

SEEDS = [int(seed) for seed in os.environ.get("CDC_TORTURE_SEEDS", "1").split(",")]
DEATHS = int(os.environ.get("CDC_TORTURE_DEATHS", "9"))
BIG = int(os.environ.get("CDC_TORTURE_BIG", "20000"))
TIMEOUT = int(os.environ.get("CDC_TORTURE_TIMEOUT", "600"))
STORES = tuple(os.environ.get("CDC_TORTURE_STORES", "duckdb,tantivy,redis,opensearch,sql_postgres").split(","))
SOURCES = ("mysql_source", "mariadb_source") if "CDC_TORTURE_BIG" in os.environ else ("mysql_source",)
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
    path: Path, pipeline: str, source: dict[str, Any], log_config: dict[str, Any], sinks: dict[str, stores.Store]
) -> Path:
    """The pipeline's YAML file."""
    document: dict[str, Any] = {
        "version": 1,
        "pipeline": pipeline,
        "log": log_config,
        "sources": {"db": {**source, "tables": list(TABLES)}},
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
    source = {"type": "postgres", "url": new_database.dsn}
    file = write_config(tmp_path / "cdc.yaml", pipeline, source, log_config, sinks)
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
            check_stores(log, partial(database_rows, new_database), sinks)
        finally:
            attack.close()


def check_stores(log: Log, database_rows: Callable[[TableSchema], Rows], sinks: dict[str, stores.Store]) -> None:
    """Every table of every store equals the database."""
    schemas = list(log.schemas().values())
    assert {f"{schema.schema}.{schema.table}" for schema in schemas} == set(TABLES)
    for schema in schemas:
        expected = database_rows(schema)
        for name, store in sinks.items():
            assert_equal(name, schema, expected, store.rows(schema))
        if schema.table == "accounts":
            assert sum(int(str(row["balance"])) for row in expected.values()) == TOTAL


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize(
    "log_config", [pytest.param("embedded", marks=pytest.mark.xdist_group("mysql"))], indirect=True
)
@pytest.mark.parametrize("server", SOURCES)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_change_of_mysql_arrives_exactly_once(
    request: pytest.FixtureRequest, seed: int, server: str, log_config: dict[str, Any], tmp_path: Path
) -> None:
    """One store, fewer deaths: what delivery does is tried above."""
    database: MariaDbServer = request.getfixturevalue(server)
    sinks = {"duckdb": stores.load("duckdb")(request, tmp_path)}
    source = {"type": "mysql", "url": database.url.rpartition("/")[0]}
    file = write_config(tmp_path / "cdc.yaml", f"m{os.getpid()}{seed}", source, log_config, sinks)
    workload = mysql.MysqlWorkload(database, seed)
    workload.prepare()
    attack = Attack(file, database, workload, seed, list(sinks), ("duckdb",))
    try:
        attack.run(DEATHS // 3, BIG // 3)
        attack.catch_up(BIG // 3)
        log = attack.check_log()
        assert log.prepared("db") == {}
        check_stores(log, partial(mysql.database_rows, database), sinks)
    finally:
        attack.close()
        workload.close()
        with database.connect() as connection:
            mysql.drop(connection.cursor())
