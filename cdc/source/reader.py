"""Threads and connections for reading chunks: what the connectors' readers have in common."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Generic, TypeVar

from cdc.errors import CdcError, TransientError
from cdc.source.snapshot import Chunk

K = TypeVar("K")
"""A connection of the driver."""
C = TypeVar("C", bound=Chunk)


class ThreadedReader(ABC, Generic[K, C]):
    """Reads chunks, each in a thread that ends with it; their connections are used again."""

    driver_error: ClassVar[type[Exception]]
    """What the driver raises."""

    def __init__(self) -> None:
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._connections: list[K] = []
        self._idle: list[K] = []
        self._threads: list[threading.Thread] = []

    @abstractmethod
    def _connect(self) -> K:
        """Another connection."""

    @abstractmethod
    def _usable(self, connection: K) -> bool:
        """Whether it is still open."""

    @abstractmethod
    def _interrupt(self, connection: K) -> None:
        """End what it runs, from another thread."""

    @abstractmethod
    def _end(self, connection: K) -> None:
        """Close it, which it may be already."""

    @abstractmethod
    def _read(self, connection: K, chunk: C) -> None:
        """Read `chunk`."""

    @abstractmethod
    def _meaning(self, error: Exception, chunk: C) -> CdcError:
        """What an error of the driver means for `chunk`."""

    def begin(self, chunk: C) -> None:
        """Start reading `chunk`; its result, or its `error`, is there when ``chunk.done`` is set."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(threading.Thread(target=self._run, args=(chunk,), name="chunk reader", daemon=True))
        self._threads[-1].start()

    def close(self) -> None:
        """End the connections; a running read fails. Safe to call twice."""
        self._closing.set()
        for connection in self._connections:
            self._interrupt(connection)
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            self._end(connection)

    @contextmanager
    def _connection(self) -> Iterator[K]:
        """One that is idle, or another."""
        with self._lock:
            self._connections = [*filter(self._usable, self._connections)]
            self._idle = [*filter(self._usable, self._idle)]
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._connect()
            with self._lock:
                self._connections.append(connection)
        try:
            if self._closing.is_set():
                raise TransientError("the source is being closed")
            yield connection
        finally:
            with self._lock:
                self._idle.append(connection)

    def _run(self, chunk: C) -> None:
        try:
            with self._connection() as connection:
                self._read(connection, chunk)
        except CdcError as error:
            chunk.error = error
        except self.driver_error as error:
            chunk.error = self._meaning(error, chunk)
        finally:
            chunk.done.set()
