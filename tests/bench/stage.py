"""Servers, pipelines and worker processes for the measures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console

from cdc.config.load import load
from cdc.config.pipeline import Pipeline
from cdc.role import CAUGHT_UP
from tests.bench import interpreter, orders, workload
from tests.servers.kafka import Broker
from tests.servers.mariadb import BINLOG, MariaDbServer, mariadb_binary
from tests.servers.mysql import MySqlServer, mysql_root
from tests.servers.postgres import Database, Postgres, create_database, embedded_binaries, new_folder

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "max_wal_size": "16GB",
    "shared_buffers": "512MB",
    "checkpoint_timeout": "1h",
    "max_replication_slots": "60",
}
WORKER_SECONDS = 300.0
PARTITIONS = 6
SOURCE = "orders"
WARM_ROUNDS = 60
COMPILING_SHARE = 0.03
"""Of the broker's CPU time: so much of it the compiler may still take."""
FILLER = b"".join(b"%x" % (number * 0x9E3779B1) for number in range(64))
"""Half a kilobyte that compresses as badly as rows do."""


class Spent(NamedTuple):
    """What a worker process cost from the moment it took the slot (the store) until it had caught up.

    `ended` is that moment (monotonic clock), `peak_mb` the most memory it ever had, `cpu_with_start` includes the
    interpreter's start and imports.
    """

    seconds: float
    ended: float
    cpu: float
    cpu_with_start: float
    peak_mb: float


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the defaults are what the bars are for."""

    changes: int = 1_000_000
    one_by_one: int = 100_000
    apply: int = 200_000
    latency_seconds: int = 20
    idle_seconds: int = 30
    repeats: int = 2

    @classmethod
    def from_environment(cls) -> Sizes:
        """Each from the variable of its name: ``BENCH_CHANGES``, ``BENCH_ONE_BY_ONE`` and so on."""
        names = cls.__dataclass_fields__
        given = {name: os.environ.get(f"BENCH_{name.upper()}") for name in names}
        return cls(**{name: int(value) for name, value in given.items() if value})


class Worker:
    """A running worker process."""

    def __init__(self, file: Path, role: str, report: Path, environment: Mapping[str, str]) -> None:
        self._report = report
        self._output = report.with_suffix(".err")
        command = [interpreter.interpreter(), "-m", "tests.bench.worker", str(report), str(file), role]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**os.environ, **environment},
            )

    def until_caught_up(self, seconds: float = WORKER_SECONDS) -> Spent:
        """Tell it to end when it has caught up, and wait for that."""
        assert self._process.stdin is not None
        self._process.stdin.write(CAUGHT_UP)
        self._process.stdin.flush()
        return self._wait(seconds)

    def stop(self) -> Spent:
        """Ask it to drain and end."""
        self._process.terminate()
        return self._wait(30)

    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def errors(self) -> str:
        """What it said on stderr."""
        return self._output.read_text(errors="replace")

    def kill(self) -> None:
        """End it whatever it does. Safe to call twice."""
        self._process.kill()
        self._process.wait()

    def _wait(self, seconds: float) -> Spent:
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)
            self._process.wait()
            raise AssertionError(f"a worker did not end within {seconds} s:\n{self.errors()[-3000:]}") from None
        if code:
            raise AssertionError(f"a worker ended with code {code}:\n{self.errors()[-3000:]}")
        return Spent(**json.loads(self._report.read_text()))


def _warm_up(broker: Broker) -> None:
    """Write and read records in transactions, as any client would, until the broker no longer compiles itself.

    One that has just started spends a core on that, for a minute and more.
    """
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    topic = NewTopic("warm", PARTITIONS, 1, config={"cleanup.policy": "compact"})
    admin.create_topics([topic])["warm"].result(30)
    # Queues as large as ours, for the same requests.
    producer = Producer(
        {
            "bootstrap.servers": broker.bootstrap,
            "transactional.id": "warm",
            "compression.type": "lz4",
            "batch.size": 1 << 18,
            "queue.buffering.max.messages": 200_000,
        }
    )
    settings = {"bootstrap.servers": broker.bootstrap, "group.id": "warm", "isolation.level": "read_committed"}
    consumer = Consumer(settings)
    consumer.assign([TopicPartition("warm", number, 0) for number in range(PARTITIONS)])
    producer.list_topics("warm", 10)
    producer.init_transactions(30)
    process = psutil.Process(broker.pid)
    shares: list[float] = []
    while len(shares) < WARM_ROUNDS and not _settled(shares):
        compiling, spent = _compiling(process), sum(process.cpu_times()[:2])
        for commits, records in ((5, 20_000), (300, 20)):
            for _ in range(commits):
                producer.begin_transaction()
                for number in range(records):
                    value = b'{"id":%d,"filler":"%b"}' % (number, FILLER)
                    producer.produce("warm", value, b"%d" % number, headers=[("warm", bytes(32))])
                producer.commit_transaction(30)
                consumer.consume(records, 0.001)
        shares.append((_compiling(process) - compiling) / (sum(process.cpu_times()[:2]) - spent))
    consumer.close()


def _compiling(broker: psutil.Process) -> float:
    """CPU seconds that the compiler's threads have taken so far."""
    names = {one.id: Path(f"/proc/{broker.pid}/task/{one.id}/comm") for one in broker.threads()}
    return sum(
        one.user_time + one.system_time
        for one in broker.threads()
        if one.id in names and "Compiler" in names[one.id].read_text()
    )


