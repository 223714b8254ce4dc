"""What a worker (one source or one sink) is told, and what it tells: stop signal, state, last error."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, Self

import structlog

from cdc.errors import CdcError, TransientError
from cdc.log import Log

REPORT_EVERY_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 1.0
"""How often the log is asked for what the operator wants."""
LAST_REPORT_SECONDS: Final = 12.0
"""How long the end of a worker may wait for its last report to be stored."""
SILENT_SECONDS: Final = 15.0
"""A worker that has not reported for so long does not run any more, whatever it said last."""
REQUEST: Final = "snapshot_request"
"""Kind of the state by which ``cdc snapshot`` asks a source to read tables again: ``{"id": …, "tables": …}``, by the
source's name. Listed keys of a table are asked for in parts that have ``keys`` too, by names ``SOURCE/…``, in order."""

logger = structlog.get_logger()


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
    """Handed to a worker's loop: when to stop, what the operator asks for, and where to say how it is.

    `role` is ``source/NAME`` or ``sink/NAME``. Reports go to the log (state kind ``worker``), so that ``cdc status``
    reads them whether or not the worker runs; requests come from it. A thread of its own does both, from entering to
    leaving this context: a log that is slow to answer does not hold up the rows. A change of state is written at once,
    mere progress every two seconds; the last report is written before the context ends.
    """

    def __init__(self, role: str, log: Log, *, until_caught_up: bool = False) -> None:
        self.role = role
        self.until_caught_up = until_caught_up
        self.caught_up = False
        self.request: Mapping[str, Any] | None = None
        """What ``cdc snapshot`` asked of this source, as far as it is known and not done."""
        self.looked = False
        """Whether `request` says what was asked for before this worker began."""
        self._done: str | None = None
        self._log = log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"control of {role}", daemon=True)
        self._wake = threading.Event()
        self._ended = False
        self._latest: dict[str, Any] | None = None
        self._written: dict[str, Any] | None = None
        self._written_at = 0.0
        self._failure: CdcError | None = None

    def __enter__(self) -> Self:
        self._wake.set()  # at once the first time
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._wake.set()
        self._thread.join(LAST_REPORT_SECONDS)

    def stop(self) -> None:
        """Ask the worker to drain and return. Called by a signal handler."""
        self._stop.set()

    def stopping(self) -> bool:
        """True once the worker should finish what it holds and return."""
        return self._stop.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but no longer than until `stop`; returns `stopping()`."""
        return self._stop.wait(seconds)

    @property
    def done(self) -> str | None:
        """The id of the request that was carried out last; it is then removed, and the next one comes."""
        return self._done

    @done.setter
    def done(self, id_: str | None) -> None:
        if id_ != self._done:
            self._done = id_
            self._wake.set()

    def report(self, state: State, error: str = "", progress: Mapping[str, Any] | None = None) -> None:
        """Tell how the worker is. `error` is the sentence of the last failure, with its hint.

        A worker that starts after a failure is ``retrying`` until it works: what failed stays in sight meanwhile.
        Raises what kept the report before from being stored, unless that was transient.
        """
        before = self._latest
        if state is State.STARTING and before is not None and before["state"] == State.RETRYING:
            state, error = State.RETRYING, before["error"]
        self._latest = {"state": state.value, "error": error, "at": time.time(), **(progress or {})}
        if before is None or (before["state"], before["error"]) != (state.value, error):
            self._wake.set()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _run(self) -> None:
        ended, failing = False, False
        while not ended:
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            ended = self._ended
            try:
                self._write(whatever=ended)
                self._look()
                failing = False
            except TransientError as error:
                if not failing:
                    logger.warning("worker.not_reported", worker=self.role, error=str(error.args[0]))
                failing = True
            except CdcError as error:
                self._failure = error

    def _write(self, *, whatever: bool) -> None:
        """Store the latest report when that is due."""
        latest, written = self._latest, self._written
        if latest is None or latest is written:
            return
        same = written is not None and all(latest[name] == written[name] for name in ("state", "error"))
        if not same or whatever or time.monotonic() - self._written_at >= REPORT_EVERY_SECONDS:
            self._log.put_state("worker", self.role, latest)
            self._written, self._written_at = latest, time.monotonic()

    def _look(self) -> None:
        """See what is asked for; a request that was carried out goes."""
        kind, _, name = self.role.partition("/")
        if kind != "source":
            self.looked = True
            return
        requests = self._log.states(REQUEST)
        asked = sorted(one for one in requests if one.partition("/")[0] == name)  # whole tables come first
        for one in [one for one in asked if requests[one]["id"] == self.done]:
            self._log.put_state(REQUEST, one, None)
            asked.remove(one)
        self.request = requests[asked[0]] if asked else None
        self.looked = True
