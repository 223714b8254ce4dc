"""Which tables a sink receives, and what their rows look like, as far as the log says so."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from cdc.config.patterns import selects
from cdc.errors import TransientError
from cdc.log import Log
from cdc.worker import Control
from schemas.table import TableSchema

REFRESH_SECONDS: Final = 1.0
"""The log's schemas are not read more often than this for the sake of a topic that is not known yet."""
PATIENCE_SECONDS: Final = 30.0
"""How long a schema may take to become readable after the record that needs it."""
PAUSE_SECONDS: Final = 0.05


class Tables:
    """The schemas that the log holds, read again when something is asked for that was not there before."""

    def __init__(self, log: Log, patterns: Sequence[str], control: Control) -> None:
        self._log = log
        self._patterns = list(patterns)
        self._control = control
        self._schemas: dict[bytes, TableSchema] = {}
        self._wanted: dict[str, bool] = {}
        self._read_at = float("-inf")

    def wanted(self, topic: str) -> bool:
        """Whether the sink receives the table of `topic`; no, as long as the log does not say which table that is."""
        if self._patterns == ["*"]:
            return True
        if topic not in self._wanted and time.monotonic() - self._read_at >= REFRESH_SECONDS:
            self.refresh()
        return self._wanted.get(topic, False)

    def name(self, topic: str) -> str:
        """``schema.table`` of a topic of which rows were read."""
        return next((f"{one.schema}.{one.table}" for one in self._schemas.values() if one.topic == topic), topic)

    def schema(self, schema_id: bytes) -> TableSchema:
        """The schema of that id, waited for if the log does not have it yet: another partition may be ahead of it.

        Raises TransientError when it does not come within 30 s, or when the worker is to stop.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while schema_id not in self._schemas:
            self.refresh()
            if schema_id in self._schemas:
                break
            if self._control.wait(PAUSE_SECONDS) or time.monotonic() > deadline:
                raise TransientError(
                    f"schema {schema_id.hex()}, which a record refers to, is not on the log",
                    hint="it is tried again by itself; if it stays, the log's schema topic was tampered with",
                )
        return self._schemas[schema_id]

    def refresh(self) -> None:
        """Read the log's schemas now. Raises TransientError."""
        self._schemas.update(self._log.schemas())
        for schema in self._schemas.values():
            self._wanted[schema.topic] = selects(self._patterns, f"{schema.schema}.{schema.table}")
        self._read_at = time.monotonic()
