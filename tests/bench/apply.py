"""How fast each store takes what is on the log, against a bare loop that gives it the same batches."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

from cdc.log import Fetched
from cdc.reduce import reduce
from cdc.sink import Batch
from tests.bench import check, drain, workload
from tests.bench.measure import Measure
from tests.bench.stage import Stage
from tests.bench.stores import STORES
from tests.servers.postgres import Database, drop_database

BAR, AIM = 0.5, 0.8


def measures(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """Fill each store, bare and by our delivery in turn."""
    made = drain.backlog(stage, ["embedded"], 1, lambda db: workload.mixed(db, stage.sizes.apply))
    (file,) = made.pipelines["embedded"]
    stage.capture(file)
    check.log_holds(stage.load(file), made.database, made.counts)
    changes = sum(made.counts.values())
    names = [name for name in STORES if f"apply_{name}" in wanted]
    found = [_measure(stage, made.database, file, name, changes) for name in names]
    stage.remove(file)
    drop_database(made.database)
    return found


def _measure(stage: Stage, database: Database, file: Path, name: str, changes: int) -> Measure:
    store = STORES[name](stage)
    ours: list[float] = []
    bare: list[float] = []
    peaks: list[float] = []
    for number in range(stage.sizes.repeats):
        place = f"{name}{number}"
        stage.set_sink(file, place, store.sink(place))
        prepared = store.prepare(f"bare{place}", _batches(stage, file, place))
        began = time.monotonic()
        store.bare(f"bare{place}", prepared)
        bare.append(time.monotonic() - began)
        check.store_holds(database, store.rows(f"bare{place}", ours=False), f"{name}, bare")
        spent = stage.start(file, f"sink/{place}").until_caught_up()
        ours.append(spent.seconds)
        peaks.append(spent.peak_mb)
        check.store_holds(database, store.rows(place, ours=True), name)
        stage.say(f"apply, {name}: {changes / ours[-1]:,.0f} changes/s, bare {changes / bare[-1]:,.0f}")
    return Measure(
        f"apply_{name}", median(bare) / median(ours), "of a bare loop", BAR, AIM, False,
        {"changes/s": [changes / seconds for seconds in ours], "peak MB": peaks},
        {"changes/s": [changes / seconds for seconds in bare]},
    )  # fmt: skip


def _batches(stage: Stage, file: Path, sink: str) -> list[Sequence[Batch]]:
    """The log's records, reduced in batches of the sink's default size."""
    pipeline = stage.load(file)
    most = pipeline.sinks[sink].batch.rows
    batches: list[Sequence[Batch]] = []
    with closing(pipeline.open_log()) as log:
        schemas = log.schemas()
        part: list[Fetched] = []
        left = most
        for fetched in check.everything(log):
            records = fetched.records
            while records:
                part.append(fetched._replace(records=records[:left]))
                records, left = records[left:], left - len(part[-1].records)
                if not left:
                    batches.append(reduce(part, schemas.__getitem__))
                    part, left = [], most
        batches.append(reduce(part, schemas.__getitem__))
    return batches
