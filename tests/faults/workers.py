"""Workers as processes that die at fault points and are started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.servers import wait_until

FAILPOINT = "CDC_FAILPOINT"


class Worker:
    """``python -m cdc.role FILE ROLE``, the process that ``cdc run`` starts for each source and sink."""

    def __init__(self, file: Path, role: str, environment: Mapping[str, str] | None = None) -> None:
        self.file = file
        self.role = role
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._output = file.parent / f"{role.replace('/', '-')}.log"
        self._failpoint = ""

    def start(self, failpoint: str = "") -> None:
        """Start it; it will die at `failpoint` (``name:kill:nth``), if one is given."""
        self._failpoint = failpoint
        self.close()
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cdc.role", str(self.file), self.role],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **self._environment, FAILPOINT: failpoint},
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

    def freeze(self) -> None:
        """SIGSTOP: a process that will wake up much later."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def catch_up(self, seconds: float = 120) -> None:
        """Let it end when it has caught up; its exit code must be 0."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"until caught up\n")
        self._process.stdin.flush()
        wait_until(lambda: not self.running(), seconds=seconds, what=f"{self.role}, which is to catch up,")
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
