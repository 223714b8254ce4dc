"""Where on the log ``cdc tap`` begins: ``--from`` and ``--since``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from cdc.config.fields import Duration
from cdc.errors import ConfigurationError
from cdc.log import Log, TopicPartition


@dataclass(frozen=True)
class Start:
    """The log's beginning, an offset, or the time of an append in ms since 1970; otherwise its end. `text` says it."""

    text: str
    beginning: bool = False
    offset: int | None = None
    time: int | None = None

    @classmethod
    def of(cls, start: str | None, since: str | None) -> Start:
        """From the options as they were typed. Raises ConfigurationError."""
        if start is not None and since is not None:
            raise ConfigurationError(
                "--from and --since exclude each other", hint="--from is a place on the log, --since a time"
            )
        if since is not None:
            return cls(f"what was appended since {since}", time=_time(since))
        if start in ("beginning", "end", None):
            return cls(f"the {start or 'end'}", beginning=start == "beginning")
        if not (start.isascii() and start.isdecimal()):
            raise ConfigurationError(
                "--from is beginning, end or an offset", hint="see `cdc tap --help` for examples; for times: --since"
            )
        return cls(f"offset {start}", offset=int(start))

    def offsets(
        self,
        log: Log,
        partitions: Sequence[TopicPartition],
        ends: Mapping[TopicPartition, int] | None,
        say: Callable[[str], None],
    ) -> Mapping[TopicPartition, int]:
        """Where to begin in each of `partitions`; an offset that is not there is told to `say`.

        `ends` says where the end is, if it is not the log's; in a partition that it lacks, at the beginning.
        """
        lowest, highest = log.start_offsets(partitions), log.end_offsets(partitions)
        if self.time is not None:
            wanted = log.offsets_for_time(partitions, self.time)
        elif self.offset is not None:
            wanted = dict.fromkeys(partitions, self.offset)
        elif self.beginning:
            wanted = lowest
        else:
            wanted = highest if ends is None else {place: ends.get(place, 0) for place in partitions}
        begin = {place: min(max(wanted[place], lowest[place]), highest[place]) for place in partitions}
        if self.offset is not None:
            for place, offset in begin.items():
                if offset != self.offset:
                    there = f"{lowest[place]} to {highest[place]}"
                    say(f"partition {place.partition} has the offsets {there} now: it is shown from {offset} on")
        return begin


def _time(text: str) -> int:
    """``10m`` ago, or an ISO 8601 time: of this machine's zone, unless it names one."""
    now = time.time()
    try:
        at = now - TypeAdapter(Duration).validate_python(text)
    except ValidationError:
        try:
            at = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            raise ConfigurationError(
                "--since is neither a duration nor a time", hint="for example 10m, 2h, or 2026-01-31T12:00:00Z"
            ) from None
    if at > now:
        raise ConfigurationError("--since lies in the future", hint="without it, what comes from now on is shown")
    return max(0, int(at * 1000))
