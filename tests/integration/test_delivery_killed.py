"""Delivery under SIGKILL: whenever it dies, the store ends up as the log says, each version applied once."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.delivered import ITEMS, ORDERS, Source, embedded

POINTS = ["delivery.before_write", "sink.between_rows_and_offsets", "delivery.after_write", "delivery.after_commit"]


class Run:
    """A source with a history, and the store that is filled from it by one process after the other."""

    def __init__(self, folder: Path, kind: str, seed: int) -> None:
        self.folder, self.kind = folder, kind
        self.source = Source(embedded(folder))
        self._random = random.Random(seed)

    def change(self, count: int, deletes: float = 0.3) -> None:
        """Write `count` random changes, that share of them deletes, and a truncate among them."""
        for step in range(count):
            schema = self._random.choice([ORDERS, ITEMS])
            if step == count // 2:
                self.source.truncate(ORDERS)
            if self._random.random() < deletes:
                self.source.delete(self._random.randrange(20), schema)
            else:
                self.source.put(self._random.randrange(20), f"note {step}", schema)
        self.source.commit()

    def deliver(self, failpoint: str = "") -> subprocess.Popen[bytes]:
        """Start a process that delivers until caught up, or until it reaches `failpoint`."""
        command = [sys.executable, "-m", "tests.integration.sqlite_sink", str(self.folder), self.kind]
        return subprocess.Popen(command, env={**os.environ, "CDC_FAILPOINT": failpoint})

    def stored(self) -> dict[str, dict[bytes, bytes]]:
        """The store's rows by topic."""
        found: dict[str, dict[bytes, bytes]] = {ORDERS.topic: {}, ITEMS.topic: {}}
        with closing(sqlite3.connect(self.folder / "store.db")) as store:
            for topic, key, after in store.execute("SELECT topic, key, after FROM kept WHERE after IS NOT NULL"):
                found[topic][key] = after
        return found

    def count(self, question: str) -> int:
        """The answer of the store to a question for one number."""
        with closing(sqlite3.connect(self.folder / "store.db")) as store:
            (answer,) = store.execute(question).fetchone()
        return int(answer)


@pytest.fixture(params=["plain", "with_offsets"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path, request.param, seed=7)
    with run.source:
        yield run


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_fault_point_changes_nothing_in_the_end(run: Run, point: str) -> None:
    # At the first batch of all: nothing is committed yet, and no partition is known to be started.
    run.change(120)
    assert run.deliver(f"{point}:kill:1").wait(60) == -signal.SIGKILL
    # In the middle, then again right behind it.
    assert run.deliver(f"{point}:kill:4").wait(60) == -signal.SIGKILL
    assert run.stored() != run.source.rows
    run.change(40)
    assert run.deliver(f"{point}:kill:2").wait(60) == -signal.SIGKILL
    assert run.deliver().wait(60) == 0
    assert run.stored() == run.source.rows
    assert run.count("SELECT count(*) FROM landed") > 20


def test_rows_and_offsets_of_one_transaction_come_once(run: Run) -> None:
    """A store that keeps its offsets is never offered a row again that it has; another one is, and does not mind."""
    run.change(120, deletes=0)  # a delete comes twice by itself, when its tombstone is in the next batch
    assert run.deliver("delivery.after_write:kill:3").wait(60) == -signal.SIGKILL
    before = run.count("SELECT sum(records) FROM writes")
    assert run.deliver().wait(60) == 0
    assert run.stored() == run.source.rows
    again = run.count("SELECT sum(records) FROM writes") - run.count("SELECT count(*) FROM landed")
    assert before > 0
    assert (again > 0) == (run.kind == "plain")


def test_kills_at_any_moment_change_nothing_in_the_end(run: Run) -> None:
    moments = random.Random(11)
    killed = 0
    run.change(150)
    began = time.monotonic()
    assert run.deliver().wait(60) == 0
    whole = time.monotonic() - began
    for _ in range(6):
        run.change(150)
        process = run.deliver()
        try:
            process.wait(moments.uniform(0.4, 0.9) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            killed += process.wait(60) == -signal.SIGKILL
    assert run.deliver().wait(60) == 0
    assert killed > 0
    assert run.stored() == run.source.rows
