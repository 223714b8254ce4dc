"""One pipeline under attack: a database that is written to, a log, stores, and workers that die again and again."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdc.config.load import load
from cdc.log import Log
from tests.faults.logbook import check_versions, read_all, transactions
from tests.faults.workers import Worker
from tests.faults.workload import Workload
from tests.servers.mariadb import MariaDbServer
from tests.servers.postgres import Database

SOURCE_FAULTS = (
    "snapshot.in_chunk",
    "capture.after_decode",
    "capture.in_append",
    "capture.before_acknowledge",
)
SINK_FAULTS = (
    "delivery.before_write",
    "delivery.after_write",
    "sink.between_rows_and_offsets",
    "delivery.after_commit",
)

PAUSE_SECONDS = 0.01
"""Between transactions: the workers are to be busy, not the machine."""
ROWS_PER_SECOND = 2000
"""What the slowest store takes at least while all of them share the machine."""


@dataclass
class Attack:
    """Runs the workload while workers are killed, then lets everything catch up and holds it against the database."""

    file: Path
    database: Database | MariaDbServer
    workload: Workload
    seed: int
    sinks: Sequence[str]
    owning_sinks: Sequence[str] = ()
    """Those that keep their offsets themselves: only they pass the fault point in between."""
    workers: dict[str, Worker] = field(default_factory=dict)

    def run(self, deaths: int, big: int) -> None:
        """Go on until `deaths` workers were killed at fault points, each point at least once; then heal and catch up.

        `big` is the number of rows of the one big transaction on the way.
        """
        chance = random.Random(self.seed)
        plan = self._plan(chance, deaths)
        for role in ("source/db", *(f"sink/{name}" for name in self.sinks)):
            self.workers[role] = Worker(self.file, role)
            self.workers[role].start(self._next(plan, role))
        steps = 0
        deadline = time.monotonic() + 240 + big / ROWS_PER_SECOND
        while any(plan.values()) or any(worker.armed for worker in self.workers.values()):
            self.workload.step()
            time.sleep(PAUSE_SECONDS)
            steps += 1
            if steps == 60:
                self.workload.big(big)
            for role, worker in self.workers.items():
                if not worker.running():
                    assert worker.killed(), worker.output()[-3000:]
                    worker.start(self._next(plan, role))
            assert time.monotonic() < deadline, f"points that were not reached: {self._waiting(plan)}"
        assert steps > 60, "the workload was too short to mean anything"

    def catch_up(self, big: int) -> None:
        """The source first, then the sinks."""
        for worker in self.workers.values():
            if not worker.running():
                worker.start()
            worker.catch_up(60 + big / ROWS_PER_SECOND)

    def check_log(self) -> Log:
        """Each change is on the log exactly once, the sequence has no gap, versions rise; the ledger is complete."""
        log = load(self.file).open_log()
        partitions = read_all(log)
        check_versions(partitions)
        found: dict[object, int] = {}
        for id_, transaction in transactions(partitions).items():
            assert transaction.ledger is not None, id_
            found[transaction.ledger["number"]] = transaction.rows
        for number, changes, what in self.database.execute("SELECT number, changes, what FROM bank.ledger"):
            # One that was committed before the capture began is not there: the snapshot has its rows.
            assert found.get(number, changes) == changes, (number, what)
        return log

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.close()

    def _plan(self, chance: random.Random, deaths: int) -> dict[str, list[str]]:
        """Fault points per role, each with the time of reaching it that kills."""
        plan = {"source/db": [f"{point}:kill:{chance.randrange(1, 4)}" for point in SOURCE_FAULTS]}
        for name in self.sinks:
            points = [p for p in SINK_FAULTS if name in self.owning_sinks or not p.startswith("sink.")]
            plan[f"sink/{name}"] = [f"{point}:kill:{chance.randrange(1, 4)}" for point in points]
        while sum(map(len, plan.values())) < deaths:
            role = chance.choice(list(plan))
            point = chance.choice(plan[role]).split(":")[0]
            if point != "snapshot.in_chunk":  # the snapshot may be over
                plan[role].append(f"{point}:kill:{chance.randrange(1, 8)}")
        for role in plan:
            if role != "source/db":
                chance.shuffle(plan[role])
        return plan

    def _waiting(self, plan: dict[str, list[str]]) -> dict[str, list[str]]:
        return {role: points for role, points in plan.items() if points or self.workers[role].armed}

    def _next(self, plan: dict[str, list[str]], role: str) -> str:
        return plan[role].pop(0) if plan[role] else ""
