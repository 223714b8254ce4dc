"""Capture: source → durable append → acknowledge. The loop that every source runs in.

Events and position are one atomic append, and only what is durable is acknowledged to the source. How the source is
read is the :class:`Stream`'s business, how the log makes an append atomic is the :class:`~cdc.log.LogWriter`'s.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Final

from cdc import faults
from cdc.errors import TransientError
from cdc.log import LogWriter, Produced
from cdc.worker import Control
from schemas.table import TableSchema

SLICE_SECONDS: Final = 1.0
"""Longest single call into the log; in between the source gets its feedback."""
PATIENCE_SECONDS: Final = 10.0
"""A log, or a re-read, that holds us up for longer makes us let go of the source: a client that stops reading hangs
the database's shutdown even if it still sends feedback."""
LOADED_COMMIT_SECONDS: Final = 0.5
"""How long an append stays open when there is a backlog."""
DRY_SECONDS: Final = 0.005
"""A source that says nothing for so long has no more for now."""
IDLE_SECONDS: Final = 0.2
"""How long to wait for a source that has nothing to say before other things are looked after."""


class Marker:
    """A marker to write to every partition of `topic`."""

    __slots__ = ("header", "key", "topic")

    def __init__(self, topic: str, key: bytes, header: bytes) -> None:
        self.topic, self.key, self.header = topic, key, header


@dataclass(frozen=True, slots=True)
class Prepared:
    """A part of a prepared transaction, kept until that is decided: :meth:`cdc.log.LogWriter.append_prepared`."""

    transaction: str
    part: bytes


@dataclass(frozen=True, slots=True)
class Decided:
    """A prepared transaction is committed, and its rows have come, or it is rolled back: its parts go."""

    transaction: str


Item = list[Produced] | TableSchema | Marker | Prepared | Decided
"""What a batch consists of, in the order of the source's log: runs of records, and what stands between them."""


class Stream(ABC):
    """A source's log from the stored position on, turned into records.

    The order of calls: ``start``, ``resume``, then ``read``, ``fill``, ``attend``, ``stored`` again and again;
    ``keepalive`` at least every second whatever else is slow.
    """

    @abstractmethod
    def start(self) -> None:
        """Check the source and take hold of its log: from here on no other process can read it.

        Raises GapError, PermanentError, UnreachableError.
        """

    @abstractmethod
    def resume(self, position: bytes | None) -> None:
        """Compare the position that the fenced writer found with the source. Raises GapError."""

    @abstractmethod
    def read(self, seconds: float) -> Sequence[Item]:
        """What the source has sent by now, decoded; waits up to `seconds` for the first of it. Bounded by bytes."""

    @abstractmethod
    def fill(self) -> bool:
        """Complete the columns that the source left out of what `read` returned last, in place, by asking the source.
        What would take too much memory is removed from it, and is what `read` returns next.

        False: not possible yet, call again. Never called while an append is open.
        """

    incomplete: bool
    """True: `fill` must be called before what `read` returned last is appended."""

    more: bool
    """True: the source has sent more than what `read` returned last."""

    splittable: bool
    """False while what was read so far must go into one append with what comes next."""

    @abstractmethod
    def position(self) -> Callable[[], bytes] | None:
        """The place after everything that `read` returned and `fill` left in it, as a function that encodes it; None
        when it is still the one that was stored last."""

    @abstractmethod
    def stored(self) -> None:
        """The position that was taken last is durable: the source may be told."""

    @abstractmethod
    def keepalive(self) -> None:
        """Send what the source must hear from time to time. Raises UnreachableError, TransientError (step aside)."""

    @abstractmethod
    def attend(self) -> None:
        """Do what is due beside reading: what `keepalive` does, the next step of a snapshot, what the operator asked
        for. May ask source and log, so it is not called while either keeps us waiting.
        """

    @abstractmethod
    def caught_up(self) -> bool:
        """Everything that the source held when the stream started is stored, snapshots included."""

    @abstractmethod
    def report(self) -> None:
        """Tell `control` how it goes."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the source. Safe to call twice."""


