"""Delivery: log → sink durable → commit offset. The loop that every sink is fed by.

A batch is written, then its offsets are committed: what comes again after a crash in between is not newer than what
the store holds, so it changes nothing there. A write that fails for the moment is tried again for ever; what comes
meanwhile stays on the log, not in memory, and other sinks do not notice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import Final

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from cdc import ahead, faults
from cdc.config.fields import SinkConfig
from cdc.config.secrets import redact
from cdc.errors import GapError, PermanentError, RebalancingError, TransientError
from cdc.intake import Intake
from cdc.log import Fetched, Log, TopicPartition
from cdc.reduce import history, key_hash, reduce
from cdc.sink import Batch, Rejected, Row, Sink
from cdc.starts import Starts
from cdc.tables import Tables
from cdc.worker import Control, State

FIRST_PAUSE_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 15.0
"""A failed write waits for a random time; its limit doubles from the first pause to the longest."""
POLL_SECONDS: Final = 0.2
"""Longest single poll during such a wait, so that a stop is noticed."""
POLL_EVERY_SECONDS: Final = 10.0
"""However much waits to be written, the log is polled this often: a group puts out members that do not poll."""
REMEMBER_EVERY_SECONDS: Final = 300.0
"""How often it is written down up to when the store is complete."""
AT_END_SECONDS: Final = 0.2
"""A reader is caught up once it stood at the end twice, this far apart."""

logger = structlog.get_logger()


def deliver(name: str, sink: Sink, config: SinkConfig, log: Log, control: Control) -> None:
    """Feed `sink` with the tables of `config` until `control` says stop, or until caught up if so asked.

    `name` is the consumer group too. A write that fails for the moment is retried here, for ever: the partitions are
    paused while polling goes on, so that the group keeps its members. Raises TransientError when the log fails, the
    store cannot be opened, or lost what it held while it keeps its own offsets (the caller starts anew), GapError,
    PermanentError (a rejected row included), FencedError.
    """
    with closing(sink):
        # 1. Claim the store and join the group. Partitions go on where the store, or else the group, says.
        sink.open()
        with closing(_Delivery(name, sink, config, log, control)) as delivery:
            while True:
                stopping = control.stopping()
                # 2. Poll until a batch is due.
                if not stopping:
                    delivery.poll()
                delivery.intake.take()
                # 3. Reduce it to one row per key and write it, again and again while the store fails.
                delivery.write()
                # 4. Commit, now that the store has the rows.
                delivery.commit()
                # 5. Say how it goes, and end when asked to.
                delivery.report()
                ending = not delivery.intake and (stopping or delivery.caught_up())
                delivery.remember(whatever=ending)
                if ending:
                    return


class _Delivery:
    """The steps of :func:`deliver`, and what they share."""

    def __init__(self, name: str, sink: Sink, config: SinkConfig, log: Log, control: Control) -> None:
        self.intake = Intake(config.batch)
        self._name = name
        self._sink = sink
        self._log = log
        self._control = control
        self._tables = Tables(log, config.tables, control)
        self._starts = Starts(name, sink, log)
        self._retry = Retrying(
            retry=retry_if_exception_type(TransientError),
            wait=wait_random_exponential(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS),
            stop=lambda _: control.stopping(),
            before_sleep=self._failed,
            sleep=self._poll_paused,
            reraise=True,
        )
        self._failure = ""
        self._passed: dict[TopicPartition, int] = {}
        self._replaced: set[tuple[TopicPartition, int]] = set()
        """Offsets of rows in the batch that the store refuses, and does not need: later ones take their place."""
        self._records = 0
        self._appended_at = 0.0
        self._at_end_since: float | None = None
        self._polled_at = self._remembered_at = time.monotonic()
        self._reader = log.reader(name, self._tables.wanted, self._assigned, self._revoked, alone=sink.single_worker)

    def close(self) -> None:
        self._reader.close()

    def poll(self) -> None:
        if time.monotonic() - self._polled_at > POLL_EVERY_SECONDS:
            self._poll_paused(0)
        dry = False
        while not self.intake.due(dry=dry) and not self._control.stopping():
            fetched = self._poll(self.intake.patience())
            dry = not fetched

    def write(self) -> None:
        if not self.intake.batch:
            return
        try:
            self._retry(self._write)
        except GapError as gap:
            if not self._sink.owns_offsets:
                raise
            raise TransientError(
                str(gap.args[0]),
                hint="the sink starts again: it goes on at the offsets that the store has now, or says what is missing",
            ) from gap
        self._failure = ""

    def commit(self) -> None:
        if not self.intake.batch:
            return
        while not self._committed():
            self._poll_paused(POLL_SECONDS)
        faults.reach("delivery.after_commit")
        self._starts.stored(self.intake.batch)
        for part in self.intake.batch:
            self._records += len(part.records)
            if part.records:
                self._appended_at = max(self._appended_at, part.records[-1].timestamp / 1000)
        self.intake.written()
        self._replaced.clear()

    def _committed(self) -> bool:
        """Commit what the batch has. False: not yet, the group is sharing out its partitions; a poll ends that, and
        what is taken away meanwhile leaves the batch.
        """
        try:
            self._reader.commit({TopicPartition(*part[:2]): part.next_offset for part in self.intake.batch})
        except TransientError as error:
            if self._sink.owns_offsets:
                # Nobody starts from these offsets, they only tell the lag; the next commit brings them.
                logger.warning("delivery.offsets_not_committed", sink=self._name, error=str(error.args[0]))
                return True
            if not isinstance(error, RebalancingError) or self._control.stopping():
                raise
            return False
        return True

    def report(self) -> None:
        progress = {"records": self._records, "appended_at": self._appended_at or None}
        self._control.report(State.STREAMING, progress=progress)

    def remember(self, *, whatever: bool) -> None:
        """Write down up to when the store is complete, if it is time or `whatever`, and store what was passed without
        a row: should the log's start move past that, the store's offset would be older than the log."""
        if whatever or time.monotonic() - self._remembered_at > REMEMBER_EVERY_SECONDS:
            if passed := [Batch(*place, 0, [], [], at) for place, at in self._passed.items()]:
                with suppress(TransientError, GapError):  # a later one brings them, or meets the same
                    self._sink.write(passed, self._starts.topic_ids)
                    self._passed.clear()
            self._starts.remember()
            self._remembered_at = time.monotonic()

    def caught_up(self) -> bool:
        """Whether the sink is to end when it has caught up, and has: the reader stood at the end twice."""
        if not self._control.until_caught_up:
            return False
        now = time.monotonic()
        if not self._at_end():
            self._at_end_since = None
        elif self._at_end_since is None:
            self._at_end_since = now
        elif now - self._at_end_since >= AT_END_SECONDS:
            self._control.caught_up = True
        return self._control.caught_up

    def _at_end(self) -> bool:
        """Whether all there is has been passed, in all topics that the sink receives as of now: by this reader where a
        partition is its own, otherwise by the other workers of the group.
        """
        self._tables.refresh()
        topics = [topic for topic in self._log.topics().values() if self._tables.wanted(topic.name)]
        places = [TopicPartition(topic.name, number) for topic in topics for number in range(topic.partitions)]
        ends, passed = self._log.end_offsets(places), dict(self._reader.position())
        if not passed.keys() >= set(places):
            # The log's offsets may lag behind those that the store keeps, and these behind Kafka's commit markers.
            ids = {topic.name: topic.id for topic in topics}
            for known in (self._log.committed(self._name), self._sink.offsets()):
                for place, at in known.items():
                    if at.topic_id == ids.get(place.topic):  # not of a topic of that name that was deleted
                        passed[place] = max(passed.get(place, 0), at.offset)
        return all(place in passed and passed[place] >= ends[place] for place in places)

    def _assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self._sink.claim(partitions)
        offsets = self._starts.assigned(partitions)
        # A partition's first offset is stored at once, with or without rows: from then on a lost one is noticed.
        self.intake.add([Fetched(*place, [], at) for place, at in offsets.items() if self._starts.fresh(place)])
        return offsets

    def _revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.intake.drop(partitions)
        self._starts.revoked(partitions)
        for place in partitions:
            self._passed.pop(place, None)

    def _poll(self, timeout: float) -> list[Fetched]:
        fetched = self._reader.poll(timeout)
        self._polled_at = time.monotonic()
        self._starts.unread(fetched)
        self.intake.add(fetched)
        return fetched

    def _poll_paused(self, seconds: float) -> None:
        """Leave the store alone for a while, polling all the same."""
        until = time.monotonic() + seconds
        while True:
            if self._failure:
                self._control.report(State.RETRYING, self._failure)
            self._reader.pause(list(self._reader.position()))  # in each round: partitions may come meanwhile
            self._poll(max(0.0, min(until - time.monotonic(), POLL_SECONDS)))
            if self._control.stopping() or time.monotonic() >= until:
                break
        self._reader.resume(list(self._reader.position()))

    def _write(self) -> None:
        while batches := self._batches():
            faults.reach("delivery.before_write")
            if rejected := self._sink.write(batches, self._starts.topic_ids):
                self._look_ahead(rejected, batches)
                continue
            for batch in batches:
                self._passed.pop(TopicPartition(*batch[:2]), None)
            faults.reach("delivery.after_write")
            break

    def _batches(self) -> list[Batch]:
        """What is to be written now."""
        brought = (history if self._sink.every_change else reduce)(self.intake.batch, self._tables.schema)
        if self._replaced:
            brought = [batch._replace(rows=self._needed(batch)) for batch in brought]
        if self._sink.owns_offsets:
            self._passed.update({TopicPartition(*batch[:2]): batch.next_offset for batch in brought})
        return [batch for batch in brought if self._matters(batch)]

    def _needed(self, batch: Batch) -> list[Row]:
        place = TopicPartition(*batch[:2])
        return [row for row in batch.rows if (place, row.offset) not in self._replaced]

    def _look_ahead(self, rejected: Sequence[Rejected], batches: Sequence[Batch]) -> None:
        """Pass over the rejected rows if later records replace them, as if these were of the same batch. Raises
        PermanentError when one is needed: nothing replaces it, or the store keeps every change."""
        if self._sink.every_change:
            raise self._refused(rejected)
        logger.info("delivery.looking_ahead", sink=self._name, rejected=len(rejected))
        refused = {(TopicPartition(one.topic, one.partition), one.key): one for one in rejected}
        sought: ahead.Sought = {}
        for batch in batches:
            place = TopicPartition(*batch[:2])
            keys = {row.key: row.version for row in batch.rows if (place, row.key) in refused}
            if keys:
                sought[place] = ahead.Refused(batch.next_offset, keys)
        found = ahead.replaced(self._log, sought, self._poll_on)
        if needed := [one for which, one in refused.items() if which not in found]:
            if self._control.stopping():
                raise TransientError("stopped while looking ahead for what replaces rejected rows")
            raise self._refused(needed)
        logger.warning("delivery.replaced_rows_passed_over", sink=self._name, rejected=len(rejected))
        self._replaced |= {(place, one.offset) for (place, _), one in refused.items()}

    def _poll_on(self) -> bool:
        """Poll, or the group would put us out; whether to go on with what takes so long."""
        if time.monotonic() - self._polled_at > POLL_EVERY_SECONDS:
            self._poll_paused(0)
        return not self._control.stopping()

    def _matters(self, batch: Batch) -> bool:
        """Whether a batch brings the store anything: of offsets, only the first, and only where the sink keeps them."""
        if batch.rows or batch.floor:
            return True
        return self._sink.owns_offsets and self._starts.fresh(TopicPartition(batch.topic, batch.partition))

    def _failed(self, attempt: RetryCallState) -> None:
        error = attempt.outcome.exception() if attempt.outcome else None
        assert isinstance(error, TransientError)
        pause = round(attempt.upcoming_sleep, 1)
        logger.warning("delivery.retrying", sink=self._name, error=str(error.args[0]), again_in=pause)
        self._failure = redact(str(error))

    def _refused(self, rejected: Sequence[Rejected]) -> PermanentError:
        first = rejected[0]
        more = f" (and {len(rejected) - 1} more rows)" if len(rejected) > 1 else ""
        again = f"start the sink again: cdc run --only sink/{self._name}"
        left_out = f"'!{self._tables.name(first.topic)}' in `tables` of the sink leaves the table out"
        hint = f"mend or delete the row in the database, and once that is captured, {again}; or {left_out}"
        if self._sink.every_change:
            hint = f"this sink keeps every change, so mending the row does not help; {left_out}, then {again}"
        return PermanentError(
            f"sink {self._name!r}: the store will never take record {first.offset} in partition {first.partition} of "
            f"topic {first.topic!r}, key {key_hash(first.key)}{more}: {first.reason}",
            hint=hint,
        )
