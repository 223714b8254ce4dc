"""``python -m tests.bench.worker REPORT FILE ROLE``: the worker process of ``cdc run``, which says what it cost.

It is :mod:`cdc.role` unchanged; around it the clock is read when its source's stream, or the sink, is started.
With ``BENCH_PROFILE=FILE`` it runs under cProfile, which makes it about half as fast.
"""

from __future__ import annotations

import cProfile
import functools
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdc import role
from cdc.sink import Sink

marks: dict[str, float] = {}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _mark(name: str) -> None:
    marks.setdefault(name, time.monotonic())
    marks.setdefault(f"{name}_cpu", _cpu())


def _marked(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def marked(*arguments: Any, **named: Any) -> Any:
        _mark("started")
        return function(*arguments, **named)

    return marked


def _timed(deliver: Callable[..., Any]) -> Callable[..., Any]:
    """From the start of `deliver` to the end of the last write: that it is the last one is only known later."""

    def timed(name: str, sink: Sink, *arguments: Any) -> Any:
        write = sink.write

        def written(*batches: Any) -> Any:
            rejected = write(*batches)
            marks["ended"], marks["ended_cpu"] = time.monotonic(), _cpu()
            return rejected

        sink.write = written  # type: ignore[method-assign,assignment] # measured
        _mark("started")
        return deliver(name, sink, *arguments)

    return timed


def _peak() -> float:
    """Most memory that this process ever had, MB. (`ru_maxrss` would begin with what the parent had.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main(report: str, file: str, name: str) -> int:
    """Run the worker; write the report when it has ended by itself."""
    if name.startswith("source/"):
        from connectors.mysql.dump import DumpConnection
        from connectors.postgres.client import ReplicationConnection

        ReplicationConnection.start = _marked(ReplicationConnection.start)  # type: ignore[method-assign] # measured
        DumpConnection.start = _marked(DumpConnection.start)  # type: ignore[method-assign]
    else:
        from cdc import delivery

        delivery.deliver = _timed(delivery.deliver)
    profile = os.environ.get("BENCH_PROFILE")
    if profile:
        profiler = cProfile.Profile()
        code = profiler.runcall(role.main, file, name)
        profiler.dump_stats(profile)
    else:
        code = role.main(file, name)
    _mark("ended")
    seconds, cpu = marks["ended"] - marks["started"], marks["ended_cpu"] - marks["started_cpu"]
    whole = {"seconds": seconds, "ended": marks["ended"], "cpu": cpu, "cpu_with_start": marks["ended_cpu"]}
    Path(report).write_text(json.dumps({**whole, "peak_mb": _peak()}))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
