"""How much faster two workers feed a sink than one does, from a topic of four partitions."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from statistics import median

from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from cdc.log import Log, TopicPartition
from tests.bench import check, workload
from tests.bench.measure import Measure
from tests.bench.stage import Spent, Stage
from tests.bench.stores import Sql
from tests.servers import wait_until
from tests.servers.postgres import drop_database

PARTITIONS = 4
PATIENCE_SECONDS = 60.0


def measures(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """Fill PostgreSQL, by one worker and by two in turn: each has as much to do there as its process of the server."""
    database = stage.database()
    file = stage.pipeline(database, "kafka", topics={"partitions": PARTITIONS})
    stage.capture(file)
    counts = workload.mixed(database, stage.sizes.changes)
    stage.capture(file)
    check.log_holds(stage.load(file), database, counts)
    store = Sql(stage)
    rates: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[float]] = {1: [], 2: []}
    for number in range(stage.sizes.repeats):
        for workers in rates:
            place = f"workers{workers}_{number}"
            stage.set_sink(file, place, {**store.sink(place), "workers": workers})
            rate, spent = _fill(stage, file, place)
            check.store_holds(database, store.rows(place, ours=True), f"what {workers} fed")
            stage.say(f"workers, {workers}: {rate:,.0f} records/s")
            rates[workers].append(rate)
            cpu[workers].append(sum(one.cpu for one in spent) / max(one.seconds for one in spent))
    stage.remove(file)
    drop_database(database)
    one, two = ({"records/s": rates[workers], "CPU of workers": cpu[workers]} for workers in rates)
    return [Measure("two_workers", median(rates[2]) / median(rates[1]), "x one worker", None, None, False, two, one)]


def _fill(stage: Stage, file: Path, sink: str) -> tuple[float, list[Spent]]:
    """Records a second from the moment when each worker had its partitions: how they find together is not counted."""
    pipeline = stage.load(file)
    roles = pipeline.workers(f"sink/{sink}")
    admin = AdminClient({"bootstrap.servers": stage.broker.bootstrap})
    group = f"{pipeline.name}.{sink}"
    running = [stage.start(file, role) for role in roles]
    wait_until(lambda: _shared(admin, group, len(roles)), seconds=PATIENCE_SECONDS, what=f"partitions for {roles}")
    with closing(pipeline.open_log()) as log:
        began, left = time.monotonic(), _left(log, sink)
    spent = [worker.until_caught_up() for worker in running]
    seconds = max(one.ended for one in spent) - began
    assert seconds > 0, f"all was done before {len(roles)} workers had partitions: BENCH_CHANGES is too few"
    return left / seconds, spent


def _shared(admin: AdminClient, group: str, members: int) -> bool:
    """Whether so many members of `group` have partitions."""
    found = admin.describe_consumer_groups([group])[group].result(10)
    having = [member for member in found.members if member.assignment.topic_partitions]
    return found.state is ConsumerGroupState.STABLE and len(having) == members


def _left(log: Log, sink: str) -> int:
    """How many records `sink` has still to get."""
    places = [TopicPartition(topic.name, number) for topic in log.topics().values() for number in range(PARTITIONS)]
    done = log.committed(sink)
    return sum(end - (done[place].offset if place in done else 0) for place, end in log.end_offsets(places).items())
