"""Standard output, where the events are shown."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Final

from cdc.cli.tap.event import Event
from cdc.cli.tap.rate import Rate
from cdc.cli.tap.remarks import Remarks

END_SECONDS: Final = 2.0
"""How long a signal waits for what keeps us from ending: an stdout that takes nothing, a log that does not answer."""


class Output:
    """Shows events until there are enough of them, or a signal comes."""

    def __init__(
        self,
        text: Callable[[Event], str],
        rate: Rate,
        limit: int | None,
        remarks: Remarks,
        say: Callable[[str], None],
    ) -> None:
        self._text = text
        self._rate = rate
        self._limit = limit
        self._remarks = remarks
        self._say = say
        self._shown = 0
        self._stop = threading.Event()
        self._ended = threading.Event()

    def stopping(self) -> bool:
        """Whether a signal came."""
        return self._stop.is_set()

    def end(self) -> None:
        """A signal came: the event that is being written is the last one."""
        self._stop.set()
        if not self._ended.wait(END_SECONDS):
            self._say(self._sum())
            os._exit(0)

    def show(self, what: str, events: Generator[Sequence[Event], None, None]) -> None:
        """Write batches of events to stdout as they come; the first one only says that it has begun."""
        try:
            with closing(events):
                if next(events, None) is not None:
                    self._say(f"tapping {what}; Ctrl-C ends")
                for batch in events:
                    self._write(batch)
                    if self._shown == self._limit:
                        break
        finally:
            self._ended.set()
        self._say(self._sum())

    def _write(self, batch: Sequence[Event]) -> None:
        events = self._rate.some(batch, None if self._limit is None else self._limit - self._shown)
        for event in events:
            if self.stopping():
                break
            sys.stdout.write(self._text(event) + "\n")
            self._shown += 1
        else:
            if self._shown != self._limit:
                self._remarks.left_out += len(batch) - len(events)
        sys.stdout.flush()

    def _sum(self) -> str:
        return ", ".join(part for part in (f"{self._shown} event(s)", self._remarks.not_shown()) if part)
