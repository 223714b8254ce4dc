"""How fast a table that is there already goes to the log, against psql's ``COPY … TO STDOUT``."""

from __future__ import annotations

from collections.abc import Collection
from statistics import median

from tests.bench import check, reference, workload
from tests.bench.measure import Measure
from tests.bench.stage import Stage
from tests.servers.postgres import drop_database

LOGS = ("kafka", "embedded")
BAR, AIM = 0.1, 0.2
READERS = (2, 4)


def measures(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """Read the table through psql, then by a new pipeline, again and again."""
    database = stage.database()
    rows = sum(workload.bulk(database, stage.sizes.changes).values())
    database.execute("VACUUM ANALYZE orders")
    logs = [log for log in LOGS if f"snapshot_{log}" in wanted]
    copies: list[reference.Cost] = []
    runs: dict[str, list[float]] = {log: [] for log in logs}
    peaks: dict[str, list[float]] = {log: [] for log in logs}
    cpu: dict[str, list[float]] = {log: [] for log in logs}
    for _ in range(stage.sizes.repeats):
        copies.append(reference.copy_out(stage.postgres, database))
        for log in logs:
            file = stage.pipeline(database, log)
            spent = stage.capture(file)
            stage.say(f"snapshot, {log}: {rows / spent.seconds:,.0f} rows/s (psql {rows / copies[-1].seconds:,.0f})")
            check.log_holds(stage.load(file), database, {"r": rows})
            stage.remove(file)
            runs[log].append(spent.seconds)
            peaks[log].append(spent.peak_mb)
            cpu[log].append(spent.cpu / rows * 1e6)
    drop_database(database)
    best = median(cost.seconds for cost in copies)
    figures = {"rows/s": [rows / cost.seconds for cost in copies]}
    return [
        Measure(
            f"snapshot_{log}", best / median(runs[log]), "of psql COPY", BAR, AIM, False,
            {"rows/s": [rows / seconds for seconds in runs[log]], "CPU s per million": cpu[log], "peak MB": peaks[log]},
            figures,
        )
        for log in logs
    ]  # fmt: skip


def readers(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """The same table read by one reader, by two and by four, into Kafka; for the record."""
    database = stage.database()
    rows = sum(workload.bulk(database, stage.sizes.changes).values())
    database.execute("VACUUM ANALYZE orders")
    counts = [1, *(count for count in READERS if f"snapshot_readers_{count}" in wanted)]
    runs: dict[int, list[float]] = {count: [] for count in counts}
    peaks: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(stage.sizes.repeats):
        for count in counts:
            file = stage.pipeline(database, "kafka", source={"snapshot": {"readers": count}})
            spent = stage.capture(file)
            stage.say(f"snapshot, {count} readers: {rows / spent.seconds:,.0f} rows/s, {spent.peak_mb:.0f} MB")
            check.log_holds(stage.load(file), database, {"r": rows})
            stage.remove(file)
            runs[count].append(spent.seconds)
            peaks[count].append(spent.peak_mb)
    drop_database(database)

    def figures(count: int) -> dict[str, object]:
        return {"rows/s": [rows / seconds for seconds in runs[count]], "peak MB": peaks[count]}

    return [
        Measure(
            f"snapshot_readers_{count}", median(runs[1]) / median(runs[count]), "of one reader", None, None, False,
            figures(count), figures(1),
        )
        for count in counts[1:]
    ]  # fmt: skip
