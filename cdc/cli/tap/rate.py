"""How many events are shown: ``--rate``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from cdc.cli.tap.event import Event

clock = time.monotonic


class Rate:
    """At most `rate` events in any one second, evenly; 0: all of them."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._credit = float(rate)
        self._at = clock()
        self._shown: deque[tuple[float, int]] = deque()

    def some(self, events: Sequence[Event], limit: int | None) -> Sequence[Event]:
        """Those of `events` to be shown now: as many as may be, from all of them; the first ones if `limit` is enough.

        `limit` is how many are wanted at all.
        """
        wanted = len(events) if limit is None else min(len(events), limit)
        count = self._take(wanted) if self._rate else wanted
        if count == limit:
            return events[:count]
        return [events[(2 * n + 1) * len(events) // (2 * count)] for n in range(count)]

    def _take(self, wanted: int) -> int:
        """How many of so many may be shown now: what was not used up, and never more than the last second leaves."""
        now = clock()
        while self._shown and self._shown[0][0] <= now - 1:
            self._shown.popleft()
        free = self._rate - sum(count for _, count in self._shown)
        self._credit = min(self._credit + (now - self._at) * self._rate, free)
        self._at = now
        count = min(wanted, int(self._credit))
        if count:
            self._credit -= count
            self._shown.append((now, count))
        return count
