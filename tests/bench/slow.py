"""Memory of the capture process while the broker is slow, and then not there at all for a while."""

from __future__ import annotations

import threading
from collections.abc import Collection

from tests.bench import check, drain, workload
from tests.bench.measure import Measure
from tests.bench.stage import Stage
from tests.servers.postgres import drop_database

STOPPED_SECONDS = 20.0
SLOW_ROUNDS, SLOW_STOPPED, SLOW_RUNNING = 30, 0.3, 0.1
"""A slow broker is one that is stopped most of the time."""


def measures(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """Drain a backlog into a broker that answers late for 12 s, then is stopped for 20 s, then answers."""
    made = drain.backlog(stage, ["kafka"], 1, lambda db: workload.mixed(db, stage.sizes.changes))
    (file,) = made.pipelines["kafka"]
    pause = threading.Event()  # only waited for: nothing sets it
    worker = stage.start(file, "source/pg")
    try:
        for _ in range(SLOW_ROUNDS):
            stage.broker.pause()
            pause.wait(SLOW_STOPPED)
            stage.broker.resume()
            pause.wait(SLOW_RUNNING)
        stage.broker.pause()
        pause.wait(STOPPED_SECONDS)
    finally:
        stage.broker.resume()
    spent = worker.until_caught_up()
    stage.say(f"slow broker: {spent.peak_mb:.0f} MB")
    check.log_holds(stage.load(file), made.database, made.counts)
    stage.remove(file)
    drop_database(made.database)
    raw = {"changes": sum(made.counts.values()), "seconds": spent.seconds, "retries": worker.errors().count("retrying")}
    return [Measure("capture_memory_slow_broker", spent.peak_mb, "MB", *drain.MEMORY_MB, True, raw)]
