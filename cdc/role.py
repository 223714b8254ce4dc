"""One worker from start to end: a source captured or a sink fed, again and again until told to stop.

``python -m cdc.role FILE ROLE [PROFILE]`` is the process that ``cdc run`` starts for each; it ends when its standard
input does, so that it never outlives who started it.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

import structlog

from cdc import logs
from cdc.config.load import load
from cdc.config.pipeline import Pipeline, part_of
from cdc.config.secrets import redact
from cdc.errors import CdcError, ConfigurationError, FencedError, GapError, TransientError
from cdc.log import Log
from cdc.worker import Control, State

FIRST_PAUSE_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 30.0
HEALTHY_SECONDS: Final = 60.0
"""A worker that ran this long before it failed is not on a losing streak."""
POLL_SECONDS: Final = 1.0
COLLECT_EVERY_OBJECTS: Final = 50_000
CAUGHT_UP: Final = b"until caught up\n"
"""Line on the standard input that tells a worker to end when it has caught up."""

log = structlog.get_logger()


def run_role(pipeline: Pipeline, role: str, control: Control, logbook: Log) -> int:
    """Work until `control` says stop, or something happens that only a person can mend; returns the exit code.

    Transient errors are retried for ever. A source with a gap waits for ``cdc snapshot``, unless it was only to catch
    up. Whatever is neither is a bug or a PermanentError and ends the worker as ``failed``.
    """
    # What exists by now stays, and records are no cycles: looking for some every 700 objects costs a tenth of the time.
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY_OBJECTS, 50, 50)
    failures = 0
    while True:
        started = time.monotonic()
        try:
            control.report(State.STARTING)
            _work(pipeline, role, control, logbook)
            _report(control, State.STOPPED)
            return 0
        except GapError as error:
            source = role.startswith("source/")
            state = State.NEEDS_SNAPSHOT if source else State.NEEDS_REBUILD
            _failed(control, state, error)
            if not source or control.until_caught_up or not _snapshot_requested(control, state, error):
                return 0 if control.stopping() else error.exit_code
        except (TransientError, FencedError) as error:
            if isinstance(error, FencedError) and _held_by_another(pipeline, role):
                _failed(control, State.FAILED, error)
                return error.exit_code
            failures = 1 if time.monotonic() - started > HEALTHY_SECONDS else failures + 1
            _failed(control, State.RETRYING, error)
            if _pause(control, State.RETRYING, error, full_jitter(failures)):
                _report(control, State.STOPPED, error)
                return 0
        except CdcError as error:
            _failed(control, State.FAILED, error)
            return error.exit_code
        except Exception as error:
            _report(control, State.FAILED, f"{type(error).__name__}: {error}")
            log.exception("worker.bug")
            return 1


def full_jitter(failures: int) -> float:
    """Seconds to wait after so many failures in a row: anything up to a limit that doubles each time."""
    return random.uniform(0, min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures, 20)))  # noqa: S311


def stop_on_signals(stop: Callable[[], None]) -> None:
    """The first SIGINT or SIGTERM calls `stop`; the second ends the process at once, with 130 or 143."""
    asked = False

    def received(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        threading.Thread(target=stop).start()  # the interrupted code may hold the very lock that `stop` takes

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, received)


def _held_by_another(pipeline: Pipeline, role: str) -> bool:
    """Whether a fenced worker stays out: its store has room for one. Elsewhere it asks the log for other partitions."""
    kind, _, name = part_of(role).partition("/")
    return kind == "sink" and pipeline.sink(name).single_worker


def _work(pipeline: Pipeline, role: str, control: Control, logbook: Log) -> None:
    kind, _, name = part_of(role).partition("/")
    if kind == "source":
        pipeline.connector(name).capture(logbook, control)
        return
    from cdc.delivery import deliver

    deliver(name, pipeline.sink(name), pipeline.sinks[name], logbook, control)


def _failed(control: Control, state: State, error: CdcError) -> None:
    log.warning("worker." + state.value, error=str(error.args[0]), hint=error.hint or None)
    _report(control, state, error)


def _report(control: Control, state: State, error: CdcError | str = "") -> None:
    """Say how the worker is. What it failed of is told even if that can't be stored."""
    try:
        control.report(state, redact(str(error)))
    except CdcError as refused:
        log.warning("worker.not_reported", state=state.value, error=str(refused.args[0]))


def _pause(control: Control, state: State, error: CdcError, seconds: float) -> bool:
    """Wait, reporting meanwhile so that the worker does not look dead; True when it is to stop."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if control.wait(min(left, POLL_SECONDS)):
            return True
        _report(control, state, error)
    return control.stopping()


def _snapshot_requested(control: Control, state: State, error: CdcError) -> bool:
    """Wait until somebody asked for a snapshot of this source; False when the worker is to stop instead."""
    while not _pause(control, state, error, POLL_SECONDS):
        if control.request is not None and "keys" not in control.request:
            return True
    return False


def _obey(control: Control) -> None:
    """Hear what the supervisor says on our standard input; its end is ours."""
    while said := os.read(0, 64):  # not sys.stdin: a thread that waits in it stands in the way of the interpreter's end
        if CAUGHT_UP in said:
            control.until_caught_up = True
    os._exit(1)


def main(file: str, role: str, profile: str | None = None) -> int:
    """The worker process of ``cdc run``. Messages and exit code as ``cdc run --only ROLE``."""
    logs.configure()
    structlog.contextvars.bind_contextvars(worker=role)
    try:
        pipeline = load(Path(file), profile=profile)
        logbook = pipeline.open_log()
    except ConfigurationError as error:
        log.error("worker.misconfigured", error=str(error))
        return error.exit_code
    try:
        with Control(role, logbook) as control:
            stop_on_signals(control.stop)
            threading.Thread(target=_obey, args=(control,), daemon=True).start()
            return run_role(pipeline, role, control, logbook)
    finally:
        logbook.close()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
