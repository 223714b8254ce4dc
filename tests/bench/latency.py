"""How long after its commit a row can be read from the log, at a thousand one-row transactions a second."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Place

from cdc.log import TopicPartition
from tests.bench import workload
from tests.bench.measure import Measure
from tests.bench.stage import ROOT, Stage
from tests.servers.postgres import Database, drop_database

RATE = 1000
WARM_SECONDS = 2
BAR_MS, AIM_MS = 40.0, 20.0
PATIENCE_SECONDS = 30.0

Poll = Callable[[], list[bytes]]
"""The keys that can be read now; waits a little for the first."""
Reading = Callable[[Stage, Path], AbstractContextManager[Poll]]


def measures(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """Latency on each log."""
    found = []
    for log, reading in (("kafka", _kafka), ("embedded", _embedded)):
        if f"latency_{log}" not in wanted:
            continue
        times, rate = _run(stage, log, reading)
        figures = {f"p{part} ms": _percentile(times, part) for part in (50, 95, 99)}
        stage.say(f"latency, {log}: " + ", ".join(f"{name} {value:.1f}" for name, value in figures.items()))
        limits = (BAR_MS, AIM_MS) if log == "kafka" else (None, None)
        raw = {"transactions/s": rate, **figures, "max ms": max(times)}
        found.append(Measure(f"latency_{log}", figures["p99 ms"], "ms p99", limits[0], limits[1], True, raw))
    return found


def _run(stage: Stage, log: str, reading: Reading) -> tuple[list[float], float]:
    """Milliseconds of each row after the first two seconds, and the rate at which rows were written."""
    database = stage.database()
    file = stage.pipeline(database, log)
    stage.capture(file)
    seconds = stage.sizes.latency_seconds + WARM_SECONDS
    arrived: dict[int, int] = {}
    with reading(stage, file) as poll:
        worker = stage.start(file, "source/pg")
        _warm_up(database, poll)
        command = [sys.executable, "-m", "tests.bench.writer", database.dsn, str(RATE), str(seconds)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        written: dict[str, float] | None = None
        deadline = time.monotonic() + seconds + PATIENCE_SECONDS
        while written is None or len(arrived) < written["written"]:
            for key in poll():
                id_ = json.loads(key)["id"]
                assert id_ not in arrived, "a row came twice"
                arrived[id_] = time.monotonic_ns()
            if written is None and writer.poll() is not None:
                assert writer.stdout is not None
                written = json.loads(writer.stdout.read())
            assert time.monotonic() < deadline, f"{len(arrived)} rows of {written} came"
        worker.stop()
    assert arrived.keys() == workload.ids(database) - {1}, "what came is not what the table holds"
    rate = written["written"] / written["seconds"]
    assert rate >= 0.95 * RATE, f"this machine is too busy: {rate:.0f} of {RATE} transactions/s could be written"
    stage.remove(file)
    drop_database(database)
    first = min(arrived) + WARM_SECONDS * 10**9
    times = [(came - sent) / 1e6 for sent, came in arrived.items() if sent > first]
    return times, rate


def _warm_up(database: Database, poll: Poll) -> None:
    """Wait until a first row has come through."""
    workload.bulk(database, 1)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not poll():
        assert time.monotonic() < deadline, "no row comes through"


@contextmanager
def _kafka(stage: Stage, file: Path) -> Iterator[Poll]:
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

    def poll() -> list[bytes]:
        message = consumer.poll(0.1)
        if message is None:
            return []
        assert message.error() is None, message.error()
        key = message.key()
        assert key is not None
        return [key]

    with closing(log), closing(consumer):
        yield poll


@contextmanager
def _embedded(stage: Stage, file: Path) -> Iterator[Poll]:
    """The log's own reader."""
    log = stage.load(file).open_log()

    def at_start(new: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(new, 0)

    with closing(log), closing(log.reader(None, lambda _: True, at_start, lambda _: None)) as reader:
        yield lambda: [record.key for part in reader.poll(0.1) for record in part.records]


def _percentile(times: list[float], part: int) -> float:
    return sorted(times)[min(len(times) - 1, len(times) * part // 100)]
