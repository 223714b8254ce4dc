"""``make bench``: how fast, how late and how big, each time beside a reference that runs in the same session.

``python -m tests.bench --only drain_embedded`` runs the named measures; see :class:`tests.bench.stage.Sizes` for the
environment variables that make it smaller, and ``BENCH_JSON=FILE`` for the figures as JSON.
"""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import psutil
import pytest
import typer
from rich.console import Console

from tests.bench import apply, binlog, drain, idle, interpreter, latency, slow, snapshot, workers
from tests.bench.measure import Measure, save, show
from tests.bench.stage import Sizes, Stage
from tests.bench.stores import STORES

Run = Callable[[Stage, Collection[str]], Sequence[Measure]]

RUNS: list[tuple[Run, tuple[str, ...]]] = [
    (drain.measures, ("drain_kafka", "drain_embedded", "capture_cpu")),
    (drain.bulk, ("bulk_kafka", "bulk_embedded")),
    (drain.one_by_one, ("one_by_one_kafka", "one_by_one_embedded")),
    (binlog.measures, tuple(f"{kind}_drain_{log}" for kind in binlog.SERVERS for log in binlog.LOGS)),
    (binlog.shapes, tuple(binlog.SHAPES)),
    (snapshot.measures, ("snapshot_kafka", "snapshot_embedded")),
    (snapshot.readers, tuple(f"snapshot_readers_{count}" for count in snapshot.READERS)),
    (latency.measures, tuple(latency.WAYS)),
    (slow.measures, ("capture_memory_slow_broker",)),
    (apply.measures, tuple(f"apply_{store}" for store in STORES)),
    (workers.measures, ("two_workers",)),
    (idle.measures, tuple(f"idle_{log}" for log in idle.LOGS)),
]
"""What is run, and the names by which it is asked for."""


def main(only: Annotated[list[str] | None, typer.Option(help="Measure to run; may be repeated.")] = None) -> None:
    """Measure and print a table; exit code 5 when a bar does not hold, 1 when a measure could not be taken."""
    known = [name for _, names in RUNS for name in names]
    if unknown := set(only or ()) - set(known):
        raise typer.BadParameter(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    wanted = set(only or known)
    console = Console(width=None if os.isatty(1) else 160)
    sizes = Sizes.from_environment()
    stage = Stage(sizes, console)
    found: list[Measure] = []
    failed = False
    began = time.monotonic()
    try:
        for run, names in RUNS:
            if wanted & set(names):
                try:
                    found += run(stage, wanted)
                except (Exception, pytest.fail.Exception):  # noqa: BLE001 - the other measures go on
                    failed = True
                    console.print(f"[red]{', '.join(names)} failed:", traceback.format_exc(), markup=False)
    finally:
        stage.close()
    show(found, console)
    console.print(f"{time.monotonic() - began:.0f} s; workers ran on {interpreter.chosen()}")
    if file := os.environ.get("BENCH_JSON"):
        machine = {
            "cores": os.cpu_count(),
            "memory": psutil.virtual_memory().total,
            "python": platform.python_version(),
            "interpreter": interpreter.chosen(),
        }
        save(found, {**machine, "sizes": asdict(sizes)}, Path(file))
    if failed:
        raise typer.Exit(1)
    if any(measure.holds is False for measure in found):
        raise typer.Exit(5)


if __name__ == "__main__":
    typer.run(main)
