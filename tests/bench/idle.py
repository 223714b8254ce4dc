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
    """What an hour costs: CPU seconds of the service and of the database server, each with all its processes, and kB
    of WAL.
    """

    service: float
    server: float
    wal: float

    def figures(self) -> dict[str, object]:
        """The database's part, raw."""
        return {"database CPU s/h": self.server, "WAL kB/h": self.wal}


def measures(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """A database at rest by itself, then with a pipeline of a hundred of its tables and a cache."""
    database = create_database(stage.postgres)
    database.execute(_TABLES)
    alone = _cost(stage, database)
    found = []
    for log in LOGS:
        if f"idle_{log}" not in wanted:
            continue
        cost = _run(stage, database, log)
        stage.say(f"idle, {log}: {cost.service:.0f} s of CPU and {cost.wal:.0f} kB of WAL an hour")
        figures = cost.figures(), alone.figures()
        found.append(Measure(f"idle_{log}", cost.service, "CPU s/h", MOST_CPU, AIMED_CPU, True, *figures))
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
    server, seconds = psutil.Process(stage.postgres.pid), stage.sizes.idle_seconds
    waiting = threading.Event()  # only waited for: nothing sets it
    waiting.wait(SETTLE_SECONDS)
    (before,) = database.execute("SELECT pg_current_wal_insert_lsn()")
    began = _cpu(service), _cpu(server)
    waiting.wait(seconds)
    ended = _cpu(service), _cpu(server)
    ((wal,),) = database.execute(f"SELECT pg_current_wal_insert_lsn() - '{before[0]}'::pg_lsn")
    hours = seconds / 3600
    return Cost((ended[0] - began[0]) / hours, (ended[1] - began[1]) / hours, float(wal) / 1000 / hours)


def _cpu(process: psutil.Process | None) -> float:
    """CPU seconds of a process and of its descendants; those that have ended are in their parents' account."""
    seconds = 0.0
    for one in [] if process is None else [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # it ended just now
            seconds += sum(one.cpu_times()[:4])
    return seconds
