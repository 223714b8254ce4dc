"""One process per worker, started, watched and ended together."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from cdc.role import CAUGHT_UP, HEALTHY_SECONDS, full_jitter

log = structlog.get_logger()


class Worker:
    """One worker's process. `code` is its exit code once it is not to be started again."""

    def __init__(self, file: Path, role: str, profile: str | None = None) -> None:
        self.role = role
        self.code: int | None = None
        self.due = 0.0
        self.told = False
        self._command = [sys.executable, "-P", "-m", "cdc.role", str(file), role, *filter(None, [profile])]
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._crashes = 0

    def start(self) -> None:
        """Start the process in a session of its own, so that a terminal's Ctrl-C reaches only us."""
        self._started = time.monotonic()
        self.told = False
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            self._command, stdin=subprocess.PIPE, start_new_session=True
        )

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None

    def reap(self) -> None:
        """Look whether the process ended: by itself, then that is final; by a signal, then it starts again later."""
        if self._process is None or (code := self._process.poll()) is None:
            return
        if self._process.stdin:
            self._process.stdin.close()
        self._process = None
        if code >= 0:
            self.code = code
            log.info("worker.ended", worker=self.role, code=code)
            return
        healthy = time.monotonic() - self._started > HEALTHY_SECONDS
        self._crashes = 1 if healthy else self._crashes + 1
        pause = full_jitter(self._crashes)
        self.due = time.monotonic() + pause
        log.error("worker.killed", worker=self.role, signal=-code, starts_again_in=round(pause, 1))

    def until_caught_up(self) -> None:
        """Tell the process to end when it has caught up."""
        if self._process and self._process.stdin and not self.told:
            self.told = True
            try:
                self._process.stdin.write(CAUGHT_UP)
                self._process.stdin.flush()
            except BrokenPipeError:
                pass  # it has ended and is reaped next

    def send(self, number: int) -> None:
        """Send a signal, if the process is there to get it."""
        if self._process is not None:
            self._process.send_signal(number)


class Supervisor:
    """Runs workers until all have ended for good or a signal asks for the end."""

    def __init__(
        self, file: Path, roles: Sequence[str], profile: str | None = None, *, until_caught_up: bool = False
    ) -> None:
        self._workers = [Worker(file, role, profile) for role in roles]
        self._sources = [worker for worker in self._workers if worker.role.startswith("source/")]
        self._until_caught_up = until_caught_up
        self._stopping = False
        self._signals, self._signalled = socket.socketpair()

    def run(self) -> int:
        """Supervise. Returns 0 after a drain, otherwise the exit code of the worst worker."""
        self._listen()
        while True:
            # 1. See who ended; a worker that was killed gets a time at which it starts again.
            for worker in self._workers:
                worker.reap()
            open_ = [worker for worker in self._workers if worker.code is None]
            # 2. Asked to stop: nobody starts again, and when nobody is left that is the end.
            if self._stopping:
                open_ = [worker for worker in open_ if worker.running]
            if not open_:
                return 0 if self._stopping else max(worker.code or 0 for worker in self._workers)
            # 3. Start who is due. One that fails keeps nobody else from running.
            now = time.monotonic()
            for worker in open_:
                if not worker.running and worker.due <= now:
                    worker.start()
            # 4. Sources catch up first, then sinks: what a source appended last is to be delivered too.
            if self._until_caught_up:
                sources_done = all(source.code is not None for source in self._sources)
                for worker in open_ if sources_done else self._sources:
                    worker.until_caught_up()
            # 5. Sleep until somebody ends, a signal comes, or the next start is due.
            waiting = [worker.due - now for worker in open_ if not worker.running]
            self._sleep(max(0.0, min(waiting)) if waiting else None)

    def _listen(self) -> None:
        """Have signals written to a socket, so that they are dealt with in the loop and not in the middle of it."""
        self._signals.setblocking(False)
        self._signalled.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)

    def _sleep(self, seconds: float | None) -> None:
        if select.select([self._signals], [], [], seconds)[0]:
            for number in self._signals.recv(4096):
                if number != signal.SIGCHLD:
                    self._stop(number)

    def _stop(self, number: int) -> None:
        """First drain, then abort."""
        if self._stopping:
            for worker in self._workers:
                worker.send(signal.SIGKILL)
            os._exit(128 + number)
        self._stopping = True
        log.info("run.draining", hint="a second signal aborts")
        for worker in self._workers:
            worker.send(signal.SIGTERM)
