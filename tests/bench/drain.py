"""How fast a backlog goes to the log, and at what cost, beside ``pg_recvlogical`` writing the same WAL to a file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench import check, reference, workload
from tests.bench.measure import Measure
from tests.bench.reference import Cost
from tests.bench.stage import Spent, Stage
from tests.servers.postgres import Database, drop_database

BARS = {"kafka": (0.8, 1.0), "embedded": (0.5, 0.8)}
MEMORY_MB = (150.0, 80.0)
CPU = (2.5, 1.6)
SLOT = "reference"


@dataclass
class Runs:
    """What was measured with one backlog."""

    changes: int = 0
    reference: list[Cost] = field(default_factory=list)
    ours: dict[str, list[Spent]] = field(default_factory=dict)

    def ratio(self, log: str) -> float:
        """Our rate by the reference's."""
        return median(cost.seconds for cost in self.reference) / median(run.seconds for run in self.ours[log])

    def cpu(self, log: str) -> float:
        """Our CPU seconds by the reference's."""
        return median(run.cpu for run in self.ours[log]) / median(cost.cpu for cost in self.reference)

    def peak(self, log: str) -> float:
        """The most memory of any run, MB."""
        return max(run.peak_mb for run in self.ours[log])

    def figures(self, log: str) -> dict[str, object]:
        """Ours, raw."""
        runs = self.ours[log]
        return {
            "changes": self.changes,
            "changes/s": [self.changes / run.seconds for run in runs],
            "CPU s per million": [run.cpu / self.changes * 1e6 for run in runs],
            "peak MB": [run.peak_mb for run in runs],
        }

    def reference_figures(self) -> dict[str, object]:
        """Those of ``pg_recvlogical``."""
        return {
            "changes/s": [self.changes / cost.seconds for cost in self.reference],
            "CPU s per million": [cost.cpu / self.changes * 1e6 for cost in self.reference],
        }


@dataclass
class Backlog:
    """WAL that waits: for the reference in its slot, for each of our pipelines in its own, all made at one place."""

    database: Database
    pipelines: dict[str, list[Path]]
    end: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


def backlog(
    stage: Stage, logs: Collection[str], repeats: int, write: Callable[[Database], Mapping[str, int]]
) -> Backlog:
    """Set everything up on the empty table, then `write` the changes."""
    database = stage.database()
    pipelines = {log: [stage.pipeline(database, log) for _ in range(repeats)] for log in logs}
    for file in (file for files in pipelines.values() for file in files):
        stage.capture(file)
    reference.make_slot(database, SLOT)
    made = Backlog(database, pipelines)
    made.counts = write(database)
    made.end = workload.end(database)
    return made


def drain(stage: Stage, what: str, made: Backlog, *, uncounted: int = 0) -> Runs:
    """Reference, ours, reference, ours; what is on the log is compared with the database each time.

    The first `uncounted` rounds are not: until then the broker's compiler was not done with a load like this, and the
    WAL not in memory.
    """
    runs = Runs(sum(made.counts.values()))
    for number in range(max(map(len, made.pipelines.values()))):
        if number == uncounted:
            runs = Runs(runs.changes)
        runs.reference.append(reference.drain(stage.postgres, made.database, SLOT, made.end, stage.folder))
        stage.say(f"{what}: pg_recvlogical {runs.changes / runs.reference[-1].seconds:,.0f} changes/s")
        for log, files in made.pipelines.items():
            spent = stage.capture(files[number])
            stage.say(f"{what}, {log}: {runs.changes / spent.seconds:,.0f} changes/s, {spent.peak_mb:.0f} MB")
            runs.ours.setdefault(log, []).append(spent)
            check.log_holds(stage.load(files[number]), made.database, made.counts)
            stage.remove(files[number])
    drop_database(made.database)
    return runs


def measures(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """The drain of a mixed backlog, its CPU and memory."""
    logs = [log for log in BARS if f"drain_{log}" in wanted or (log == "kafka" and "capture_cpu" in wanted)]
    made = backlog(stage, logs, stage.sizes.repeats + 1, lambda db: workload.mixed(db, stage.sizes.changes))
    runs = drain(stage, "mixed", made, uncounted=1)
    found = []
    for log in logs:
        bar, aim = BARS[log]
        raw = runs.figures(log), runs.reference_figures()
        found.append(Measure(f"drain_{log}", runs.ratio(log), "of pg_recvlogical", bar, aim, False, *raw))
        name, limit = ("capture_cpu", CPU) if log == "kafka" else ("capture_cpu_embedded", (None, None))
        found.append(Measure(name, runs.cpu(log), "x pg_recvlogical", limit[0], limit[1], True, *raw))
        found.append(Measure(f"capture_memory_{log}", runs.peak(log), "MB", *MEMORY_MB, True, raw[0]))
    return found


def bulk(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """One transaction of a million rows: memory; its rate is for the record."""
    logs = [log for log in BARS if f"bulk_{log}" in wanted]
    runs = drain(stage, "bulk", backlog(stage, logs, 1, lambda db: workload.bulk(db, stage.sizes.changes)))
    found = []
    for log in logs:
        raw = runs.figures(log), runs.reference_figures()
        found.append(Measure(f"bulk_{log}", runs.ratio(log), "of pg_recvlogical", None, None, False, *raw))
        found.append(Measure(f"capture_memory_bulk_{log}", runs.peak(log), "MB", *MEMORY_MB, True, raw[0]))
    return found


def one_by_one(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """Transactions of one row each, for the record."""
    logs = [log for log in BARS if f"one_by_one_{log}" in wanted]
    made = backlog(stage, logs, 1, lambda db: workload.one_by_one(db, stage.sizes.one_by_one))
    runs = drain(stage, "one by one", made)
    return [
        Measure(
            f"one_by_one_{log}", runs.ratio(log), "of pg_recvlogical", None, None, False, runs.figures(log),
            runs.reference_figures(),
        )
        for log in logs
    ]  # fmt: skip
