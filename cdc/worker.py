"""What a worker (one source or one sink) is told, and what it tells: stop signal, state, last error."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from cdc.log import Log

REPORT_EVERY_SECONDS: Final = 2.0
SILENT_SECONDS: Final = 15.0
"""A worker that has not reported for so long does not run any more, whatever it said last."""


class State(StrEnum):
    """The states of a worker as ``cdc status`` shows them."""

    STARTING = "starting"
    SNAPSHOT = "snapshot"
    STREAMING = "streaming"
    RETRYING = "retrying"
    NEEDS_SNAPSHOT = "needs_snapshot"
    NEEDS_REBUILD = "needs_rebuild"
    FAILED = "failed"
    STOPPED = "stopped"


def running(report: Mapping[str, Any] | None) -> bool:
    """Whether the worker of this report (a state of kind ``worker``) still runs."""
    if report is None or report["state"] in (State.STOPPED, State.FAILED, State.NEEDS_REBUILD):
        return False
    return time.time() - float(report["at"]) < SILENT_SECONDS


class Control:
    """Handed to a worker's loop: when to stop, and where to say how it is.

    `role` is ``source/NAME`` or ``sink/NAME``. Reports go to the log (state kind ``worker``), so that ``cdc status``
    reads them whether or not the worker runs; a change of state is written at once, mere progress every two seconds.
    """

    def __init__(self, role: str, log: Log, *, until_caught_up: bool = False) -> None:
        self.role = role
        self.until_caught_up = until_caught_up
        self.caught_up = False
        self._log = log
        self._stop = threading.Event()
        self._written: tuple[State, str] | None = None
        self._written_at = 0.0

    def stop(self) -> None:
        """Ask the worker to drain and return. Called by a signal handler."""
        self._stop.set()

    def stopping(self) -> bool:
        """True once the worker should finish what it holds and return."""
        return self._stop.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but no longer than until `stop`; returns `stopping()`."""
        return self._stop.wait(seconds)

    def report(self, state: State, error: str = "", progress: Mapping[str, Any] | None = None) -> None:
        """Tell how the worker is. `error` is the sentence of the last failure, with its hint."""
        now = time.monotonic()
        if self._written == (state, error) and now - self._written_at < REPORT_EVERY_SECONDS:
            return
        document = {"state": state.value, "error": error, "at": time.time(), **(progress or {})}
        self._log.put_state("worker", self.role, document)
        self._written, self._written_at = (state, error), now
