"""The records between the log and the store: what was polled and waits, and the batch that is being written.

When is a batch due? As soon as it is full, or its first record has waited for `every`. Until then it pays to wait only
while the store is the bottleneck: so when the log has nothing more at the moment, the batch goes out, but the store is
left alone for as long as the last write took. A lone change is written at once; under load a slow store gets few
large batches, and is busy with small ones for half of the time at most. What is left after a full batch is the end of
a backlog, and does not wait.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

from cdc.config.fields import BatchConfig
from cdc.log import Fetched, TopicPartition

IDLE_SECONDS: Final = 0.2
"""How long a poll waits while there is nothing to write."""


class Intake:
    """Collects what is polled, and cuts batches from it."""

    def __init__(self, limits: BatchConfig) -> None:
        self._limits = limits
        self._waiting: deque[Fetched] = deque()
        self._rows = 0
        self._bytes = 0
        self._since = 0.0
        self._rest_until = 0.0
        self._taken_at = 0.0
        self._full = False
        self.batch: list[Fetched] = []
        """What is being written now."""

    def __bool__(self) -> bool:
        """Whether anything waits or is being written."""
        return bool(self._waiting or self.batch)

    def add(self, fetched: Sequence[Fetched]) -> None:
        """Take in what a poll returned."""
        if fetched and not self._waiting:
            self._since = time.monotonic()
        for part in fetched:
            self._waiting.append(part)
            self._rows += len(part.records)
            self._bytes += sum([len(record[2] or b"") for record in part.records])

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """Forget what came from `partitions`: they were given to another reader."""
        gone = set(partitions)
        self._waiting = deque(part for part in self._waiting if part[:2] not in gone)
        self.batch = [part for part in self.batch if part[:2] not in gone]
        self._rows = sum(len(part.records) for part in self._waiting)

    def patience(self) -> float:
        """How long the next poll may wait for records, seconds."""
        if not self._rows:
            return IDLE_SECONDS
        return max(0.0, min(self._since + self._limits.every, self._rest_until) - time.monotonic())

    def due(self, *, dry: bool) -> bool:
        """Whether to write what waits, `dry` being whether the last poll returned nothing."""
        now = time.monotonic()
        if bool(self._waiting) and now - self._since >= self._limits.every:
            return True
        if not self._rows:
            return dry
        return self._enough() or (dry and now >= self._rest_until)

    def _enough(self) -> bool:
        return self._rows >= self._limits.rows or self._bytes >= self._limits.bytes

    def take(self) -> list[Fetched]:
        """Begin a batch: the first `rows` records that wait, and all offsets that were passed before them."""
        self._taken_at = time.monotonic()
        self._full = self._enough()
        left = self._limits.rows
        while self._waiting and left > 0:
            part = self._waiting.popleft()
            if len(part.records) > left:
                cut = part.records[:left]
                self._waiting.appendleft(part._replace(records=part.records[left:]))
                part = part._replace(records=cut, next_offset=cut[-1].offset + 1)
            self.batch.append(part)
            left -= len(part.records)
        self._rows -= self._limits.rows - left
        if not self._waiting:
            self._bytes = 0
        self._since = self._taken_at
        return self.batch

    def written(self) -> None:
        """The batch is in the store, and its offsets are committed."""
        self.batch = []
        now = time.monotonic()
        self._rest_until = now + (0.0 if self._full else min(self._limits.every, now - self._taken_at))
