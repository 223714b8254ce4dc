"""Starters of the real servers that the tests use.

Each module has a session fixture that yields how to reach its server: the one that ``CDC_TEST_…`` names, or one that
it starts on 127.0.0.1 in a temporary folder and stops at the end. What cannot be had is skipped by name, and is a
failure when ``CI=true``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cdc-service-tests"
"""Downloads (jars) are kept here between runs."""


def unavailable(server: str, why: str) -> NoReturn:
    """Skip the test by the server's name; in CI fail."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{server} is needed and could not be had: {why}", pytrace=False)
    pytest.skip(f"no {server}: {why}")


def free_port() -> int:
    """A TCP port on 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], object], *, seconds: float = 60, what: str = "the condition") -> None:
    """Poll `condition` until it is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {seconds} s")
        time.sleep(0.02)


def start(command: Sequence[str], log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a server in its own process group, output to the file `log`, ended by the kernel when we die."""
    with log.open("ab") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], seconds: float = 15) -> None:
    """End a server and what it started: SIGTERM, after `seconds` SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
