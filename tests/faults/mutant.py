"""``python -m tests.faults.mutant NAMES FILE ROLE``: a worker with a safeguard taken out, to see the suite fail."""

from __future__ import annotations

import sys
from collections.abc import Callable

import cdc.capture
from cdc import faults, role
from cdc.capture import Pace, Stream
from cdc.log import LogWriter
from connectors.postgres.stream import PostgresStream
from sinks import _redis_scripts as scripts


def without_generation() -> None:
    """The cache no longer refuses the writes of a process that was replaced."""
    _replace("if number(generation) > number(ARGV[2]) then", "if false then", "UPSERT", "STORE")


def without_version_guard() -> None:
    """The cache takes whatever comes, older or not."""
    _replace("held < version", "true", "UPSERT")


def acknowledging_first() -> None:
    """The database is told that changes are safe before they are."""

    def commit(stream: Stream, writer: LogWriter, pace: Pace, place: Callable[[], bytes] | None) -> None:
        assert isinstance(stream, PostgresStream)
        assert place is not None
        position = place()
        stream.stored()
        stream._feedback.send()
        faults.reach("capture.before_acknowledge")
        while not writer.commit(position, 1.0):
            stream.keepalive()
        pace.committed()

    cdc.capture._commit = commit


def _replace(guard: str, by: str, *names: str) -> None:
    for name in names:
        script = getattr(scripts, name)
        assert guard in script, f"{name} has no such guard any more"
        setattr(scripts, name, script.replace(guard, by))


if __name__ == "__main__":
    for name in sys.argv[1].split(","):
        if name:
            globals()[name]()
    sys.exit(role.main(*sys.argv[2:]))
