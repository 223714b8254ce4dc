"""A transaction of a million rows is captured in bounded memory, in whatever form it comes."""

from __future__ import annotations

import os
import uuid
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.mysql.support import Source
from tests.servers import wait_until
from tests.servers.mariadb import MariaDbServer

pytestmark = pytest.mark.xdist_group("mysql")

ROWS = int(os.environ.get("CDC_TORTURE_BIG", "100000"))
MOST = 150.0
"""MiB of the process that captures."""
FORMS = [
    ("mysql_source", "compressed"),
    ("mariadb_source", "prepared"),
    ("mysql_source", "plain"),
    ("mysql_source", "prepared"),
    ("mariadb_source", "plain"),
    ("mariadb_source", "compressed"),
]
if "CDC_TORTURE_BIG" not in os.environ:
    FORMS = FORMS[:1]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("server", "form"), FORMS)
def test_a_huge_transaction_takes_little_memory(
    request: pytest.FixtureRequest, server: str, form: str, tmp_path: Path
) -> None:
    database: MariaDbServer = request.getfixturevalue(server)
    schema = f"s{uuid.uuid4().hex[:8]}"
    table = f"{schema}.item"
    item = f"{table} (id bigint PRIMARY KEY, name varchar(40), price decimal(12,2), at datetime(6))"
    database.execute(f"CREATE DATABASE {schema}", f"CREATE TABLE {item}")
    shop = Source(database.url.rpartition("/")[0], tmp_path, {"tables": [table]})
    try:
        shop.capture()
        write(database, table, form)
        process = shop.process(until_caught_up=False)
        try:
            there = shop.catch_up_condition()
            wait_until(lambda: there() or not process.alive(), seconds=60 + ROWS / 2000, what="the transaction")
            assert process.alive(), process.output()
            peak = process.peak()
        finally:
            process.end()
        assert shop.position.sequence == ROWS + 1
        assert shop.log.prepared("shop") == {}
        assert peak < MOST, f"{peak:.0f} MiB"
    finally:
        database.execute(f"DROP DATABASE {schema}")


def write(server: MariaDbServer, table: str, form: str) -> None:
    """`ROWS` rows in one transaction."""
    begin, end = ["BEGIN"], ["COMMIT"]
    if form == "prepared":
        begin, end = ["XA START 'huge'"], ["XA END 'huge'", "XA PREPARE 'huge'", "XA COMMIT 'huge'"]
    switch = "SESSION binlog_transaction_compression" if server.name == "MySQL" else "GLOBAL log_bin_compress"
    rows = [f"INSERT INTO {table} VALUES (0, 'somebody or other', 12.5, now(6))"]
    have = 1
    while have < ROWS:
        more = min(have, ROWS - have)
        rows.append(f"INSERT INTO {table} SELECT id + {have}, name, price + id, at FROM {table} WHERE id < {more}")
        have += more
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        try:
            for statement in [f"SET {switch} = {int(form == 'compressed')}", *begin, *rows, *end]:
                cursor.execute(statement)
        finally:
            cursor.execute(f"SET {switch} = 0")
