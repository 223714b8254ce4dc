"""Several workers of one sink: they join, leave, hang and die under load, and the store does not notice."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from ruamel.yaml import YAML

from cdc.config.load import load
from schemas.table import TableSchema
from tests.faults.workers import Worker
from tests.integration.delivered import Source, table
from tests.servers import wait_until
from tests.servers.redis import RedisServer

SECONDS = float(os.environ.get("CDC_TORTURE_SECONDS", "6"))
WORKERS = 3
KEYS = 500
BATCH = 50
PAUSE_SECONDS = 0.02
"""Between two batches: a writer that runs away leaves the workers a backlog that the test would have to wait for."""
LANDINGS = 500
"""So many rows later the next worker has its turn."""
LANDED = re.compile(rb' lua\] "SET" "[^ ]+:v:[^ ]+:\d+:\{\\"id\\":(\d+)\}" "(\d{20})r')
"""What the server tells of a script that sets a row's version: the row's id, and the version."""


@pytest.fixture(
    params=[
        pytest.param("embedded", marks=pytest.mark.xdist_group("torture")),
        pytest.param("kafka", marks=pytest.mark.xdist_group("kafka")),
    ]
)
def log_config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """``log:`` of the pipeline."""
    topics = {"partitions": 4}
    if request.param == "embedded":
        return {"type": "embedded", "path": str(tmp_path / "log"), "topics": topics}
    options = {"session.timeout.ms": 6000}
    return {"type": "kafka", "bootstrap": request.getfixturevalue("kafka"), "topics": topics, "options": options}


class Landings(threading.Thread):
    """Listens to what the server executes: which versions of which rows were written."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__(daemon=True)
        self.rows: list[tuple[int, int]] = []
        self.over = threading.Event()
        self._connection = socket.create_connection(("127.0.0.1", server.port))
        self._connection.sendall(b"MONITOR\r\n")

    def came(self, count: int) -> bool:
        """Whether so many rows were written by now."""
        return len(self.rows) >= count

    def run(self) -> None:
        with self._connection, self._connection.makefile("rb") as lines:
            for line in lines:
                if b'"PING" "over"' in line:
                    self.over.set()
                    return
                if found := LANDED.search(line):
                    self.rows.append((int(found[1]), int(found[2])))


@contextmanager
def writing(source: Source, schema: TableSchema, random: Random) -> Iterator[None]:
    """Change rows all the time."""
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(PAUSE_SECONDS):
            for _ in range(BATCH):
                number = random.randrange(KEYS)
                if random.random() < 0.1:
                    source.delete(number, schema)
                else:
                    source.put(number, f"v{source.version}", schema)
            source.commit()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_workers_come_and_go(log_config: dict[str, Any], valkey_server: RedisServer, tmp_path: Path) -> None:
    pipeline = f"w{uuid.uuid4().hex[:10]}"
    file = tmp_path / "cdc.yaml"
    document = {
        "version": 1,
        "pipeline": pipeline,
        "log": log_config,
        "sources": {"shop": {"type": "postgres", "url": "postgresql://nobody@127.0.0.1:1/none", "tables": ["*"]}},
        "sinks": {
            "cache": {
                "type": "redis",
                "url": valkey_server.url,
                "key": f"{pipeline}:{{pk}}",
                "prefix": f"_{pipeline}:",
                "workers": WORKERS,
                "batch": {"rows": 100},
            }
        },
    }
    with file.open("w") as out:
        YAML(typ="safe", pure=True).dump(document, out)
    random = Random(int(os.environ.get("CDC_TORTURE_SEEDS", "1").partition(",")[0]))
    orders = table("orders", pipeline=pipeline)
    roles = load(file).workers("sink/cache")
    workers = [Worker(file, role, name=str(number)) for number, role in enumerate(roles)]
    client = valkey_server.client()
    landings = Landings(valkey_server)
    landings.start()
    with closing(load(file).open_log()) as log, Source(log) as source:
        source.put(0, "first", orders)
        source.commit()
        deaths = Counter[str]()
        try:
            with writing(source, orders, random):
                workers[0].start()
                wait_until(lambda: client.exists(f"{pipeline}:0"), what="the first row in the cache")
                end = time.monotonic() + SECONDS
                while time.monotonic() < end or not deaths["kill"]:
                    worker = random.choice(workers)
                    frozen = [each for each in workers if each.running() and each.frozen()]
                    done = len(landings.rows)
                    if not worker.running():
                        worker.start()
                        deaths["started"] += 1
                    elif worker not in frozen:
                        how = random.choice([worker.kill, worker.stop, worker.freeze])
                        how()
                        deaths[how.__name__] += 1
                    for each in frozen:  # one turn long
                        each.thaw()
                    # The others go on meanwhile, unless what there is to do belongs to one that stands still.
                    if any(each.running() for each in workers) and not any(
                        each.running() and each.frozen() for each in workers
                    ):
                        wait_until(partial(landings.came, done + LANDINGS), what="rows that land meanwhile")
            for worker in workers:
                if worker.running() and worker.frozen():
                    worker.thaw()
            for worker in workers:
                if not worker.running():
                    worker.start()
            for worker in workers:
                worker.catch_up()
        finally:
            for worker in workers:
                worker.close()
        held = {int(key.rpartition(b":")[2]): client.get(key) for key in client.keys(f"{pipeline}:*")}
        expected = {int(key[6:-1]): after for key, after in source.rows[orders.topic].items()}
    client.execute_command("PING", "over")
    assert landings.over.wait(30)
    assert held == expected
    twice = [each for each, count in Counter(landings.rows).items() if count > 1]
    assert not twice, f"{len(twice)} versions landed twice, such as {twice[0]}"
