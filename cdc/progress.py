"""How far the snapshots of a source have come: for its report, and as lines in the log of its worker."""

from __future__ import annotations

import datetime
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import structlog

from cdc import logs

RATE_SECONDS: Final = 30.0
"""The rate is that of the last so many seconds."""
LINE_SECONDS: Final = 10.0
"""How often a table gets a line."""
SCREEN_SECONDS: Final = 0.5
"""The same where the lines move a bar on a screen."""

log = structlog.get_logger()


class _Table:
    def __init__(self) -> None:
        self.rows = 0
        self.estimate: int | None = None
        self.samples: deque[tuple[float, int]] = deque()
        self.told_at = float("-inf")

    def rate(self) -> float | None:
        """Rows per second, None as long as that can't be told."""
        (first, before), (last, now) = self.samples[0], self.samples[-1]
        return (now - before) / (last - first) if last > first else None


class SnapshotProgress:
    """Rows read, rate and time left, by table. Each table gets a line ``snapshot.progress`` from time to time."""

    def __init__(self) -> None:
        self._tables: dict[str, _Table] = {}
        self._waiting_since = time.monotonic()
        self._every = SCREEN_SECONDS if logs.on_screen() else LINE_SECONDS

    def read(self, table: str, rows: int, estimate: int | None) -> None:
        """`rows` of a table are on the log, of about `estimate` that it has (None: nobody knows)."""
        known = self._tables.setdefault(table, _Table())
        known.rows, known.estimate = rows, estimate
        now = time.monotonic()
        if known.samples and rows < known.samples[-1][1]:
            known.samples.clear()  # it is read from its beginning
        known.samples.append((now, rows))
        while now - known.samples[0][0] > RATE_SECONDS and len(known.samples) > 2:
            known.samples.popleft()
        if now - known.told_at >= self._every:
            known.told_at = now
            log.info("snapshot.progress", table=table, **self.of(table, rows))

    def waits(self, what: str) -> None:
        """No row is read until `what` has come about; empty: nothing is waited for. It gets a line if it lasts."""
        now = time.monotonic()
        if not what:
            self._waiting_since = now
        elif now - self._waiting_since >= LINE_SECONDS:
            self._waiting_since = now
            log.warning("snapshot.waits", what=what)

    def done(self, table: str, rows: int) -> None:
        """All rows of a table are on the log."""
        self._tables.pop(table, None)
        log.info("snapshot.table_done", table=table, rows=rows)

    def of(self, table: str, rows: int) -> dict[str, Any]:
        """For the report: ``rows``, and what is known of ``estimate``, ``rows_per_second`` and ``seconds_left``."""
        found: dict[str, Any] = {"rows": rows}
        if (known := self._tables.get(table)) is None:
            return found
        estimate = known.estimate if known.estimate is not None and known.estimate > known.rows else None
        rate = known.rate()
        if estimate is not None:
            found["estimate"] = estimate
        if rate:
            found["rows_per_second"] = round(rate)
        if rate and estimate is not None:
            found["seconds_left"] = round((estimate - known.rows) / rate)
        return found


def sentence(progress: Mapping[str, Any]) -> str:
    """What :meth:`SnapshotProgress.of` found, for people."""
    text = f"{progress['rows']:,}"
    if "estimate" in progress:
        text += f" of about {progress['estimate']:,}"
    text += " rows read"
    if "rows_per_second" in progress:
        text += f", {progress['rows_per_second']:,} rows/s"
    if "seconds_left" in progress:
        text += f", {datetime.timedelta(seconds=progress['seconds_left'])} left"
    return text
