"""Workers as processes that die at fault points and are started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.servers import wait_until

FAILPOINT = "CDC_FAILPOINT"


class Worker:
    """``python -m cdc.role FILE ROLE``, the process that ``cdc run`` starts for each source and sink."""

    def __init__(self, file: Path, role: str, *, name: str = "", mutations: str = "") -> None:
        """`name` tells two workers of one role apart; `mutations` are names in :mod:`tests.faults.mutant`."""
        self.file = file
        self.role = role
        self._command = [sys.executable, "-m", *(["tests.faults.mutant", mutations] if mutations else ["cdc.role"])]
        self._process: subprocess.Popen[bytes] | None = None
        self._output = file.parent / f"{role.replace('/', '-')}{name}.log"
        self._failpoint = ""

    def start(self, failpoint: str = "") -> None:
        """Start it; it will die at `failpoint` (``name:kill:nth``), if one is given."""
        self._failpoint = failpoint
        self.close()
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._command, str(self.file), self.role],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, FAILPOINT: failpoint},
            )

    @property
    def armed(self) -> bool:
        """Whether it has yet to die."""
        return bool(self._failpoint)

    def running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.poll() is None

    def killed(self) -> bool:
        """Whether SIGKILL ended it, and not an error."""
        return self._process is not None and self._process.poll() == -signal.SIGKILL

    def kill(self) -> None:
        """SIGKILL, wherever it is."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM: it drains and ends with exit code 0, unless it was so young that it had not begun."""
        assert self._process is not None
        self._process.terminate()
        wait_until(lambda: not self.running(), seconds=60, what=f"the end of {self.role}")
        assert self._process.returncode in (0, -signal.SIGTERM), self.output()[-3000:]

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        wait_until(self.frozen, what=f"{self.role} standing still")

    def frozen(self) -> bool:
        """Whether it is stopped, here or at a fault point armed with ``stop``."""
        assert self._process is not None
        return bool(psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED)

    def exit_code(self) -> int | None:
        """How it ended, None while it lives."""
        return None if self._process is None else self._process.poll()

    def thaw(self) -> None:
        """A process wakes up much later, and goes on with what it was about to do."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def catch_up(self, seconds: float = 60) -> None:
        """Let it end when it has caught up; its exit code must be 0."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"until caught up\n")
        self._process.stdin.flush()
        try:
            wait_until(lambda: not self.running(), seconds=seconds, what=f"{self.role}, which is to catch up,")
        except pytest.fail.Exception:
            pytest.fail(f"{self.role} did not catch up; it said:\n{self.output()[-3000:]}")
        assert self._process.returncode == 0, self.output()[-3000:]

    def output(self) -> str:
        """What it printed, all its lives."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def close(self) -> None:
        """End it for good."""
        if self._process is not None:
            if self.running():
                self.kill()
            if self._process.stdin is not None:
                self._process.stdin.close()
