"""How long after its commit a row can be read from the log, or is in the cache behind it, at a thousand one-row
transactions a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Place

from cdc.log import TopicPartition
from tests.bench import check, orders, workload
from tests.bench.measure import Measure
from tests.bench.stage import ROOT, Stage
from tests.bench.stores import Redis
from tests.servers.postgres import Database, drop_database

RATE = 1000
WARM_SECONDS = 2
PATIENCE_SECONDS = 30.0

Poll = Callable[[], list[int]]
"""The ids of the rows that have come; waits a little for the first."""
Watching = Callable[[Stage, Any, Path], AbstractContextManager[Poll]]
"""Gives the pipeline what it needs besides its source, and watches where rows arrive."""


class Origin(NamedTuple):
    """Where rows are written: by whom, how the pipeline that captures them is made, and which there are."""

    dsn: str
    database: Any
    pipeline: Callable[[str], Path]
    first_row: Callable[[], object]
    ids: Callable[[], set[int]]
    remove: Callable[[], object]


def _postgres(stage: Stage) -> Origin:
    database = stage.database()
    return Origin(
        database.dsn,
        database,
        lambda log: stage.pipeline(database, log),
        lambda: workload.bulk(database, 1),
        lambda: workload.ids(database),
        lambda: drop_database(database),
    )


def _binlog(kind: str) -> Callable[[Stage], Origin]:
    def origin(stage: Stage) -> Origin:
        server = stage.binlog_server(kind)
        orders.create(server)
        return Origin(
            server.url,
            server,
            lambda log: stage.binlog_pipeline(server, log),
            lambda: orders.bulk(server, 1),
            lambda: orders.ids(server),
            lambda: None,
        )

    return origin


class Way(NamedTuple):
    """From the database to where, through which log, and how late that may be, ms at the 99th percentile."""

    log: str
    watching: Watching
    bar: float | None
    aim: float | None
    origin: Callable[[Stage], Origin] = _postgres


def measures(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """Latency at the end of each way."""
    found = []
    for name, way in WAYS.items():
        if name not in wanted:
            continue
        times, rate = _run(stage, way)
        figures = {f"p{part} ms": _percentile(times, part) for part in (50, 95, 99)}
        stage.say(f"{name}: " + ", ".join(f"{part} {value:.1f}" for part, value in figures.items()))
        raw = {"transactions/s": rate, **figures, "max ms": max(times)}
        found.append(Measure(name, figures["p99 ms"], "ms p99", way.bar, way.aim, True, raw))
    return found


def _run(stage: Stage, way: Way) -> tuple[list[float], float]:
    """Milliseconds of each row after the first two seconds, and the rate at which rows were written."""
    origin = way.origin(stage)
    file = origin.pipeline(way.log)
    stage.capture(file)
    seconds = stage.sizes.latency_seconds + WARM_SECONDS
    arrived: dict[int, int] = {}
    with way.watching(stage, origin.database, file) as poll:
        workers = [stage.start(file, role) for role in stage.load(file).roles]
        _warm_up(origin, poll)
        command = [sys.executable, "-m", "tests.bench.writer", origin.dsn, str(RATE), str(seconds)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        written: dict[str, float] | None = None
        deadline = time.monotonic() + seconds + PATIENCE_SECONDS
        while written is None or len(arrived) < written["written"]:
            for id_ in poll():
                assert id_ not in arrived, "a row came twice"
                arrived[id_] = time.monotonic_ns()
            if written is None and writer.poll() is not None:
                assert writer.stdout is not None
                written = json.loads(writer.stdout.read())
            assert time.monotonic() < deadline, f"{len(arrived)} rows of {written} came"
        for worker in workers:
            worker.stop()
    assert arrived.keys() == origin.ids() - {1}, "what came is not what the table holds"
    rate = written["written"] / written["seconds"]
    assert rate >= 0.95 * RATE, f"this machine is too busy: {rate:.0f} of {RATE} transactions/s could be written"
    stage.remove(file)
    origin.remove()
    first = min(arrived) + WARM_SECONDS * 10**9
    times = [(came - sent) / 1e6 for sent, came in arrived.items() if sent > first]
    return times, rate


def _warm_up(origin: Origin, poll: Poll) -> None:
    """Wait until a first row has come through."""
    origin.first_row()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not poll():
        assert time.monotonic() < deadline, "no row comes through"


@contextmanager
def _kafka(stage: Stage, _: Any, file: Path) -> Iterator[Poll]:
    """A plain consumer of committed records, librdkafka's defaults."""
    log = stage.load(file).open_log()
    settings = {
        "bootstrap.servers": stage.broker.bootstrap,
        "group.id": "latency",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
    }
    consumer = Consumer(settings)
    topics = list(log.topics().values())
    consumer.assign([Place(topic.name, number, 0) for topic in topics for number in range(topic.partitions)])

    def poll() -> list[int]:
        message = consumer.poll(0.1)
        if message is None:
            return []
        assert message.error() is None, message.error()
        key = message.key()
        assert key is not None
        return [json.loads(key)["id"]]

    with closing(log), closing(consumer):
        yield poll


@contextmanager
def _embedded(stage: Stage, _: Any, file: Path) -> Iterator[Poll]:
    """The log's own reader."""
    log = stage.load(file).open_log()

    def at_start(new: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(new, 0)

    with closing(log), closing(log.reader(None, lambda _: True, at_start, lambda _: None)) as reader:
        yield lambda: [json.loads(record.key)["id"] for part in reader.poll(0.1) for record in part.records]


@contextmanager
def _cache(stage: Stage, database: Database, file: Path) -> Iterator[Poll]:
    """A sink into Valkey, which tells by a keyspace notification of each row that was set.

    So each row is seen in the moment when a GET would find it, without a question asked: a message of some 60 bytes
    for each is all that the server has to do besides its work.
    """
    store = Redis(stage)
    stage.set_sink(file, "cache", store.sink("cache"))
    with store.server("cache").client() as client, client.pubsub(ignore_subscribe_messages=True) as seen:
        client.config_set("notify-keyspace-events", "K$")
        seen.psubscribe("__keyspace@0__:orders:*")

        def poll() -> list[int]:
            message = seen.get_message(timeout=0.1)
            return [] if message is None else [int(message["channel"].rpartition(b":")[2])]

        yield poll
    check.store_holds(database, store.rows("cache", ours=True), "the cache")


WAYS = {
    "latency_kafka": Way("kafka", _kafka, 40.0, 20.0),
    "latency_embedded": Way("embedded", _embedded, None, None),
    "mariadb_latency_kafka": Way("kafka", _kafka, 40.0, 20.0, _binlog("mariadb")),
    "mysql_latency_kafka": Way("kafka", _kafka, 40.0, 20.0, _binlog("mysql")),
    "latency_cache": Way("kafka", _cache, 60.0, 20.0),
}


def _percentile(times: list[float], part: int) -> float:
    return sorted(times)[min(len(times) - 1, len(times) * part // 100)]
