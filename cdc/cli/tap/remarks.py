"""What ``cdc tap`` says on stderr while it shows events."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

TELL_SECONDS: Final = 1.0
"""How often something is said, at most."""


class Remarks(AbstractContextManager["Remarks"]):
    """What was not shown, and why. A thread of its own says it: stderr may be as slow as stdout."""

    def __init__(self, rate: int, say: Callable[[str], None]) -> None:
        self.left_out = 0
        """Events beyond the rate."""
        self.dropped = 0
        """Events that could not wait until stdout took them."""
        self.waiting = ""
        """Why nothing is shown, if there is a reason."""
        self._rate = rate
        self._say = say
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="remarks", daemon=True)

    def __enter__(self) -> Remarks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def not_shown(self) -> str:
        """How many events were not shown so far, and why; empty if none."""
        parts = []
        if self.left_out:
            parts.append(f"{self.left_out} left out (more than {self._rate} a second: --rate)")
        if self.dropped:
            parts.append(f"{self.dropped} dropped (stdout is too slow for them)")
        return ", ".join(parts)

    def _tell(self) -> None:
        said = ["", ""]
        while not self._ended.wait(TELL_SECONDS):
            now = [self.not_shown(), self.waiting]
            for text in now:
                if text and text not in said:
                    self._say(text)
            said = now
