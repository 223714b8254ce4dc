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
