"""What a pipeline costs that has nothing to do: its own CPU, the database's, and WAL that it has the database write."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench import interpreter
from tests.bench.measure import Measure
from tests.bench.stage import ROOT, Stage
from tests.bench.stores import Redis
from tests.servers import wait_until
from tests.servers.postgres import Database, create_database, drop_database

LOGS = ("kafka", "embedded")
TABLES = 100
SETTLE_SECONDS = 20.0
"""Twice the longest of the service's own periods: what a start leaves to do is done by then."""
PATIENCE_SECONDS = 120.0
MOST_CPU, AIMED_CPU = 72.0, 36.0
"""Seconds an hour: 2 % and 1 % of a core."""

_TABLES = f"""
DO $$ BEGIN
  FOR n IN 1 .. {TABLES} LOOP
    EXECUTE format('CREATE TABLE idle%s (id int PRIMARY KEY, note text)', n);
    EXECUTE format('INSERT INTO idle%s VALUES (1, ''first'')', n);
  END LOOP;
END $$
"""


@dataclass(frozen=True)
class Cost:
    """What an hour costs: CPU seconds of each of our processes, of all of the database server's, and kB of WAL."""

    service: list[float]
    server: float
    wal: float

    def figures(self) -> dict[str, object]:
        """Raw."""
        ours = {"CPU s/h of run, source, sink": self.service} if self.service else {}
        return {**ours, "database CPU s/h": self.server, "WAL kB/h": self.wal}


def measures(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """A database at rest by itself, then with a pipeline of a hundred of its tables and a cache."""
    database = create_database(stage.postgres)
    database.execute(_TABLES)
    database.execute("VACUUM ANALYZE")
    alone = _cost(stage, database)
    found = []
    for log in LOGS:
        if f"idle_{log}" not in wanted:
            continue
        cost = _run(stage, database, log)
        cpu, figures = sum(cost.service), (cost.figures(), alone.figures())
        stage.say(f"idle, {log}: {cpu:.0f} s of CPU and {cost.wal:.0f} kB of WAL an hour")
        found.append(Measure(f"idle_{log}", cpu, "CPU s/h", MOST_CPU, AIMED_CPU, True, *figures))
        found.append(Measure(f"idle_wal_{log}", cost.wal - alone.wal, "kB/h", None, None, True, *figures))
    drop_database(database)
    return found


def _run(stage: Stage, database: Database, log: str) -> Cost:
    file = stage.pipeline(database, log, source={"tables": ["public.*"]})
    store = Redis(stage)
    place = f"idle-{log}"
    stage.set_sink(file, "cache", store.sink(place))

    def rows(note: str) -> int:
        with store.server(place).client() as client:
            values = client.mget([f"idle{number}:1" for number in range(1, TABLES + 1)])
        return [value and json.loads(value) for value in values].count({"id": 1, "note": note})

    with _running(stage, file) as service:
        wait_until(lambda: rows("first") == TABLES, seconds=PATIENCE_SECONDS, what=f"a row of each of {TABLES} tables")
        cost = _cost(stage, database, service)
        database.execute("UPDATE idle1 SET note = 'changed'")
        wait_until(lambda: rows("changed") == 1, what="a change after all this time")
    database.execute("UPDATE idle1 SET note = 'first'")
    stage.remove(file)
    store.server(place).stop()
    return cost


@contextmanager
def _running(stage: Stage, file: Path) -> Iterator[psutil.Process]:
    """``cdc run``, as users start it."""
    command = [interpreter.interpreter(), "-m", "cdc", "-c", str(file), "run"]
    with file.with_suffix(".out").open("wb") as output:
        service = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
    try:
        yield psutil.Process(service.pid)
        service.terminate()
        code = service.wait(60)
        assert code == 0, f"cdc run ended with code {code}:\n{file.with_suffix('.out').read_text()[-3000:]}"
    finally:
        service.kill()
        service.wait()


def _cost(stage: Stage, database: Database, service: psutil.Process | None = None) -> Cost:
    server, ours = psutil.Process(stage.postgres.pid), _family(service) if service else []
    waiting = threading.Event()  # only waited for: nothing sets it
    waiting.wait(SETTLE_SECONDS)
    seconds = stage.sizes.idle_seconds
    wal, cpu, of_server = _wal(database), [_cpu(one) for one in ours], _cpu_of_all(server)
    waiting.wait(seconds)
    spent = [_cpu(one) - before for one, before in zip(ours, cpu, strict=True)]
    hours = seconds / 3600
    return Cost(
        [one / hours for one in spent],
        (_cpu_of_all(server) - of_server) / hours,
        (_wal(database) - wal) / 1000 / hours,
    )


def _wal(database: Database) -> int:
    """Bytes of WAL that were ever written."""
    ((position,),) = database.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
    return int(position)


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _cpu(process: psutil.Process) -> float:
    """CPU seconds of a process, and of its children that have ended."""
    return float(sum(process.cpu_times()[:4]))


def _cpu_of_all(process: psutil.Process) -> float:
    """The same for a process and all its descendants."""
    seconds = 0.0
    for one in _family(process):
        with suppress(psutil.NoSuchProcess):  # it ended just now
            seconds += _cpu(one)
    return seconds