def _settled(shares: list[float]) -> bool:
    """Whether compiling took next to nothing of what the last three rounds cost."""
    return len(shares) >= 3 and max(shares[-3:]) < COMPILING_SHARE


class Stage:
    """What the measures share. Servers start when a measure first needs them."""

    def __init__(self, sizes: Sizes, console: Console) -> None:
        self.sizes = sizes
        self._console = console
        self.folder = Path(tempfile.mkdtemp(prefix="cdc-bench-"))
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._number = 0
        self._binlog_servers: dict[str, MariaDbServer] = {}

    def say(self, text: str) -> None:
        """Tell the person who waits."""
        self._console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {text}")

    @cached_property
    def postgres(self) -> Postgres:
        """PostgreSQL 18."""
        folder = new_folder()
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = Postgres(embedded_binaries(folder), folder, SETTINGS)
        self._stack.callback(server.immediate)
        return server.start()

    def binlog_server(self, kind: str) -> MariaDbServer:
        """A ``mysql`` or ``mariadb`` server that writes a binlog."""
        if kind not in self._binlog_servers:
            options = [*BINLOG, "--sync-binlog=0", "--max-binlog-size=1073741824", "--innodb-buffer-pool-size=512M"]
            folder = self.folder / kind
            folder.mkdir()
            if kind == "mysql":
                options += ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"]
                server: MariaDbServer = MySqlServer(mysql_root(), folder, options=options)
            else:
                server = MariaDbServer(mariadb_binary(), folder, options=[*options, "--binlog-checksum=CRC32"])
            self._stack.callback(server.kill)
            self._binlog_servers[kind] = server.start()
        return self._binlog_servers[kind]

    def binlog_pipeline(self, server: MariaDbServer, log: str) -> Path:
        """As :meth:`pipeline`, with the bench's table of a MySQL or MariaDB server."""
        source = {"type": "mysql", "url": server.url.rpartition("/")[0], "tables": [orders.TABLE]}
        return self._pipeline(source, log, {})

    @cached_property
    def broker(self) -> Broker:
        """A Kafka broker that has worked for a while: its compiler's work is not what is measured."""
        broker = self._stack.enter_context(Broker(self.folder / "kafka", long_lived=True))
        self.say("warming up the broker")
        _warm_up(broker)
        return broker

    def database(self) -> Database:
        """A database with the bench's table in it."""
        database = create_database(self.postgres)
        workload.create(database)
        return database

    def pipeline(
        self,
        database: Database,
        log: str,
        *,
        source: Mapping[str, Any] | None = None,
        topics: Mapping[str, Any] | None = None,
    ) -> Path:
        """The file of a new pipeline; `log` is ``kafka`` or ``embedded``. Everything is at its default but the bench's
        table, and what `source` says of the source and `topics` of ``log.topics``.
        """
        described = {"type": "postgres", "url": database.dsn, "tables": [workload.TABLE], **(source or {})}
        return self._pipeline(described, log, topics or {})

    def _pipeline(self, source: Mapping[str, Any], log: str, topics: Mapping[str, Any]) -> Path:
        self._number += 1
        name = f"bench{self._number}"
        where = {"type": "embedded", "path": str(self.folder / "log")}
        if log == "kafka":
            where = {"type": "kafka", "bootstrap": self.broker.bootstrap}
        document = {
            "version": 1,
            "pipeline": name,
            "log": {**where, "topics": topics},
            "sources": {SOURCE: source},
            "sinks": {},
        }
        file = self.folder / f"{name}.yaml"
        file.write_text(json.dumps(document))
        return file

    def set_sink(self, file: Path, name: str, sink: Mapping[str, Any]) -> None:
        """Make `sink` the one sink of the pipeline in `file`."""
        document = json.loads(file.read_text())
        file.write_text(json.dumps({**document, "sinks": {name: sink}}))

    def start(self, file: Path, role: str, environment: Mapping[str, str] | None = None) -> Worker:
        """Start a worker of the pipeline in `file`."""
        self._number += 1
        report = self.folder / f"{file.stem}-{self._number}.json"
        worker = Worker(file, role, report, environment or {})
        self._stack.callback(worker.kill)
        return worker

    def capture(self, file: Path, **environment: str) -> Spent:
        """Capture until everything is on the log."""
        return self.start(file, f"source/{SOURCE}", environment).until_caught_up()

    def load(self, file: Path) -> Pipeline:
        """The pipeline that `file` describes."""
        return load(file)

    def remove(self, file: Path) -> None:
        """Drop what the pipeline in `file` left: its slot and its log."""
        pipeline = load(file)
        log = pipeline.open_log()
        for name in pipeline.sources:
            pipeline.connector(name).cleanup()
        log.delete()
        log.close()

    def also_close(self, close: Callable[[], None]) -> None:
        """Call `close` in the end."""
        self._stack.callback(close)

    def close(self) -> None:
        """Stop everything and remove every file."""
        self._stack.close()
