"""What the server hears from us, and when: standby status updates (manual, 54.4 "Streaming Replication Protocol")."""

from __future__ import annotations

import time
from typing import Final

from cdc.errors import TransientError
from connectors.postgres.client import ReplicationConnection

FEEDBACK_SECONDS: Final = 2.0
"""Longest silence."""
NEWS_SECONDS: Final = 0.2
"""Longest silence when there is something to acknowledge."""
SHUTDOWN_PINGS: Final = 10
SHUTDOWN_SECONDS: Final = 2.0
"""So many answers requested in so many seconds mean that the server wants to stop and waits for us."""


class StepAside(TransientError):
    """The server is shutting down and waits for us; it gets the connection back."""


class Feedback:
    """How far we are, told to the server."""

    def __init__(self, connection: ReplicationConnection) -> None:
        self._connection = connection
        self.received = 0
        """The end of what the server has sent, an LSN."""
        self.acknowledged = 0
        """The LSN up to which the server may discard WAL."""
        self._told = 0
        self._told_at = 0.0
        self._pings: list[float] = []

    def keepalive(self) -> None:
        """Send what is due. Raises UnreachableError."""
        silence = time.monotonic() - self._told_at
        if silence > (FEEDBACK_SECONDS if self._told == self.acknowledged else NEWS_SECONDS):
            self.send()

    def asked(self) -> None:
        """Answer the server, unless it asks so often that it must be waiting for us to shut down: StepAside."""
        now = time.monotonic()
        self._pings = [at for at in self._pings if now - at < SHUTDOWN_SECONDS] + [now]
        if len(self._pings) > SHUTDOWN_PINGS:
            raise StepAside(
                "PostgreSQL is shutting down and waits for us: the connection is released",
                hint="capture goes on by itself once the server is back",
            )
        self.send()

    def send(self) -> None:
        """Tell it now. Raises UnreachableError."""
        self._connection.feedback(max(self.received, self.acknowledged), self.acknowledged)
        self._told, self._told_at = self.acknowledged, time.monotonic()