def capture(stream: Stream, writer: LogWriter, control: Control) -> None:
    """Run until told to stop, or until caught up if so asked. Raises what `stream` and `writer` raise."""
    try:
        stream.start()
        stream.resume(_fence(writer, stream))
        pace = Pace()
        while True:
            stopping = control.stopping() or (control.until_caught_up and stream.caught_up())
            place = None
            while True:
                # 1. Read and decode what the source has sent.
                items = () if stopping and stream.splittable else stream.read(pace.patience())
                faults.reach("capture.after_decode")
                # 2. Fill what it left out, outside of any append.
                if stream.incomplete:
                    if pace.open:
                        _commit(stream, writer, pace, place)
                    _until(stream, "the source to show rows that it has sent", stream.fill)
                # 3. Append, beginning one append per commit.
                if items:
                    _append(stream, writer, items)
                    pace.appended()
                place = stream.position() or place
                stream.attend()
                stopping = stopping or control.stopping()
                # 4. Commit records and position in one, as often as the load allows.
                if stream.splittable and (stopping or pace.due(more=stream.more)):
                    break
            if place is not None or pace.open:
                _commit(stream, writer, pace, place)
            # 5. Say how it goes, and end when asked to.
            control.caught_up = stream.caught_up()
            stream.report()
            if stopping:
                return
    finally:
        stream.close()  # first: closing the log may last, and the source would wait for us
        writer.close()


class Pace:
    """When to commit: at once while there is little to do, seldom under load.

    A commit costs a log several milliseconds whatever is in it, and as long as it lasts, changes pile up. If all of
    them fit into what is read next, they are committed at once. If not, there is a backlog: then the append stays
    open for half a second, or until the source has nothing more to say, and one commit carries tens of thousands of
    rows. So a trickle of any kind arrives within two commits, and a flood costs two commits a second.
    """

    def __init__(self) -> None:
        self.open = False
        """Whether there is anything to commit."""
        self._opened = 0.0

    def appended(self) -> None:
        """Something is in the append now."""
        if not self.open:
            self._opened = time.monotonic()
        self.open = True

    def committed(self) -> None:
        """The append is closed."""
        self.open = False

    def patience(self) -> float:
        """How long to wait for the source, seconds: while an append is open only long enough to see that it is dry."""
        return DRY_SECONDS if self.open else IDLE_SECONDS

    def due(self, *, more: bool) -> bool:
        """Whether to commit now; `more`: the source is known to have sent more than was read."""
        return not more or time.monotonic() - self._opened >= LOADED_COMMIT_SECONDS


def _append(stream: Stream, writer: LogWriter, items: Sequence[Item]) -> None:
    """Append `items` in order."""
    for item in items:
        if isinstance(item, Marker):
            writer.append_marker(item.topic, item.key, item.header)
        elif isinstance(item, TableSchema):
            writer.append_schema(item)
        elif isinstance(item, Prepared):
            _until(
                stream,
                "the log to take rows",
                partial(writer.append_prepared, item.transaction, item.part, SLICE_SECONDS),
            )
        elif isinstance(item, Decided):
            writer.forget_prepared(item.transaction)
        else:
            _append_records(stream, writer, item)


def _append_records(stream: Stream, writer: LogWriter, records: Sequence[Produced]) -> None:
    def some() -> bool:
        nonlocal records
        taken = writer.append(records, SLICE_SECONDS)
        if taken < len(records):
            records = records[taken:]
            return False
        return True

    faults.reach("capture.in_append")
    _until(stream, "the log to take records", some)


def _commit(stream: Stream, writer: LogWriter, pace: Pace, place: Callable[[], bytes] | None) -> None:
    if place is None:
        raise AssertionError("an append without a position")
    position = place()
    _until(stream, "the log to commit", lambda: writer.commit(position, SLICE_SECONDS))
    faults.reach("capture.before_acknowledge")
    stream.stored()
    pace.committed()


def _fence(writer: LogWriter, stream: Stream) -> bytes | None:
    """Take over the log while the source keeps hearing from us; it is let go when that takes too long."""
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(writer.fence)

        def fenced() -> bool:
            return bool(wait([future], SLICE_SECONDS).done)

        try:
            _until(stream, "the log to be taken over", fenced)
        except BaseException:
            stream.close()  # at once: the call into the log may last
            raise
        return future.result()


def _until(stream: Stream, what: str, done: Callable[[], bool]) -> None:
    """Call `done` until it is true, with feedback to the source in between. Raises TransientError in the end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        stream.keepalive()
        if time.monotonic() > deadline:
            raise TransientError(
                f"waited {PATIENCE_SECONDS:.0f} s for {what}; the source was let go meanwhile",
                hint="it is tried again by itself; look at the log's and the source's health",
            )
