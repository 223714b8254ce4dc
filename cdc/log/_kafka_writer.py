"""The Kafka log's writer: one transaction per append, in it the records and the position."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cdc.errors import CdcError, TransientError
from cdc.log import LogWriter, Produced
from cdc.log._kafka_client import KafkaConfig, error_of, explained, producer_settings
from cdc.log._kafka_prepared import Place, PreparedTopic
from cdc.record import HEADER
from schemas.table import TableSchema

FENCE_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 3.0
FULL_QUEUE_SECONDS: Final = 0.005
PRODUCERS: Final = 2
"""A transactional id cannot begin again before the markers of its last commit are written: librdkafka then waits 20 ms.
So two take turns. Order is safe: one begins after the other's records and decision are stored by the brokers, and
readers of committed records stop at the first open transaction."""


class _Marker(NamedTuple):
    """Goes to every partition of `topic`, after everything before it."""

    topic: str
    key: bytes
    header: bytes


class KafkaWriter(LogWriter):
    """Appends for one source, whose name is part of the transactional ids: Kafka lets one producer of an id live.

    librdkafka's transactions are those of before KIP-890: an end of transaction that was delayed on its way may end
    the *next* one. So whatever goes wrong between begin and commit, even if the commit then succeeds, makes this
    writer unusable (TransientError): the next one's `fence` puts an epoch between.
    """

    def __init__(
        self,
        config: KafkaConfig,
        transactional_id: str,
        source: str,
        positions: str,
        schemas: str,
        prepared: PreparedTopic,
        read_position: Callable[[], bytes | None],
    ) -> None:
        settings = {"transaction.timeout.ms": 30_000} | producer_settings(config) | {"error_cb": self._noticed}
        self._settings = [settings | {"transactional.id": f"{transactional_id}/{turn}"} for turn in range(PRODUCERS)]
        self._source = source
        self._positions = positions
        self._schemas = schemas
        self._prepared = prepared
        self._kept: dict[str, list[Place]] = {}
        self._kept_end = 0
        self._read_position = read_position
        self._producers: deque[Producer] = deque()
        self._open = False
        self._committing = False
        self._waiting: deque[_Marker | Produced] = deque()
        self._trouble: KafkaError | None = None

    def fence(self) -> bytes | None:
        deadline = time.monotonic() + FENCE_SECONDS
        self._producers.extend(map(Producer, self._settings))
        try:
            # Connected first: the client drops its first connection once it knows the brokers, and who takes over
            # meanwhile waits half a second. The second answer comes by the connection that stays.
            for _ in range(2):
                for producer in self._producers:
                    producer.list_topics(self._positions, max(deadline - time.monotonic(), 1.0))
            for producer in self._producers:
                producer.init_transactions(max(deadline - time.monotonic(), 1.0))
        except KafkaException as raised:
            error = error_of(raised)
            if error.retriable() and self._trouble is not None:
                error = self._trouble  # what kept it from being reached
            raise self._failed(error, "taking over the source's transactions") from raised
        self._kept = {transaction: [*places] for transaction, places in self._prepared.fenced(self._source).items()}
        return self._read_position()

    def append(self, records: Sequence[Produced], timeout: float) -> int:
        deadline = time.monotonic() + timeout
        producer = self._begun()
        if not self._append_waiting(producer, timeout):
            return 0
        produce = producer.produce
        taken = 0
        while True:
            try:
                for topic, key, value, header in islice(records, taken, None):
                    # By position: the names of eight arguments cost a third of the call.
                    produce(topic, value, key, -1, None, None, 0, [(HEADER, header)])
                    taken += 1
            except BufferError:
                self._serve(producer, FULL_QUEUE_SECONDS)
                if time.monotonic() < deadline:
                    continue
            except KafkaException as raised:
                raise self._failed(error_of(raised), "appending") from raised
            self._serve(producer)
            return taken

    def append_marker(self, topic: str, key: bytes, header: bytes) -> None:
        self._begun()
        self._waiting.append(_Marker(topic, key, header))

    def append_schema(self, schema: TableSchema) -> None:
        self._begun()
        self._waiting.append(Produced(self._schemas, schema.id, schema.to_json(), b""))

    def append_prepared(self, transaction: str, part: bytes, timeout: float) -> bool:
        if not self._append_waiting(self._begun(), timeout):
            return False
        places = self._kept.setdefault(transaction, [])
        number = places[-1].part + 1 if places else 0
        for place, record in self._prepared.pieces(self._source, transaction, number, part):
            places.append(place)
            self._waiting.append(record)
        return True

    def forget_prepared(self, transaction: str) -> None:
        self._begun()
        places = self._kept.pop(transaction, [])
        self._waiting.extend(self._prepared.tombstones(self._source, transaction, places))

    def commit(self, position: bytes, timeout: float) -> bool:
        producer = self._begun()
        if not self._append_waiting(producer, timeout):
            return False
        try:
            if not self._committing:
                producer.produce(self._positions, position, self._source.encode())
                self._committing = True
            producer.commit_transaction(timeout)
        except BufferError:
            self._serve(producer, FULL_QUEUE_SECONDS)
            return False
        except KafkaException as raised:
            error = error_of(raised)
            if error.retriable() and not error.txn_requires_abort():
                self._serve(producer)
                return False
            raise self._failed(error, "committing") from raised
        self._serve(producer)
        self._open = self._committing = False
        if self._kept_end:
            self._prepared.committed(self._source, self._kept_end)
            self._kept_end = 0
        return True

    def close(self) -> None:
        producers, self._producers = self._producers, deque()
        self._waiting.clear()
        if self._open:
            # An append that stays open would hold up the readers of its partitions until it times out.
            with contextlib.suppress(KafkaException):
                producers[0].abort_transaction(CLOSE_SECONDS)
        self._open = self._committing = False

    def _begun(self) -> Producer:
        """The producer whose turn it is, in a transaction."""
        if self._open:
            return self._producers[0]
        if not self._producers:
            raise TransientError("Kafka: this writer is closed", hint="open a new one")
        for producer in self._producers:
            self._serve(producer)
        self._trouble = None  # what happened between transactions, an idle connection closed say, is of no account
        self._producers.rotate()
        try:
            self._producers[0].begin_transaction()
        except KafkaException as raised:
            raise self._failed(error_of(raised), "beginning an append") from raised
        self._open = True
        return self._producers[0]

    def _append_waiting(self, producer: Producer, timeout: float) -> bool:
        """Append the markers, schemas and prepared parts that wait. False: not all of them yet.

        A record with an explicit partition can overtake one whose partition the client still has to find out. So the
        queue is empty before a marker, and again after it.
        """
        try:
            while self._waiting:
                first = self._waiting[0]
                if isinstance(first, Produced):
                    noted = self._note_end if first.topic == self._prepared.name else None
                    producer.produce(first.topic, first.value, first.key, on_delivery=noted)
                elif producer.flush(timeout):
                    return False
                else:
                    self._append_marker(producer, first, timeout)
                self._waiting.popleft()
        except BufferError:
            self._serve(producer, FULL_QUEUE_SECONDS)
            return False
        except KafkaException as raised:
            raise self._failed(error_of(raised), "appending a marker") from raised
        return True

    def _append_marker(self, producer: Producer, marker: _Marker, timeout: float) -> None:
        topic = producer.list_topics(marker.topic, timeout).topics[marker.topic]
        if topic.error is not None:
            raise self._failed(topic.error, f"finding the partitions of {marker.topic}")
        for partition in topic.partitions:
            producer.produce(marker.topic, b"", marker.key, partition, headers=[(HEADER, marker.header)])
        if producer.flush(timeout):
            raise self._lost(TransientError("Kafka: markers were not taken in time", hint="it is tried again"))

    def _serve(self, producer: Producer, seconds: float = 0) -> None:
        """Let the client report what happened, and wait so long for something to happen."""
        try:
            producer.poll(seconds)
        except KafkaException as raised:
            raise self._failed(error_of(raised), "appending") from raised
        if self._open and self._trouble is not None:
            raise self._failed(self._trouble, "appending")

    def _note_end(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._kept_end = max(self._kept_end, message.offset() + 1)

    def _noticed(self, error: KafkaError) -> None:
        self._trouble = error

    def _failed(self, error: KafkaError, doing: str) -> CdcError:
        """The writer is unusable from here on; what became of the append, the next writer's `fence` tells."""
        if error.code() == KafkaError._FATAL and self._producers:
            try:
                self._producers[0].poll(0.1)  # the reason comes by another way
                error = self._trouble or error
            except KafkaException as raised:
                error = error_of(raised)
        return self._lost(explained(error, doing, otherwise=TransientError))

    def _lost(self, error: CdcError) -> CdcError:
        self.close()
        return error
